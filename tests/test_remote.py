"""Footage and latents in object storage: fetched when they are read, once, and never out of date."""

from pathlib import Path

import fsspec
import numpy as np
import pytest
from tiny import tiny_episodes, tiny_latents

from nextframe.data import remote
from nextframe.data.episodes import EpisodeDataset
from nextframe.data.latents import LatentDataset
from nextframe.errors import UserError
from nextframe.files import CACHE, address_of, sole_writer

MEMORY = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    MEMORY.rm("/", recursive=True) if MEMORY.ls("/") else None
    return tmp_path / "cache"


def fetched(cache: Path, suffix: str) -> int:
    return len(list(cache.rglob(f"*{suffix}")))


def test_footage_is_fetched_as_it_is_read(tmp_path: Path, cache: Path) -> None:
    here = tiny_episodes(tmp_path / "data", count=3)
    MEMORY.put(str(here.folder), "/bucket/data", recursive=True)
    # As it comes from the command line, and as it is written.
    for address in (Path("memory://bucket/data"), "memory://bucket/data/"):
        there = EpisodeDataset.open(address)  # type: ignore[arg-type]
        info = there.episodes()[1]
        np.testing.assert_array_equal(there.read(info).video, here.read(here.episodes()[1]).video)
        there.verify(info)
        assert fetched(cache, ".mp4") == 1  # not the others, and not again
    MEMORY.rm("/bucket/data/test/test_2.mp4")
    with pytest.raises(UserError, match=r"memory://bucket/data/test/test_2.mp4 cannot be fetched"):
        there.read(there.episodes()[2])
    assert not list(cache.rglob(".nextframe*"))


def test_newer_footage_is_fetched_anew(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    for frames in (10, 12, 14):
        here = tiny_episodes(tmp_path / f"data{frames}", count=2, frames=frames)
        MEMORY.rm("/bucket", recursive=True) if MEMORY.exists("/bucket") else None
        MEMORY.put(str(here.folder), "/bucket/data", recursive=True)
        there = EpisodeDataset.open(Path("memory://bucket/data"))
        np.testing.assert_array_equal(there.read(there.episodes()[0]).video, here.read(here.episodes()[0]).video)
        opened.append(there)
    # Who opened an older state reads what it has of it, and never takes a newer file for one of its own.
    old = opened[0]
    assert fetched(cache, ".mp4") == 3 and len(old.read(old.episodes()[0]).video) == 10
    with pytest.raises(UserError, match="not the file that its index lists"):
        old.read(old.episodes()[1])
    monkeypatch.setattr(remote, "KEPT_SECONDS", -1)
    EpisodeDataset.open(Path("memory://bucket/data"))
    assert fetched(cache, ".mp4") == 1


def test_latents_come_with_their_autoencoder(tmp_path: Path, cache: Path) -> None:
    here = tiny_latents(tmp_path / "latents")
    (here.folder / "autoencoder").mkdir(exist_ok=True)
    (here.folder / "autoencoder/config.yaml").write_text("kind: none")
    MEMORY.put(str(here.folder), "/bucket/latents", recursive=True)
    there = LatentDataset(Path("memory://bucket/latents"))
    assert (there.folder / "autoencoder/config.yaml").read_text() == "kind: none" and not fetched(cache, ".safetensors")
    episode = there.episodes("train")[0]
    assert there.latents(episode, 1, 3).equal(here.latents(episode, 1, 3)) and fetched(cache, ".safetensors") == 1


def test_a_path_may_make_one_slash_of_two() -> None:
    for address in ("file:///a/b/", "s3://bucket/a"):
        assert address_of(Path(address)) == address_of(address) == address.rstrip("/")


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    for address, said in (("memory://gone/data", "cannot be fetched"), ("nosuch://x/y", "nosuch")):
        with pytest.raises(UserError, match=said) as refused:
            EpisodeDataset.open(Path(address))
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="choose a folder here"), sole_writer(Path("s3://bucket/out")):
        pass
    assert not Path("s3:").exists()
