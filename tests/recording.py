"""A recorder in a process of its own, to be killed; and what it may leave."""

import os
import subprocess
import sys
import time
from pathlib import Path

from nextframe.data.episodes import EpisodeDataset


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def processes_naming(word: str) -> dict[int, str]:
    """Command lines that contain a word, by process id. Engines and workers name their temporary folder."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if word in command:
            found[int(entry.name)] = command
    return found


class Recorder:
    """`nextframe record`, with a working directory and a temporary folder of its own."""

    def __init__(self, folder: Path, options: str) -> None:
        self.out, self.working, self.temporary = folder / "data", folder / "working", folder / "temporary"
        self.working.mkdir()
        self.temporary.mkdir()
        command = [sys.executable, "-m", "nextframe", "record", *options.split(), "--out", str(self.out)]
        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        self.process = subprocess.Popen(command, cwd=self.working, env=environment, stderr=subprocess.PIPE, text=True)

    def processes(self, word: str) -> list[int]:
        """Those that it has started whose command line has a word in it."""
        return [pid for pid, command in processes_naming(str(self.temporary)).items() if word in command]

    def wait_for_an_episode_and_an_engine(self) -> None:
        deadline = time.monotonic() + 60
        while not self._has_an_episode() or not self.processes("vizdoom/vizdoom"):
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        notes = [note.read_text() for note in self.temporary.rglob("instance")]
        self.instances = [name for name in notes if name]

    def assert_nothing_is_left(self) -> None:
        deadline = time.monotonic() + 10
        while left := processes_naming(str(self.temporary)):
            assert time.monotonic() < deadline, left
            time.sleep(0.01)
        assert self.instances
        assert not any(name in block.name for block in Path("/dev/shm").iterdir() for name in self.instances)
        assert list(self.working.iterdir()) == [] and list(self.temporary.iterdir()) == []

    def _has_an_episode(self) -> bool:
        return (self.out / "dataset.json").exists() and bool(EpisodeDataset.open(self.out).episodes())
