"""Recording, importing and encoding, killed again and again: they go on, and the end is that of the undisturbed one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
LONG = (pytest.mark.slow, pytest.mark.timeout(3600))
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file; of latents every tensor, and what the index says of each episode: a stop makes a shard shorter."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if (folder / "latents.json").exists():
        index = json.loads(found.pop("latents.json"))
        listed = {episode.pop("name"): (episode.pop("shard"), episode) for episode in index.pop("episodes")}
        assert {shard for shard, _ in listed.values()} == index.pop("shards").keys()
        found["index"] = json.dumps([index, {name: listed[name][1] for name in sorted(listed)}]).encode()
        for shard in {shard for shard, _ in listed.values()}:
            del found[shard]
            found |= {
                name: x.contiguous().view(torch.uint8).numpy().tobytes()
                for name, x in load_file(folder / shard).items()
            }
    return found


@LINUX
@pytest.mark.parametrize(
    ("verb", "kills"), [("encode", 2), *(pytest.param(verb, 20, marks=LONG) for verb in ("encode", "import", "record"))]
)
def test_what_is_killed_ends_as_if_it_had_not_been(verb: str, kills: int, tmp_path: Path) -> None:
    killed(verb, kills, tmp_path)
    assert tree(tmp_path / "killed") == tree(tmp_path / "undisturbed")


@LINUX
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_devices_side_by_side(tmp_path: Path) -> None:
    """Their shards come in any order."""
    killed("encode on two devices", 9, tmp_path)
    assert tree(tmp_path / "killed") == tree(tmp_path / "undisturbed")


def killed(verb: str, kills: int, folder: Path) -> None:
    command = [sys.executable, str(HERE / "stress_verbs.py"), verb, str(folder), str(kills)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout.splitlines()[-1]) >= 1  # what hit nothing shows nothing
