"""A disk that is full, a real one: a line says so, nothing half-written is taken for whole, and with more room the
same command goes on."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from os import posix_fallocate, truncate
from pathlib import Path
from typing import Any

import pytest
from ranks_target import FAR_LONG
from recording import tree
from test_train import losses
from tiny import newest, tiny_episodes, tiny_latents, tiny_run

from nextframe import encode as encoding
from nextframe.errors import UserError
from nextframe.evaluate import evaluate
from nextframe.files import TEMPORARY
from nextframe.protocol import Protocol
from nextframe.recipes import train_preset
from nextframe.worlds.maze.record import MazeSettings, record_maze

SIZE = 8 * 2**20
SHARES = (0.0, 0.1, 0.5, 0.9)
"""Of the room that is needed in the end: what there is, in turn."""


class Disk:
    """One of `SIZE` bytes, filled by a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._ballast = folder, folder / "ballast"
        with self._ballast.open("wb") as file:
            posix_fallocate(file.fileno(), 0, SIZE)

    def leave(self, room: int) -> None:
        """Never less than before."""
        truncate(self._ballast, SIZE - room)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux":
        pytest.skip("a disk in memory is mounted as Linux does it")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def train(folder: Path, out: Path) -> Any:
    """A checkpoint after every step."""
    if not (folder / "latents").exists():
        tiny_latents(folder / "latents")
        run = tiny_run(folder / "run")
        (run / "autoencoder").rename(folder / "latents" / "autoencoder")
    config = replace(FAR_LONG, train=replace(FAR_LONG.train, checkpoint_minutes=0.0))
    train_preset(config, folder / "latents", out)
    state = newest(out)
    assert state is not None
    return losses(out), {name: weight.tolist() for name, weight in state.weights.items()}


def encode(folder: Path, out: Path) -> Any:
    if not (folder / "run").exists():
        tiny_run(folder / "run")
        tiny_episodes(folder / "footage", 6)
    encoding.encode(folder / "run" / "autoencoder", folder / "footage", out, "cpu")
    return tree(out)


def record(folder: Path, out: Path) -> Any:
    record_maze(out, 3, settings=MazeSettings(frames=20), workers=1)
    return tree(out)


def predict(folder: Path, out: Path) -> Any:
    if not (folder / "run").exists():
        tiny_run(folder / "run")
        tiny_episodes(folder / "footage")
    protocol = Protocol(context=5, frames=3, episodes=3, split="test")
    return evaluate(protocol, folder / "run", folder / "footage", out, "cpu", batch=1).scores


@pytest.mark.parametrize(
    "verb", [train, *(pytest.param(verb, marks=pytest.mark.slow) for verb in (encode, record, predict))]
)
def test_a_full_disk(
    verb: Callable[[Path, Path], Any], disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "EPISODES_PER_SHARD", 2)
    out, undisturbed = disk.folder / "out", tmp_path / "undisturbed"
    wanted = verb(tmp_path, undisturbed)
    needed = sum(-(-len(content) // 4096) * 4096 for content in tree(undisturbed).values())
    assert needed < SIZE / 2
    for share in SHARES:
        disk.leave(int(share * needed))
        with pytest.raises(UserError) as caught:
            verb(tmp_path, out)
        said = str(caught.value)
        assert said.startswith(str(out)) and "\n" not in said
        assert said.endswith("(No space left on device): free some space and run the same command again")
        assert not list(out.rglob(f"{TEMPORARY}*"))
    disk.leave(SIZE)
    assert verb(tmp_path, out) == wanted
