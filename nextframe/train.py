"""The one training loop. What is trained, and on what, are its arguments."""

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from nextframe import ranks
from nextframe.checkpoint import WEIGHTS, Position, TrainingState, newest_checkpoint, save_checkpoint, write_weights
from nextframe.config import TrainConfig
from nextframe.errors import Stopped, UserError
from nextframe.files import write_atomically, writing
from nextframe.learner import Learner, Task
from nextframe.progress import Advance, progress

ASKED = {signal.SIGTERM: 1, signal.SIGINT: 2}
"""The ways to ask a run to stop. Where processes are asked in both, all end as by the second."""


def train(task: Task, config: TrainConfig, run: Path) -> Position:
    """Train `task` in the folder `run`, going on from its newest checkpoint; returns where the run stands.

    Ctrl-C and SIGTERM end the step that is under way, save, and then raise KeyboardInterrupt; of a SIGTERM that is
    Stopped. Raises UserError, and
    saves nothing, when the loss has not been a number for too long. Of several processes only the first writes, and
    its clock counts; when one is asked to stop, all do.
    """
    learner = Learner(task, config)
    start = position = restore(run, learner)
    agree_on(position.step, run)
    stop = 0.0
    with (
        interruptions() as interrupted,
        metrics_log(run, position.step) as log,
        prefetched(learner.inputs, position.step) as batches,
        reported(f"training {run.name}", fraction_done(config, position)) as advance,
    ):
        logged, saved = position, time.monotonic()
        last = time.monotonic()
        while fraction_done(config, position) < 1 and not stop:
            rate = learning_rate(config, position)
            loss = learner.differentiate(next(batches))
            norm = learner.update(rate, position.step)
            # From the end of one step to the end of the next: nothing that takes time is left out.
            now, first = time.monotonic(), ranks.rank() == 0
            due = first and now - saved > 60 * config.checkpoint_minutes
            seconds = position.seconds + now - last if first else 0.0
            seconds, due, stop = ranks.largest(seconds, due, interrupted())
            position, last = Position(position.step + 1, seconds), now
            if position.step % config.log_every == 0 or fraction_done(config, position) >= 1:
                skipped, in_a_row = learner.skipped()
                if in_a_row >= config.most_skipped:
                    raise UserError(
                        f"the loss or its gradient was not a number for {in_a_row} steps in a row, up to step "
                        f"{position.step}: lower --train.optimizer.learning-rate"
                    )
                record = log_record(loss, norm, skipped, rate, position, logged)
                log(record)
                loss_shown = f"{record['loss']:.4f}" if "loss" in record else "not a number"
                note = f"step {position.step}  loss {loss_shown}  {record['seconds_per_step']:.2f} s/step"
                advance(fraction_done(config, position) - fraction_done(config, logged), note)
                logged = position
            if due:
                save(run, learner, position)
                saved = time.monotonic()
    if position != start:
        save(run, learner, position)
    (stop,) = ranks.largest(max(stop, interrupted()))  # nobody goes on before the first has written
    if stop:
        raise Stopped if stop == ASKED[signal.SIGTERM] else KeyboardInterrupt
    return position


def agree_on(step: int, run: Path) -> None:
    """Raises UserError when other processes found another checkpoint."""
    highest, lowest = ranks.largest(step, -step)
    if highest != -lowest:
        found = f"the processes found checkpoints of steps {-lowest:.0f} and {highest:.0f}"
        raise UserError(f"{found}: put {run} on a disk that all of them share")


def log_record(
    loss: Tensor, norm: Tensor, skipped: int, rate: float, position: Position, logged: Position
) -> dict[str, float]:
    """A line of metrics.jsonl; of a step that was skipped it has no loss and no norm, which JSON could not hold."""
    learnt = {"loss": loss.item(), "gradient_norm": norm.item()}
    return {
        "step": position.step,
        **(learnt if all(map(math.isfinite, learnt.values())) else {}),
        "skipped": skipped,
        "learning_rate": rate,
        "seconds": position.seconds,
        "seconds_per_step": (position.seconds - logged.seconds) / (position.step - logged.step),
    }


def save(run: Path, learner: Learner, position: Position) -> None:
    """A checkpoint to go on from, and the averaged weights to use.

    Raises UserError, and leaves what is there, when a weight is no longer a number.
    """
    parts = learner.state()
    if ranks.rank() != 0:
        return
    if not all(torch.isfinite(parts["weights"][name]).all() for name, _ in learner.network.named_parameters()):
        raise UserError(f"a weight is not finite at step {position.step}: lower --train.optimizer.learning-rate")
    # First, so that a run that is killed between the two does not stand finished beside weights that are older.
    write_weights(run / WEIGHTS, parts["average"])
    save_checkpoint(run, TrainingState(**parts, position=position))


@contextmanager
def interruptions() -> Iterator[Callable[[], float]]:
    """Yield a question: was the process asked to stop, and how (`ASKED`; 0: it was not)?

    No step is left half done, but a second Ctrl-C does not wait. A second SIGTERM does: whoever sends it to all
    processes, and has torchrun pass it on to them, means it once.
    """
    asked = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT and not ranks.launched():
            raise KeyboardInterrupt
        asked = max(asked, ASKED[number])

    if threading.current_thread() is not threading.main_thread():  # only the main thread may catch signals
        yield lambda: 0
        return
    before = {number: signal.signal(number, note) for number in ASKED}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fraction_done(config: TrainConfig, position: Position) -> float:
    """How much of the run is behind: by steps, or by minutes where those run out first."""
    by_time = position.seconds / (60 * config.minutes) if config.minutes else 0.0
    return max(position.step / config.steps, by_time)


def learning_rate(config: TrainConfig, position: Position) -> float:
    """Linear warm-up, constant, and a linear fall to zero over the last part of the run."""
    optimizer = config.optimizer
    warmup = min(1.0, (position.step + 1) / optimizer.warmup_steps) if optimizer.warmup_steps else 1.0
    left = 1 - fraction_done(config, position)
    return optimizer.learning_rate * warmup * min(1.0, left / optimizer.decay if optimizer.decay else 1.0)


def restore(run: Path, learner: Learner) -> Position:
    """Put everything back to the newest checkpoint of the run; a new run starts at step 0."""
    state = newest_checkpoint(run, loud=ranks.rank() == 0)
    if state is None:
        return Position()
    try:
        learner.load_state(state.weights, state.average, state.optimizer)
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"the checkpoint in {run} is of another configuration ({str(error).splitlines()[0]}): use another --out"
        ) from None
    return state.position


@contextmanager
def reported(title: str, done: float) -> Iterator[Advance]:
    """The progress of a run of which `done` is behind, shown by the first process alone."""
    if ranks.rank() != 0:
        yield lambda count=1, note="": None
        return
    with progress(title, 1.0, done) as advance:
        yield advance


@contextmanager
def prefetched(batch: Callable[[int], Any], first: int) -> Iterator[Iterator[Any]]:
    """The batches from step `first` on, each made while the one before is trained on."""
    with ThreadPoolExecutor(1) as pool:

        def stream() -> Iterator[Any]:
            step, following = first, pool.submit(batch, first)
            while True:
                ready = following.result()
                step += 1
                following = pool.submit(batch, step)
                yield ready

        yield stream()


@contextmanager
def metrics_log(run: Path, step: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """Append to `metrics.jsonl`, and to TensorBoard's events where that is installed.

    What a run that was killed logged after its last checkpoint, `step`, is dropped: those steps are taken again.
    Of several processes the first keeps the log.
    """
    if ranks.rank() != 0:
        yield lambda record: None
        return
    path = run / "metrics.jsonl"
    with writing(path):
        run.mkdir(parents=True, exist_ok=True)
    if path.exists():
        kept = [line for line in path.read_text(errors="replace").splitlines() if _step_of(line) <= step]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
    board = _tensorboard(run, step)
    with path.open("a") as file:

        def log(record: dict[str, float]) -> None:
            with writing(path):
                file.write(json.dumps(record) + "\n")
                file.flush()
            if board is not None:
                for name, value in record.items():
                    board.add_scalar(name, value, int(record["step"]))

        yield log
    if board is not None:
        board.close()


def _step_of(line: str) -> float:
    """The step of a line of the log; a line that a kill cut short belongs to no step that counts."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf


def _tensorboard(run: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
