"""Recording, importing and encoding, killed again and again: they go on, and the end is that of the undisturbed one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LONG = (pytest.mark.slow, pytest.mark.timeout(3600))
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    one, other = (
        {
            entry["name"]: entry["psnr"]
            for entry in json.loads((tmp_path / name / "latents.json").read_text())["episodes"]
        }
        for name in ("killed", "undisturbed")
    )
    assert one == other and not list((tmp_path / "killed").glob(".nextframe*"))


def killed(verb: str, kills: int, folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    command = [sys.executable, str(HERE / "stress_verbs.py"), verb, str(folder), str(kills)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout.splitlines()[-1]) >= 1  # what hit nothing shows nothing
