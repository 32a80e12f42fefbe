"""Two processes train what one trains; and when one of them breaks, all end alike."""

import json
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ranks_target import FAR_LONG, RUNS, TOKENIZER, to_the_middle, trained
from tiny import newest, random_autoencoder, tiny_episodes, tiny_latents

from nextframe.journal import read_log
from nextframe.ranks import Share
from nextframe.recipes import train_preset

HERE = Path(__file__).parent
pytestmark = pytest.mark.timeout(1200)
DECODER = replace(
    TOKENIZER, frame_size=16, latent_channels=3, encoder_channels=(6, 12, 12), decoder_channels=(6, 12, 12)
)
TOLD = ("gradient_norm", "weight_norm", "average_distance", "held_out_loss", "loss_at_0.5", "l1", "discriminator_loss")
"""Beside the loss, where it is told."""


def target(folder: Path, *launcher: str) -> str:
    """What it says."""
    command = [sys.executable, *launcher, str(HERE / "ranks_target.py"), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents and footage, what one process trains on them, and what two do."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tiny_latents(folder / "latents")
    index = folder / "latents" / "latents.json"
    held_out = json.loads(index.read_text())
    held_out["episodes"][-1]["split"] = "test"
    index.write_text(json.dumps(held_out))
    random_autoencoder(folder / "latents", DECODER)
    tiny_episodes(folder / "footage", split="train")
    for name, config in RUNS.items():
        trained(config, folder, f"{name}-alone")
    for name in ("replicated", "sharded"):
        train_preset(to_the_middle(FAR_LONG), folder / "latents", folder / f"from-one-to-two-{name}")
    said = target(folder, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert "find_unused_parameters" not in said and "FutureWarning" not in said  # warnings of DDP's
    return folder


def assert_equal_runs(one: Path, other: Path, tolerance: float) -> None:
    first, second = read_log(one), read_log(other)
    assert len(first) == len(second) and first[-1].keys() == second[-1].keys()
    for name in ("loss", *TOLD):
        both = [(a[name], b[name]) for a, b in zip(first, second, strict=True) if name in a and name in b]
        ours, theirs = zip(*both, strict=True) if both else ((), ())
        # What is added up is far larger than what is told, or AdamW has made more of a rounding error.
        assert ours == pytest.approx(theirs, abs=tolerance, rel=tolerance if name == "loss" else 10 * tolerance), name
    states = newest(one), newest(other)
    assert states[0] is not None and states[1] is not None and states[0].position.step == states[1].position.step
    for part in ("weights", "average", "optimizer"):
        first, second = (getattr(state, part) for state in states)
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(first[name], second[name], atol=tolerance, rtol=tolerance, msg=f"{part} {name}")


@pytest.mark.parametrize("how", ["replicated", "sharded"])
@pytest.mark.parametrize("name", RUNS)
def test_two_train_what_one_trains(folder: Path, name: str, how: str) -> None:
    assert_equal_runs(folder / f"{name}-alone", folder / f"{name}-{how}", 1e-6)


@pytest.mark.parametrize("how", ["replicated", "sharded"])
def test_a_run_goes_on_in_another_number_of_processes(folder: Path, how: str) -> None:
    assert_equal_runs(folder / "long-alone", folder / f"from-one-to-two-{how}", 1e-6)
    train_preset(FAR_LONG, folder / "latents", folder / f"from-two-to-one-{how}")
    assert_equal_runs(folder / "long-alone", folder / f"from-two-to-one-{how}", 1e-6)


@pytest.mark.parametrize("how", ["replicated", "sharded"])
def test_a_run_goes_on_in_as_many_processes_to_the_bit(folder: Path, how: str) -> None:
    assert_equal_runs(folder / f"long-{how}", folder / f"two-{how}", 0)


def test_in_pieces_then_replicated_then_alone(folder: Path) -> None:
    train_preset(FAR_LONG, folder / "latents", folder / "chain")
    assert_equal_runs(folder / "long-alone", folder / "chain", 1e-6)


def test_all_go_on_from_before_a_damaged_piece(folder: Path) -> None:
    assert {path.name for path in (folder / "flipped" / "checkpoints").iterdir()} == {
        "00000002",
        "00000004",
        "damaged-00000003",
    }
    assert_equal_runs(folder / "long-sharded", folder / "flipped", 0)


def test_a_full_disk_of_one_ends_both(folder: Path) -> None:
    for rank in range(2):
        assert "No space left on device): free some space" in (folder / f"full-{rank}").read_text()
    assert list((folder / "full" / "checkpoints").iterdir()) == []


def test_one_writes_and_all_refuse(folder: Path) -> None:
    assert len(list((folder / "far-replicated" / "tensorboard").glob("*"))) <= 1
    for rank in range(2):
        assert "2 processes cannot divide a batch of 5 in 1 parts" in (folder / f"refused-{rank}").read_text()
    assert not (folder / "odd").exists()


def test_a_step_that_one_of_them_breaks_is_skipped_by_both(folder: Path) -> None:
    """And when one of them is asked to stop, both do, after the same step."""
    assert all((folder / f"stopped-{rank}").exists() for rank in range(2))
    records = [json.loads(line) for line in (folder / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["skipped"]] == [3, 5]
    assert [record["step"] for record in records if "loss" not in record] == [3, 5]
    state = newest(folder / "broken")
    assert state is not None and state.position.step == len(records) >= 5
    assert all(weight.isfinite().all() for weight in (state.weights | state.average | state.optimizer).values())
    steps = {value.item() for name, value in state.optimizer.items() if name.endswith("/step")}
    assert steps == {len(records) - 2}


def test_a_process_that_goes_or_sleeps_ends_the_other_with_a_line(folder: Path) -> None:
    said = target(folder)
    assert "another of the 2 processes has gone: see what it said" in (folder / "gone-0").read_text()
    assert "another of the 2 processes did not answer for 12 s" in (folder / "silent-0").read_text()
    # The one that slept, and no other, says where it stood.
    assert said.count("Timeout (") == 1 and re.search(r'ranks_target\.py", line \d+ in update', said)


def test_an_error_of_all_is_said_once(tmp_path: Path) -> None:
    """Before they have joined; what one alone finds is said too."""
    script = (
        "import os, pathlib, sys, time, torch; from nextframe import cli\n"
        "from nextframe.errors import UserError\n"
        "def fail(rest):\n"
        "    here = pathlib.Path(__file__).parent; (here / f'{rest[0]}-{os.environ[\"RANK\"]}').touch()\n"
        "    while len(list(here.glob(f'{rest[0]}-*'))) < 2: time.sleep(0.01)\n"
        "    raise UserError('all alike' if rest == ['alike'] else f'of rank {os.environ[\"RANK\"]}')\n"
        "cli.VERBS['train'] = cli.Verb(fail, raw=True); sys.argv[1:] = ['train', sys.argv[1]]; cli.main()"
    )
    (tmp_path / "fail.py").write_text(script)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for word, said in (("alike", ["all alike"]), ("other", ["of rank 0", "of rank 1"])):
        command = [*launcher, str(tmp_path / "fail.py"), word]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=100)
        lines = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
        assert sorted(lines) == [f"error: {text}" for text in said], ran.stderr


def test_an_error_is_one_write() -> None:
    """Or those of two processes, unbuffered as torchrun starts them, may end up in one line."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-u", "-c", "from nextframe.cli import main; main()", "fly"]
    with ours, theirs:
        assert subprocess.run(command, stderr=theirs.fileno(), cwd=HERE.parent, timeout=100).returncode == 2
        said = ours.recv(4096).decode()
    assert said.startswith("error: ") and said.endswith("\n"), said


def test_shares_are_all_of_a_batch_and_parts_stay_together() -> None:
    shares = [Share(rank, 2, parts=3).numbers(12) for rank in range(2)]
    assert shares == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]
    assert Share().numbers(5) == [0, 1, 2, 3, 4]
