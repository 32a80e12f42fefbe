"""The one training loop. What is trained, and on what, are its arguments."""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nextframe import ranks
from nextframe.config import TrainConfig
from nextframe.devices import enough_room, synchronise, thread_start
from nextframe.distributed import local_tensor
from nextframe.errors import UserError
from nextframe.files import sole_writer
from nextframe.journal import Examination, Meter, Record, metrics_log, newest_with
from nextframe.learner import Learner
from nextframe.pieces import Position, newest_checkpoint
from nextframe.progress import progress, silent
from nextframe.saver import Saver, saving
from nextframe.stopping import interruptions, stop_as


def train(learner: Learner, run: Path, examine: Examination | None = None) -> Position:
    """Train `learner` in the folder `run`, going on from its newest checkpoint; returns where the run stands.

    Every `examine_minutes`, and when the run is done, `examine` looks at what it can do; training goes on the same.

    Ctrl-C and SIGTERM end the step that is under way, save, and then raise KeyboardInterrupt; of a SIGTERM that is
    Stopped. Raises UserError, and saves nothing, when the loss has not been a number for too long, or when somebody
    else trains this run. Of several processes only the first writes, and its clock counts; when one is asked to stop,
    all do.
    """
    with sole_trainer(run):
        return take_steps(learner, run, examine)


@contextmanager
def sole_trainer(run: Path) -> Iterator[None]:
    """Be the only processes to train `run`. Raises UserError, in all of them, when others do."""
    with ExitStack() as held:

        def take() -> str:
            if ranks.rank() == 0:
                held.enter_context(sole_writer(run))
            return ""

        ranks.together(take, ranks.another_group())
        yield


def take_steps(learner: Learner, run: Path, examine: Examination | None) -> Position:
    """`train`, for a caller who is the only one to train this run already."""
    config = learner.config
    position = restore(run, learner)
    if fraction_done(config, position) >= 1 and ranks.rank() == 0:
        way_on = "to go on with it raise its steps (--train.steps), or its minutes where it has some"
        print(f"{run} is done, and stays as it is: {way_on}", file=sys.stderr)
    stop, held_out, told = 0.0, None, ""
    less = "add --train.accumulate 2 (the same batch, in parts) or --train.recompute, or lower --train.batch"
    with (
        enough_room(f"{learner.device} has no room for a step: {less}"),
        interruptions() as interrupted,
        saving(run, position, learner.device) as saver,
        metrics_log(run, position.step, config) as log,
        prefetched(learner.inputs, position.step, learner.device) as batches,
        progress(f"training {run.name}", 1.0, fraction_done(config, position))
        if ranks.rank() == 0
        else nullcontext(silent) as advance,
    ):
        meter = Meter(learner.task.flops, config.batch, learner.device, learner.precision)
        logged, last = position, time.monotonic()
        saved = looked = last
        while fraction_done(config, position) < 1 and not stop:
            rate = learning_rate(config, position)
            learner.differentiate(meter.next(batches))
            learner.update(rate, position.step)
            # From the end of one step to the end of the next: nothing that takes time is left out.
            now, first = time.monotonic(), ranks.rank() == 0
            due = saver.failed() or (first and now - saved > 60 * config.checkpoint_minutes)
            look = first and config.examine_minutes is not None and now - looked > 60 * config.examine_minutes
            seconds = position.seconds + now - last if first else 0.0
            seconds, due, look, stop = ranks.largest(seconds, due, look, interrupted())
            before = fraction_done(config, position)
            position, last = Position(position.step + 1, seconds), now
            done = fraction_done(config, position) >= 1
            if position.step % config.log_every == 0 or done or stop:
                figures, in_a_row = learner.figures(position.step - logged.step)
                measured = meter.figures(position, logged)
                record = {"step": position.step, **figures, "learning_rate": rate, **measured}
                log(record)
                if in_a_row >= config.most_skipped:
                    raise UserError(
                        f"the loss or its gradient was not a number for {in_a_row} steps in a row, up to step "
                        f"{position.step}: lower --train.optimizer.learning-rate"
                    )
                told, logged = shown(record, held_out), position
            advance(min(1.0, fraction_done(config, position)) - before, f"step {position.step}{told}")
            if due or done or stop:
                save(saver, learner, position)
                saved = time.monotonic()
            if examine is not None and look and not (done or stop):
                seen = examined(examine, learner, position.step)
                log(seen)
                held_out = seen.get("held_out_loss")
                looked = time.monotonic()
                last += seen["examine_seconds"]  # is no time of training
        if examine is not None and not stop and not looked_at(run, position.step):
            if ranks.rank() == 0:
                print(f"{run.name} is trained; now it is tried on held-out clips (Ctrl-C twice: not)", file=sys.stderr)
            log(examined(examine, learner, position.step))
    (stop,) = ranks.largest(max(stop, interrupted()))
    if stop:
        raise stop_as(stop)
    return position


def shown(record: Record, held_out: float | None) -> str:
    """A line of the log for a person, after its step."""
    loss = f"{record['loss']:.4f}" if "loss" in record else "not a number"
    further = "" if held_out is None else f"  held out {held_out:.4f}"
    return f"  loss {loss}{further}  {record['seconds_per_step']:.2f} s/step"


def examined(examine: Examination, learner: Learner, step: int) -> Record:
    """What the averaged weights can do at this step, a record; all processes must ask, and the first looks."""
    synchronise(learner.device)  # what was sent before is training, and counts as such
    started = time.monotonic()
    weights = learner.averaged()
    way_out = "lower --train.batch, or set --train.examine-minutes None"
    with enough_room(f"there is no memory left to look at held-out clips at step {step}: {way_out}"):
        figures = examine(weights, step) if ranks.rank() == 0 else {}
    ranks.barrier()  # nobody goes on before the first has looked
    return {"step": step, **figures, "examine_seconds": time.monotonic() - started}


def looked_at(run: Path, step: int) -> bool:
    """Whether the log says so, to all processes: a run may have been killed while it was looked at when it was done."""
    first = ranks.rank() == 0
    (missing,) = ranks.largest(first and newest_with("examine_seconds", run).get("step") != step)
    return not missing


def save(saver: Saver, learner: Learner, position: Position) -> None:
    """Have a checkpoint written to go on from, and the averaged weights to use.

    Raises UserError, and leaves what is there, when a weight is no longer a number, or the write before failed.
    """
    broken = not all(local_tensor(weight.detach()).isfinite().all() for weight in learner.network.parameters())
    if any(ranks.largest(broken)):
        raise UserError(f"a weight is not finite at step {position.step}: lower --train.optimizer.learning-rate")
    saver.save(learner.state(), position)


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
    found = newest_checkpoint(run)
    if found is None:
        return Position()
    learner.optimizer.make_room({name.removeprefix("optimizer/") for name in found.names()})
    try:
        found.load(learner.state())
    except ValueError as error:
        raise UserError(
            f"the checkpoint in {run} is of another configuration ({str(error).splitlines()[0]}): use another --out"
        ) from None
    return found.position


@contextmanager
def prefetched(batch: Callable[[int], Any], first: int, device: torch.device) -> Iterator[Iterator[Any]]:
    """The batches from step `first` on for a device, each made while the one before is trained on."""
    # On a processor with one torch thread: more of them wait for the step's at every operator, and the step for them.
    alone = partial(torch.set_num_threads, 1) if device.type == "cpu" else None
    with ThreadPoolExecutor(1, "batches", alone or thread_start(device)) as pool:

        def stream() -> Iterator[Any]:
            step, following = first, pool.submit(batch, first)
            while True:
                ready = following.result()
                step += 1
                following = pool.submit(batch, step)
                yield ready

        try:
            yield stream()
        finally:  # what the pool's thread has set would be the number of every later thread too
            torch.set_num_threads(torch.get_num_threads())
