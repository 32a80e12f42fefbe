"""Episodes made in parallel: worker processes write them, this process lists them, and nothing is lost or left behind.

A job is what one worker makes one or several episodes of: a seed, a video. `produce` starts worker modules, and
`work` is what such a module does. A worker that is told to end leaves nothing; so does one whose recorder has died.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from nextframe.data.episodes import INDEX, DatasetInfo, EpisodeDataset, EpisodeInfo, parse_episode_info
from nextframe.errors import UserError
from nextframe.files import sole_writer
from nextframe.progress import progress
from nextframe.workers import end_with_parent, worker_command, worker_environment

SAVE_EVERY_SECONDS = 2.0
PATIENCE_SECONDS = 5.0
LONGEST_REASON = 600
"""Characters of an error that a worker passes on: JSON may take six bytes for each, and a pipe takes 4096 at once."""

Jobs = dict[str, dict[str, Any]]
"""What is to be made, by name: anything JSON can hold."""


@dataclass(frozen=True)
class Finished:
    """A job is done: all its episodes are written. `refused`: why none could be made of it, if so."""

    job: str
    refused: str = ""


Work = Callable[[Path, DatasetInfo, dict[str, Any], Jobs, Path], Iterator[EpisodeInfo | Finished]]
"""(folder of the dataset, its info, what all jobs share, the jobs, scratch folder) -> every episode as soon as it is
written, and after the last one of a job that it is finished."""


@contextmanager
def filling(out: Path, info: DatasetInfo) -> Iterator[EpisodeDataset]:
    """The dataset in the folder `out`, to be added to by this process alone.

    If it has no episode in the end, with whatever error, there is no dataset: other settings are welcome then. Raises
    UserError as `EpisodeDataset.create` and `sole_writer` do.
    """
    with sole_writer(out):
        dataset = EpisodeDataset.create(out, info)
        try:
            yield dataset
        finally:
            if not dataset.episodes():
                (dataset.folder / INDEX).unlink()


def produce(
    title: str,
    dataset: EpisodeDataset,
    module: str,
    shared: dict[str, Any],
    jobs: Jobs,
    done: int,
    workers: int,
    clear: Callable[[Path], None] = lambda scratch: None,
) -> dict[str, str]:
    """Have `jobs` done by worker processes that run `module`, and list the episodes as they come.

    `shared`: what all jobs have in common. `done`: how many jobs were done before, for the progress shown. `workers`:
    processes, 0 for one per core. `clear`: frees what a killed worker holds, given its scratch folder. Returns the
    reasons of the jobs that were refused, by name. Raises UserError for what a worker raised as such, and when one
    ended early. Only the sole writer of the dataset may call this.
    """
    if workers < 0:
        raise UserError(f"workers is {workers}: choose a number of processes, or 0 for one per core")
    count = min(workers or os.cpu_count() or 1, len(jobs))
    names = list(jobs)
    common = {"parent": os.getpid(), "folder": str(dataset.folder), "dataset": asdict(dataset.info), "shared": shared}
    shares = [{name: jobs[name] for name in names[worker::count]} for worker in range(count)]
    finished: dict[str, str] = {}
    with (
        progress(title, done + len(jobs), done) as advance,
        _workers(module, [{**common, "jobs": share} for share in shares], clear) as results,
    ):
        saved = -math.inf
        try:
            for line in results:
                entry = json.loads(line)
                if "error" in entry:
                    raise UserError(entry["error"])
                if "episode" in entry:
                    dataset.register(parse_episode_info(entry["episode"]))
                else:
                    finished[entry["job"]] = entry["refused"]
                    advance()
                if time.monotonic() - saved > SAVE_EVERY_SECONDS:
                    dataset.save()
                    saved = time.monotonic()
        finally:
            dataset.save()
    if left := len(jobs.keys() - finished):
        raise UserError(
            f"a worker ended early, {left} of {len(jobs)} are missing: see above, and run it again to go on"
        )
    return {name: reason for name, reason in finished.items() if reason}


@contextmanager
def _workers(module: str, jobs: list[dict[str, Any]], clear: Callable[[Path], None]) -> Iterator[IO[str]]:
    """Run a worker per share of the jobs, and yield the lines they print. On leaving, all are ended."""
    workers: list[tuple[subprocess.Popen[bytes], Path]] = []
    read_end, write_end = os.pipe()  # shared: no line is longer than what a pipe takes at once, so lines never mix
    results = os.fdopen(read_end)
    try:
        for job in jobs:
            scratch = Path(tempfile.mkdtemp(prefix="nextframe-"))
            (scratch / "job.json").write_text(json.dumps(job))
            command = worker_command(module, str(scratch))
            # A session of its own, so that Ctrl-C reaches the recorder only, which then ends the workers.
            process = subprocess.Popen(command, stdout=write_end, env=worker_environment(), start_new_session=True)
            workers.append((process, scratch))
        os.close(write_end)
        yield results
    finally:
        for process, _ in workers:
            process.terminate()
        for process, scratch in workers:
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with suppress(ProcessLookupError):  # what a killed worker had started, in the session it began
                os.killpg(process.pid, signal.SIGKILL)
            if scratch.exists():  # the worker was killed
                clear(scratch)
                shutil.rmtree(scratch)
        results.close()


def work(do: Work) -> None:
    """What a worker module does: the jobs in the folder that is its first argument.

    It prints a JSON line for each episode and each finished job, and removes that folder when it ends, also when it is
    told to end (SIGTERM); the kernel tells it so when the process that started it is no more.
    """
    # Engines write to standard output as well: keep the pipe to the recorder for this process alone.
    results = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _end)
    scratch = Path(sys.argv[1])
    try:
        job = json.loads((scratch / "job.json").read_bytes())
        end_with_parent(job["parent"])
        for made in do(Path(job["folder"]), DatasetInfo(**job["dataset"]), job["shared"], job["jobs"], scratch):
            if isinstance(made, EpisodeInfo):
                entry: dict[str, Any] = {"episode": asdict(made)}
            else:
                entry = {"job": made.job, "refused": made.refused[:LONGEST_REASON]}
            print(json.dumps(entry), file=results)
    except UserError as error:
        print(json.dumps({"error": str(error)[:LONGEST_REASON]}), file=results)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending
        shutil.rmtree(scratch)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
