"""Recording, importing and encoding that are killed at random moments: tests/stress_verbs.py VERB FOLDER KILLS.

Each life is forked from this process, which has imported everything, and is ended by SIGKILL or SIGTERM in turn, or
loses one of its workers. FOLDER/temporary is what the lives take for the machine's folder of temporary files.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from recording import processes_naming
from tiny import tiny_episodes, tiny_run

from nextframe import encode as encoding
from nextframe.cli import _interrupt
from nextframe.data.video import lossless_mp4
from nextframe.errors import UserError
from nextframe.import_footage import USUAL_CUT, import_footage
from nextframe.worlds.maze.record import MazeSettings, record_maze

EPISODES = 6


def prepare(folder: Path) -> None:
    """What is imported and encoded."""
    noise = torch.Generator().manual_seed(0)
    for number in range(EPISODES):
        path = folder / "videos" / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        video = torch.randint(0, 256, (60, 64, 64, 3), dtype=torch.uint8, generator=noise)
        path.write_bytes(lossless_mp4(video.numpy(), 10.0))
    tiny_episodes(folder / "footage", 24, 40)
    tiny_run(folder / "run")


def record(folder: Path, out: Path) -> None:
    record_maze(out, EPISODES, settings=MazeSettings(frames=40), workers=2)


def import_videos(folder: Path, out: Path) -> None:
    import_footage(folder / "videos", out, 64, USUAL_CUT, workers=2)


def encode(folder: Path, out: Path, devices: str = "cpu") -> None:
    encoding.EPISODES_PER_SHARD = 2
    encoding.encode(folder / "run" / "autoencoder", folder / "footage", out, devices)


VERBS: dict[str, Callable[[Path, Path], None]] = {
    "record": record,
    "import": import_videos,
    "encode": encode,
    "encode on two devices": lambda folder, out: encode(folder, out, "cpu,cpu"),
}


def life(verb: str, folder: Path, out: Path) -> int:
    """A process that does it all; 0 done, 2 ended with a line, 130 asked to end, 1 anything else."""
    if (child := os.fork()) == 0:
        status = 1
        try:
            signal.signal(signal.SIGTERM, _interrupt)
            torch.set_num_threads(1)
            VERBS[verb](folder, out)
            status = 0
        except UserError:
            status = 2
        except KeyboardInterrupt:
            status = 130
        finally:
            os._exit(status)
    return child


def running() -> dict[int, int]:
    """Processes that have not ended, and who started them."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found[int(entry.parent.name)] = int(parent)
    return found


def children(parent: int) -> set[int]:
    return {child for child, other in running().items() if other == parent}


def assert_nothing_is_left(folder: Path, worked: set[int]) -> None:
    """No temporary file, and no process that a life had started."""
    deadline = time.monotonic() + 30
    while left := [*worked & running().keys(), *processes_naming(str(folder / "temporary"))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    assert list((folder / "temporary").iterdir()) == []


def kill(verb: str, folder: Path, kills: int, longest: float) -> int:
    """Do it to its end, with `kills` kills on the way, after at most `longest` seconds; returns how many hit work."""
    chance, hit, number = random.Random(1), 0, 0
    while True:
        child = life(verb, folder, folder / "killed")
        worked: set[int] = set()
        if number < kills:
            until = time.monotonic() + chance.uniform(0.02, longest)
            while time.monotonic() < until:
                worked |= children(child)
                time.sleep(0.02)
            workers = sorted(children(child))
            how = ("SIGKILL", "SIGTERM", "a worker")[number % 3]
            victim = chance.choice(workers) if how == "a worker" and workers else child
            os.kill(victim, signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        number += 1
        assert_nothing_is_left(folder, worked)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            if number > kills:
                return hit
            # It was done before it was hit: all is done anew, and sooner hit.
            (folder / "killed").rename(Path(tempfile.mkdtemp(dir=folder, prefix="done-")) / "out")
            longest *= 0.7
            continue
        assert code in (-signal.SIGKILL, 2, 130, -signal.SIGTERM), f"a life ended with {code}"
        hit += 1


if __name__ == "__main__":
    verb, folder, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    prepare(folder)
    (folder / "temporary").mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "temporary")
    started = time.monotonic()
    child = life(verb, folder, folder / "undisturbed")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    print(kill(verb, folder, kills, time.monotonic() - started))
