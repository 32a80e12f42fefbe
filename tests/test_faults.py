"""What breaks in training, caused: losses that are no number, kills at any moment, damaged files, a full disk."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import stress
import torch
from ranks_target import FAR_LONG, JUDGED, TOKENIZER
from test_train import losses
from tiny import tiny_episodes, tiny_latents

from nextframe.autoencoder import Autoencoder
from nextframe.checkpoint import AUTOENCODER, CONFIG, SUMS, WEIGHTS, checkpoints, newest_checkpoint, write_weights
from nextframe.config import TokenizerConfig
from nextframe.configfile import write_config
from nextframe.errors import UserError
from nextframe.learner import Learner
from nextframe.objective import Inputs
from nextframe.recipes import train_preset

HERE = Path(__file__).parent
TWO_CHECKPOINTS = replace(FAR_LONG, train=replace(FAR_LONG.train, checkpoint_minutes=0.0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With latents."""
    tiny_latents(tmp_path / "latents")
    write_config(TokenizerConfig(model=TOKENIZER), tmp_path / "latents" / AUTOENCODER / CONFIG)
    write_weights(tmp_path / "latents" / AUTOENCODER / WEIGHTS, Autoencoder(TOKENIZER).state_dict())
    return tmp_path


def break_steps(monkeypatch: pytest.MonkeyPatch, name: str, *steps: int) -> None:
    """Put an infinity into an input of these steps."""
    plain = Learner.inputs

    def inputs(self: Learner, step: int) -> Inputs:
        made = plain(self, step)
        if step in steps:
            made[name] = made[name].clone()
            made[name][0, 0] = float("inf")
        return made

    monkeypatch.setattr(Learner, "inputs", inputs)


def test_a_broken_step_moves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(FAR_LONG, train=replace(FAR_LONG.train, steps=3))
    train_preset(config, folder / "latents", folder / "run")
    before = newest_checkpoint(folder / "run")
    break_steps(monkeypatch, "target", 3, 4)
    longer = replace(config, train=replace(config.train, steps=5))
    train_preset(longer, folder / "latents", folder / "run")
    after = newest_checkpoint(folder / "run")
    assert before is not None and after is not None and after.position.step == 5
    for part in ("weights", "average", "optimizer"):
        ours, theirs = getattr(before, part), getattr(after, part)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs), part
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["skipped"] for record in records] == [0, 0, 0, 1, 1]
    assert ["loss" in record for record in records] == [True, True, True, False, False]


def test_a_broken_step_leaves_no_trace_in_batch_norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are moved by the forward pass already."""
    footage = tiny_episodes(tmp_path / "footage", split="train").folder
    assert isinstance(JUDGED, TokenizerConfig)
    config = replace(JUDGED, train=replace(JUDGED.train, steps=2))
    break_steps(monkeypatch, "noise", 1)
    train_preset(config, footage, tmp_path / "run")
    state = newest_checkpoint(tmp_path / "run")
    assert state is not None and any("running_var" in name for name in state.weights)
    for part in (state.weights, state.average, state.optimizer):
        assert all(tensor.isfinite().all() for tensor in part.values())
    assert {tensor.item() for name, tensor in state.weights.items() if name.endswith("num_batches_tracked")} == {2}


def two_checkpoints(folder: Path) -> list[Path]:
    train_preset(TWO_CHECKPOINTS, folder / "latents", folder / "run")
    found = checkpoints(folder / "run")
    assert [path.name for path in found] == ["00000003", "00000004"]
    return found


@pytest.mark.parametrize("file", ["weights.safetensors", "average.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["cut short", "one bit", "gone"])
def test_the_newest_whole_checkpoint_is_gone_on_from(
    folder: Path, file: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newest = two_checkpoints(folder)
    before = {path: path.read_bytes() for path in (*newest.iterdir(), folder / "run" / WEIGHTS)}
    content = bytearray(before[newest / file])
    content[-len(content) // 3] ^= 4
    if how == "gone":
        (newest / file).unlink()
    else:
        (newest / file).write_bytes(content if how == "one bit" else content[:-3])
    curve = losses(folder / "run")
    capsys.readouterr()
    assert train_preset(TWO_CHECKPOINTS, folder / "latents", folder / "run").step == 4
    said = capsys.readouterr().err
    assert f"{newest / file} is damaged" in said and f"going on from {older}" in said
    # The last step was taken again, and all is as it was.
    assert losses(folder / "run") == curve
    assert all(path.read_bytes() == before[path] for path in before if path.name not in ("state.json", SUMS))
    assert newest.with_name(f"damaged-{newest.name}").is_dir()


def test_checkpoints_without_checksums_are_read(folder: Path) -> None:
    """Those of older versions."""
    for path in two_checkpoints(folder):
        (path / SUMS).unlink()
    state = newest_checkpoint(folder / "run")
    assert state is not None and state.position.step == 4


def test_a_full_disk_leaves_the_old_checkpoint_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_preset(FAR_LONG, folder / "latents", folder / "run")
    before = {path: path.read_bytes() for path in checkpoints(folder / "run")[0].iterdir()}
    plain = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if self.name == "optimizer.safetensors":
            plain(self, content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    longer = replace(FAR_LONG, train=replace(FAR_LONG.train, steps=6))
    with pytest.raises(UserError, match=r"No space left on device.*free some space and run the same command again"):
        train_preset(longer, folder / "latents", folder / "run")
    assert {path: path.read_bytes() for path in checkpoints(folder / "run")[0].iterdir()} == before
    assert [path.name for path in (folder / "run" / "checkpoints").iterdir()] == ["00000004"]
    monkeypatch.undo()
    assert train_preset(longer, folder / "latents", folder / "run").step == 6


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_whoever_gives_way_is_done_for_now(folder: Path, number: signal.Signals, status: int) -> None:
    """A SIGTERM is no failure: all is saved. Ctrl-C is one, to whoever waits for the command."""
    script = (
        "import sys, pathlib, stress, nextframe.cli as cli; from nextframe.recipes import train_preset\n"
        "folder, config = pathlib.Path(sys.argv[1]), stress.endless()\n"
        "cli.VERBS['train'] = cli.Verb(lambda rest: train_preset(config, folder / 'latents', folder / 'run'), True)\n"
        "sys.argv[1:] = ['train']; cli.main()"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    command = [sys.executable, "-c", script, str(folder)]
    for _ in range(2):  # the second goes on from the first
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        done = len(losses(folder / "run")) if (folder / "run" / "metrics.jsonl").exists() else 0
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
            if (folder / "run" / "metrics.jsonl").exists() and len(losses(folder / "run")) > done:
                process.send_signal(number)
                break
        _, said = process.communicate(timeout=60)
        assert process.returncode == status and "stopped; the same command goes on from here" in said, said
        state = newest_checkpoint(folder / "run")
        assert state is not None and state.position.step == len(losses(folder / "run")) > done


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=(pytest.mark.slow, pytest.mark.timeout(1200)))])
def test_killed_again_and_again_it_learns_the_same(folder: Path, kills: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    command = [sys.executable, str(HERE / "stress.py"), str(folder), str(kills)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= min(kills, 3)
    config = replace(FAR_LONG, train=replace(FAR_LONG.train, steps=stress.STEPS_PER_LIFE * (kills + 1)))
    torch.set_num_threads(1)
    train_preset(config, folder / "latents", folder / "undisturbed")
    assert losses(folder / "killed") == losses(folder / "undisturbed")
    one, other = newest_checkpoint(folder / "killed"), newest_checkpoint(folder / "undisturbed")
    assert one is not None and other is not None
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert not list((folder / "killed" / "checkpoints").glob("damaged-*"))
