"""What breaks in training, caused: losses that are no number, kills at any moment, damaged files, a full disk."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import stress
import torch
from ranks_target import FAR_LONG, JUDGED, TOKENIZER
from test_train import losses
from tiny import kept, newest, random_autoencoder, tiny_episodes, tiny_latents

from nextframe import cli
from nextframe.checkpoint import WEIGHTS, checkpoints
from nextframe.config import TokenizerConfig
from nextframe.errors import UserError
from nextframe.files import TEMPORARY
from nextframe.learner import Learner
from nextframe.objective import Inputs
from nextframe.pieces import POSITION, SUMS, Position, newest_checkpoint, write_checkpoint
from nextframe.recipes import train_preset
from nextframe.saver import saving
from nextframe.soundness import DATA, other_data

HERE = Path(__file__).parent
TWO_CHECKPOINTS = replace(FAR_LONG, train=replace(FAR_LONG.train, checkpoint_minutes=0.0))


def with_latents(folder: Path) -> Path:
    tiny_latents(folder / "latents")
    random_autoencoder(folder / "latents", TOKENIZER)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With latents."""
    return with_latents(tmp_path)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With latents, a run that was killed at each of the moments, and one that was not."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder = with_latents(tmp_path_factory.mktemp("killed"))
    stressed(folder, "moments")
    train_preset(FAR_LONG, folder / "latents", folder / "undisturbed")
    return folder


def stressed(folder: Path, how: str) -> str:
    command = [sys.executable, str(HERE / "stress.py"), str(folder), how]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


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
    before = newest(folder / "run")
    break_steps(monkeypatch, "target", 3, 4)
    longer = replace(config, train=replace(config.train, steps=5))
    train_preset(longer, folder / "latents", folder / "run")
    after = newest(folder / "run")
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
    state = newest(tmp_path / "run")
    assert state is not None and any("running_var" in name for name in state.weights)
    for part in (state.weights, state.average, state.optimizer):
        assert all(tensor.isfinite().all() for tensor in part.values())
    assert {tensor.item() for name, tensor in state.weights.items() if name.endswith("num_batches_tracked")} == {2}


def two_checkpoints(folder: Path) -> list[Path]:
    train_preset(TWO_CHECKPOINTS, folder / "latents", folder / "run")
    found = checkpoints(folder / "run")
    assert [path.name for path in found] == ["00000003", "00000004"]
    return found


FILES = [*(f"shard-00001-model-0000{part}-of-00003.safetensors" for part in (1, 2, 3)), POSITION, SUMS]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["cut short", "one bit", "gone"])
def test_the_newest_whole_checkpoint_is_gone_on_from(
    folder: Path, file: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = two_checkpoints(folder)
    before, weights = kept(newer), (folder / "run" / WEIGHTS).read_bytes()
    content = bytearray((newer / file).read_bytes())
    content[-len(content) // 3] ^= 4
    if how == "gone":
        (newer / file).unlink()
    else:
        (newer / file).write_bytes(content if how == "one bit" else content[:-3])
    curve = losses(folder / "run")
    capsys.readouterr()
    assert train_preset(TWO_CHECKPOINTS, folder / "latents", folder / "run").step == 4
    said = capsys.readouterr().err
    named = newer if file == SUMS else newer / file  # a sum that is wrong says that its file is
    assert f"checkpoint {named}" in said and f" is damaged: going on from {older}" in said
    # The last step was taken again, and all is as it was.
    assert losses(folder / "run") == curve
    after = kept(newer)
    for part in ("weights", "average", "optimizer"):
        ours, theirs = getattr(before, part), getattr(after, part)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs), part
    assert (folder / "run" / WEIGHTS).read_bytes() == weights
    assert newer.with_name(f"damaged-{newer.name}").is_dir()


@pytest.mark.parametrize("name", ["/dev/zero", "../elsewhere", "link", "."])
def test_sums_name_files_of_their_checkpoint_alone(folder: Path, name: str) -> None:
    older, newer = two_checkpoints(folder)
    (newer / "link").symlink_to("/dev/zero")
    sums = (newer / SUMS).read_text()
    (newer / SUMS).write_text(f"{'0' * 64}  {name}\n{sums}")
    found = newest_checkpoint(folder / "run")
    assert found is not None and found.path == older


@pytest.mark.parametrize("said", ["{}", "[3, 0.5]", '{"step": "many", "seconds": 0}', "[" * 100_000])
def test_a_whole_checkpoint_that_says_nonsense_is_named(folder: Path, said: str) -> None:
    _, newer = two_checkpoints(folder)
    sums = (newer / SUMS).read_text().splitlines()[:-1]
    (newer / POSITION).write_text(said)
    sums.append(f"{hashlib.sha256(said.encode()).hexdigest()}  {POSITION}")
    (newer / SUMS).write_text("\n".join(sums) + "\n")
    with pytest.raises(UserError, match=rf"{POSITION} is damaged .*: delete .*{newer.name}"):
        newest_checkpoint(folder / "run")


@pytest.mark.parametrize("said", ["{}", "[]", '{"sha256": "", "episodes": "many"}', "[" * 100_000])
def test_notes_on_the_data_that_say_nonsense_are_named(folder: Path, said: str) -> None:
    (folder / DATA).write_text(said)
    with pytest.raises(UserError, match=r"data\.json is damaged .*: delete it"):
        other_data(folder, [])


@pytest.mark.parametrize(("verb", "status"), [("train", None), ("encode", 130)])
def test_who_gives_way_before_it_begins_is_done_for_now_too(
    verb: str, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["nextframe", verb])
    monkeypatch.setattr(cli, "run_command", lambda _: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with nullcontext() if status is None else pytest.raises(SystemExit, match=str(status)):
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_is_saved_is_what_there_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on while it is written, and does not change it."""
    train_preset(replace(FAR_LONG, train=replace(FAR_LONG.train, steps=1)), folder / "latents", folder / "short")
    begun, go_on = threading.Event(), threading.Event()

    def write(*arguments: Any) -> None:
        begun.set()
        assert go_on.wait(60)
        write_checkpoint(*arguments)

    def update(self: Learner, rate: float, step: int) -> torch.Tensor:
        if step == 1:
            assert begun.wait(60)
        norm = plain(self, rate, step)
        if step == 1:
            go_on.set()
        return norm

    plain = Learner.update
    monkeypatch.setattr("nextframe.saver.write_checkpoint", write)
    monkeypatch.setattr(Learner, "update", update)
    train_preset(
        replace(TWO_CHECKPOINTS, train=replace(TWO_CHECKPOINTS.train, steps=2)), folder / "latents", folder / "run"
    )
    one, other = (kept(folder / run / "checkpoints" / "00000001") for run in ("short", "run"))
    for part in ("weights", "average", "optimizer"):
        ours, theirs = getattr(one, part), getattr(other, part)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs), part


@pytest.mark.parametrize("moment", stress.MOMENTS)
def test_killed_while_it_writes_it_goes_on_from_the_one_before(killed: Path, moment: str) -> None:
    run = killed / moment
    assert list((run / "checkpoints").glob(f"{TEMPORARY}*/*00001-of*")), "it was not killed where it should have been"
    state = newest(run)
    assert state is not None and state.position.step == 2
    train_preset(FAR_LONG, killed / "latents", run)
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["00000002", "00000004"]
    assert losses(run) == losses(killed / "undisturbed")
    assert (run / WEIGHTS).read_bytes() == (killed / "undisturbed" / WEIGHTS).read_bytes()


def test_a_full_disk_leaves_the_old_checkpoint_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_preset(FAR_LONG, folder / "latents", folder / "run")
    before = {path: path.read_bytes() for path in checkpoints(folder / "run")[0].iterdir()}
    plain = safetensors.torch.save

    def full(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
        if any(name.startswith("optimizer/") for name in tensors):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(tensors, metadata)

    monkeypatch.setattr(safetensors.torch, "save", full)
    endless = replace(FAR_LONG, train=replace(FAR_LONG.train, steps=10_000, checkpoint_minutes=0.0))
    with pytest.raises(UserError, match=r"No space left on device.*free some space and run the same command again"):
        train_preset(endless, folder / "latents", folder / "run")
    longer = replace(FAR_LONG, train=replace(FAR_LONG.train, steps=6))
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
    command = [sys.executable, "-c", script, str(folder)]
    for _ in range(2):  # the second goes on from the first
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        done = len(losses(folder / "run")) if (folder / "run" / "metrics.jsonl").exists() else 0
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
            if (folder / "run" / "metrics.jsonl").exists() and len(losses(folder / "run")) > done:
                process.send_signal(number)
                break
        _, said = process.communicate(timeout=60)
        assert process.returncode == status and "stopped; the same command goes on from here" in said, said
        state = newest(folder / "run")
        assert state is not None and state.position.step == len(losses(folder / "run")) > done


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=(pytest.mark.slow, pytest.mark.timeout(1200)))])
def test_killed_again_and_again_it_learns_the_same(folder: Path, kills: int) -> None:
    assert int(stressed(folder, str(kills))) == kills
    config = replace(FAR_LONG, train=replace(FAR_LONG.train, steps=stress.STEPS_PER_LIFE * (kills + 1)))
    torch.set_num_threads(1)
    train_preset(config, folder / "latents", folder / "undisturbed")
    assert losses(folder / "killed") == losses(folder / "undisturbed")
    one, other = newest(folder / "killed"), newest(folder / "undisturbed")
    assert one is not None and other is not None
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert not list((folder / "killed" / "checkpoints").glob("damaged-*"))


def test_a_last_checkpoint_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise UserError("no room: free some")

    monkeypatch.setattr("nextframe.saver.write_checkpoint", full)
    with pytest.raises(UserError, match="no room"), saving(tmp_path, Position(), torch.device("cpu")) as saver:
        saver.save({"weights": {"a": torch.zeros(1)}}, Position(1, 1.0))


def test_a_step_is_saved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr("nextframe.saver.write_checkpoint", lambda *given: written.append(given[2].step))
    with saving(tmp_path, Position(1, 1.0), torch.device("cpu")) as saver:
        for step in (1, 2, 2, 3):
            saver.save({"weights": {"a": torch.zeros(1)}}, Position(step, 1.0))
    assert written == [2, 3]
