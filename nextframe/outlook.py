"""Whether a run fits here, how to make it fit, and how long it will take: in words, before the first step."""

import math
import sys

from nextframe import ranks
from nextframe.config import TrainConfig
from nextframe.devices import blocks_of
from nextframe.errors import UserError, counted
from nextframe.footprint import (
    Demand,
    Footprint,
    available,
    bytes_already_taken,
    fits_in_earnest,
    measured,
    own_rows,
    part_rows,
    seconds_a_step,
)
from nextframe.learner import Learner
from nextframe.pieces import Position
from nextframe.progress import clock, in_words
from nextframe.transformer import parameters_of

CLEARLY = 1.1
"""Times what there is: estimates have errors, so only beyond this is a run refused."""
NEARLY = 0.85
"""Beyond this there is a warning: a process took up to 15 % more than estimated (docs/experiments.md)."""


def foresee(
    learner: Learner, demand: Demand, position: Position, seconds: float | None, insist: bool
) -> tuple[Footprint, float]:
    """Say on stderr what a run will take; returns what was measured, and the bytes that training may take here.

    All processes must ask, and the first speaks. `seconds` a step, if they are known. Raises UserError when the run
    clearly does not fit, unless one insists.
    """
    room = -ranks.largest(-(available(learner.device) + bytes_already_taken(learner)))[0]
    footprint = measured(learner, demand, CLEARLY * room)
    needed = ranks.largest(footprint.needed(part_rows(learner, demand)))[0]
    fit = f"{amount(needed, room)}; {learner.device} has {in_words(int(room))}"
    if needed > CLEARLY * room and not insist:
        raise UserError(f"training {fit}: {way_out(learner, demand, footprint, room)}; or --insist")
    if ranks.rank() == 0:
        weights = parameters_of(learner.network)
        steps = f"{counted(learner.config.steps - position.step, 'step')} of {learner.config.batch}"
        minutes = learner.config.minutes and learner.config.minutes - position.seconds / 60
        left = f"{clock(60 * minutes)} to go, or {steps}" if minutes else f"{steps} to go"
        near = needed > NEARLY * room
        advice = f" (that is near: {way_out(learner, demand, footprint, NEARLY * room)})" if near else ""
        lines = [f"{weights:,} parameters, {left}, {fit}{advice}"]
        if seconds is not None:
            lines.append(duration(learner.config, position, seconds))
        print("\n".join(lines), file=sys.stderr)
    return footprint, room


def amount(needed: float, room: float) -> str:
    if math.isinf(needed):
        return f"needs more than {in_words(int(room))}"
    return f"needs about {in_words(int(needed))} beside torch itself"


def way_out(learner: Learner, demand: Demand, footprint: Footprint, room: float) -> str:
    """What to add to the command so that no more than `room` bytes are needed, best first."""
    config, rows = learner.config, own_rows(demand)
    parted = room if config.accumulate > 1 else room - footprint.gradients  # those of the parts before
    parts = (parts for parts in range(config.accumulate + 1, rows + 1) if rows % parts == 0)
    enough = next((parts for parts in parts if footprint.needed(rows // parts) <= parted), None)
    ways = [] if enough is None else [f"--train.accumulate {enough} (the same batch, in parts)"]
    if blocks_of(learner.network) and not config.recompute:
        ways.append("--train.recompute (less memory, more time)")
    if ranks.world_size() > 1 and not config.shard:
        ways.append("--train.shard")
    if fitting := footprint.most_rows(room) * config.accumulate:
        ways.append(f"--train.batch {min(rows, fitting) * ranks.world_size() * config.batch // demand.rows}")
    return "add " + ", or ".join(ways) if ways else "train a smaller model, or shorter clips"


def duration(config: TrainConfig, position: Position, seconds: float) -> str:
    """`about 1.9 s a step: 2,750 steps take 1h27m`"""
    left = config.steps - position.step
    took, rest = f"about {seconds:.2g} s a step", f"{counted(left, 'step')} take {clock(left * seconds)}"
    if config.minutes is not None and (until := 60 * config.minutes - position.seconds) < left * seconds:
        return f"{took}: {max(0, until) / seconds:,.0f} steps in the {clock(max(0, until))} that are left"
    return f"{took}: {rest}"


def largest_batch(learner: Learner, demand: Demand, footprint: Footprint, room: float) -> int:
    """The largest `--train.batch` that fits without accumulation; on one GPU one that was really computed. 0: none."""
    rows = footprint.most_rows(room)
    # Not of several: one that runs out of memory half-way leaves the others waiting for its gradients.
    if learner.device.type == "cuda" and ranks.world_size() == 1:
        rows = proven(learner, demand, rows)
    return rows * ranks.world_size() * learner.config.batch // demand.rows


def proven(learner: Learner, demand: Demand, rows: int) -> int:
    """So many rows, or half as often as it takes until they can be computed at once."""
    while rows and not fits_in_earnest(learner, demand, rows):
        rows //= 2
    return rows


def estimate(learner: Learner, demand: Demand, position: Position) -> list[str]:
    """The lines of `nextframe train ... --estimate`. The learner is not to be trained after this."""
    footprint, room = foresee(learner, demand, position, None, insist=True)
    needed = ranks.largest(footprint.needed(part_rows(learner, demand)))[0]
    lines = [f"memory: {amount(needed, room)}; {learner.device} has {in_words(int(room))}"]
    if needed > room:
        lines.append(f"it does not fit: {way_out(learner, demand, footprint, room)}")
    lines.append(f"largest batch in one part: {largest_batch(learner, demand, footprint, room)}")
    if needed <= room:
        seconds = ranks.largest(seconds_a_step(learner, demand, footprint, position.step))[0]
        lines.append("time: " + duration(learner.config, position, seconds))
    return lines
