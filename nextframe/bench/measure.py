"""How fast a model trains, samples and plays on this machine, and how much of the machine that is.

Everything is measured on random latents, and but for sampling from a run on random weights: a bench needs no data.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import count, islice
from statistics import mean, median
from typing import Any

import torch

from nextframe.autoencoder import Autoencoder, decode_video
from nextframe.bench.rival import Rival, RivalWork, compared
from nextframe.bench.stopwatch import Lap, in_turns, percentile_95
from nextframe.bench.testbed import Bed, decoder_for, random_conditions, random_latents
from nextframe.bench.workload import PlayBench, SampleBench, TrainBench, Workload
from nextframe.config import SampleConfig
from nextframe.devices import choose_threads, enough_room, matrix_precision, now, should_compile
from nextframe.errors import UserError
from nextframe.flops import frame_flops, training_flops
from nextframe.flow import evaluated_levels
from nextframe.layout import Layout, layout_of, shared_past
from nextframe.learner import Learner, Task
from nextframe.objective import Clips, FrameFlowMatching
from nextframe.sampler import at_sampling, guidance_branches
from nextframe.session import Session
from nextframe.train import prefetched

WALK_FRAMES = 156
"""Frames of one walk of `bench play`, before the next begins."""


def bench(workload: Workload) -> dict[str, Any]:
    """Measure, and print a table or one JSON object; returns what was measured (docs/speed.md says what it means).

    Raises UserError for a preset, run, device, autoencoder or adapter that is not there, or what does not fit.
    """
    # Whatever a rival or a library prints must not come between a machine and its JSON object.
    with redirect_stdout(sys.stderr):
        torch.manual_seed(0)
        bed = Bed.of(workload.subject, training=isinstance(workload, TrainBench))
        with enough_room(f"{bed.device} has no room for this: lower --batch, --frames or --context"):
            if isinstance(workload, TrainBench):
                measured = bench_train(workload, bed)
            elif isinstance(workload, SampleBench):
                measured = bench_sample(workload, bed)
            else:
                measured = bench_play(workload, bed)
    print(json.dumps(measured) if workload.subject.json else table(measured))
    return measured


def bench_train(workload: TrainBench, bed: Bed) -> dict[str, Any]:
    """Training steps. Arithmetic is counted, and shared, for forward and backward."""
    frames, batch, windows, model = workload.frames, workload.batch, workload.windows, bed.config.model
    if windows > 1 and model.coarse_patch is None:
        raise UserError("a short model has no coarse past that windows could share: leave --windows at 1")
    compiled = should_compile(workload.compile, bed.device)
    laps = training_laps(workload, bed)
    first, _ = next(laps), next(laps)
    peak = bed.memory.gib()
    work = RivalWork("train", batch, frames, 0, 0, bed.precision_name, str(bed.device))
    rival = Rival.of(workload.against, work, model) if workload.against else None
    taken, rival_seconds = in_turns(laps, rival and rival.unit, bed.subject.repeats, bed.subject.seconds, bed.device)
    core, whole = [lap.core for lap in taken], [lap.whole for lap in taken]
    layout = shared_past(model, [frames] * windows)
    flops = training_flops(model, batch, [frames] * windows, bed.config.resampled_context > 0)
    return {
        "kind": "train",
        **bed.described(),
        "batch": batch,
        "frames": frames,
        "windows": windows,
        "tokens_per_clip": layout.tokens,
        "compiled": compiled,
        "float8": workload.float8,
        "flex_attention": workload.flex_attention,
        "repeats": len(taken),
        "seconds_per_step": median(core),
        "seconds_per_step_p95": percentile_95(core),
        "seconds_per_window": median(core) / (batch * windows),
        "seconds_per_whole_step": median(whole),
        "seconds_per_whole_step_p95": percentile_95(whole),
        "seconds_first_step": first.whole,
        "compile_seconds": first.whole - median(whole) if compiled else None,
        "frames_per_second": batch * layout.frames / median(whole),
        "tokens_per_second": batch * layout.tokens / median(whole),
        **bed.arithmetic(flops, median(core)),
        **peak,
        "against": compared(rival, "seconds_per_step", core, rival_seconds),
    }


def training_laps(workload: TrainBench, bed: Bed) -> Iterator[Lap]:
    """The steps of `train.train`, one after the other, without data, log and checkpoints."""
    config, device = bed.config, bed.device
    latents = random_latents(config.model, workload.batch, workload.frames)
    conditions = random_conditions(config.model, workload.batch, workload.frames)
    clips = Clips(latents, conditions, (workload.frames,) * workload.windows)
    settings = replace(
        config.train,
        device=str(device),
        precision=bed.precision_name,
        compile=workload.compile,
        float8=workload.float8,
        flex_attention=workload.flex_attention,
        accumulate=1,
    )
    learner = Learner(Task(bed.network, FrameFlowMatching(config), lambda step: clips, product=bed.network), settings)
    with prefetched(learner.inputs, 0, device) as stream:
        for step in count():
            started = now(device)
            inputs = next(stream)
            prepared = now(device)
            learner.differentiate(inputs)
            differentiated = now(device)
            learner.update(config.train.optimizer.learning_rate, step)
            yield Lap(differentiated - prepared, now(device) - started)


def bench_sample(workload: SampleBench, bed: Bed) -> dict[str, Any]:
    sample = sampling(workload, bed.config.sample)
    least = workload.subject.repeats * workload.frames
    return {"kind": "sample", **frame_times(workload, bed, sample, least, as_played=False)}


def bench_play(workload: PlayBench, bed: Bed) -> dict[str, Any]:
    """The frames of a walk; nobody waits for its end, so `repeats` are frames here."""
    walk = SampleBench(**vars(workload), frames=WALK_FRAMES)
    sample = sampling(walk, bed.config.sample)
    sample = replace(sample, memory=sample.memory or bed.config.most_seen)  # as `play` does
    return {"kind": "play", **frame_times(walk, bed, sample, workload.subject.repeats, as_played=True)}


def frame_times(workload: SampleBench, bed: Bed, sample: SampleConfig, least: int, as_played: bool) -> dict[str, Any]:
    """At least `least` frames of rollouts. Arithmetic is counted, and shared, for the transformer alone.

    `as_played`: with as many threads as `play` would take.
    """
    batch, context, frames, device = workload.batch, workload.context, workload.frames, bed.device
    model = at_sampling(bed.config.model, sample, context + 1 + frames)
    if model.attention == "full":
        raise UserError("a Video DiT makes all frames of a clip at once, there is no frame to time: bench train it")
    evaluations, branches = len(evaluated_levels(sample.solver, sample.steps)), len(guidance_branches(model, sample))
    if workload.against is not None and (evaluations != sample.steps or branches > 1 or sample.slide > 1):
        raise UserError(
            "--against computes every frame alike: leave --guidance at 1 and --solver at euler, give --slide 1"
        )
    decoder = decoder_for(workload.autoencoder, bed) if workload.decode else None
    first_frames: list[float] = []
    # As when sampling: weights are cast once, not for every frame.
    with matrix_precision(bed.precision, device):
        warm_up = now(device)
        session = started_session(workload, bed, sample)
        # What a GPU records, it computes the first time and records the second.
        for _ in islice(sampled_laps(session, workload, bed, decoder, []), 2 * frames if session.graphs.replays else 1):
            pass
        warm_up = now(device) - warm_up
        if as_played:
            tried = sampled_laps(session, workload, bed, decoder, [])
            choose_threads(device, lambda: list(islice(tried, min(frames, sample.slide))))
        peak = bed.memory.gib()
        work = RivalWork("sample", batch, frames, context, sample.steps, bed.precision_name, str(device))
        rival = Rival.of(workload.against, work, bed.config.model) if workload.against else None
        laps = sampled_laps(session, workload, bed, decoder, first_frames)
        taken, rival_seconds = in_turns(laps, rival and rival.unit, least, bed.subject.seconds, device)
    core, whole = [lap.core for lap in taken], [lap.whole for lap in taken]
    typical, typical_whole = (median_of_means(laps, sample.slide) for laps in (core, whole))
    pasts = range(context + 1, context + 1 + min(frames, len(taken)))
    flops = sum(frame_flops(model, past, evaluations) for past in pasts) / len(pasts)
    fine = layout_of(model, 1).tokens
    decoded = {
        "seconds_per_frame_decoded": typical_whole,
        "seconds_per_frame_decoded_p95": percentile_95(whole),
        "frames_per_second_decoded": batch / typical_whole,
    }
    return {
        **bed.described(),
        "batch": batch,
        "context": context,
        "frames": frames,
        "steps": sample.steps,
        "solver": sample.solver,
        "slide": sample.slide,
        "guidance": sample.guidance,
        "graphs": session.graphs.replays,
        "tokens_per_frame": fine,
        "repeats": len(taken),
        "seconds_per_frame": typical,
        "seconds_per_frame_p95": percentile_95(core),
        **(decoded if decoder is not None else {}),
        "seconds_first_frame": median(first_frames),
        "warm_up_seconds": warm_up,
        "frames_per_second": batch / typical,
        "tokens_per_second": batch * fine / typical,
        **bed.arithmetic(batch * branches * flops, typical),
        **peak,
        "against": compared(rival, "seconds_per_frame", core, rival_seconds),
    }


def started_session(workload: SampleBench, bed: Bed, sample: SampleConfig) -> Session:
    """Rollouts of random latents, with room for a first frame and those that are timed."""
    context = random_latents(bed.config.model, workload.batch, workload.context).to(bed.device)
    past = random_conditions(bed.config.model, workload.batch, workload.context)
    capacity = workload.context + 1 + workload.frames
    return Session(bed.network, context, None if past is None else past.to(bed.device), capacity, sample)


def sampled_laps(
    session: Session, workload: SampleBench, bed: Bed, decoder: Autoencoder | None, first_frames: list[float]
) -> Iterator[Lap]:
    """Frame after frame of one rollout after the other; the seconds of each one's first frame go to `first_frames`."""
    device = bed.device
    future = random_conditions(bed.config.model, workload.batch, 1 + workload.frames)
    conditions = [None if future is None else future[:, frame].to(device) for frame in range(1 + workload.frames)]
    while True:
        session.rewind(workload.context)
        session.cache.rewind(Layout())  # as if nothing of the context had been read
        started = now(device)
        session.step(conditions[0])
        first_frames.append(now(device) - started)
        for condition in conditions[1:]:
            started = now(device)
            frame = session.step(condition)
            made = now(device)
            if decoder is not None:
                decode_video(decoder, frame)
            yield Lap(made - started, now(device) - started)


def median_of_means(seconds: list[float], count: int) -> float:
    """The median of the means of `count` in a row: of frames, among which every so many one reads the window."""
    rows = [seconds[start : start + count] for start in range(0, len(seconds), count)]
    return median([mean(row) for row in rows if len(row) == count or len(rows) == 1])


def sampling(workload: SampleBench, sample: SampleConfig) -> SampleConfig:
    """The model's own sampling settings, with what was given in their place."""
    names = ("steps", "solver", "slide", "guidance", "graphs")
    return sample.overridden(**{name: getattr(workload, name) for name in names})


ROWS = {
    "seconds_per_step": "forward and backward",
    "seconds_per_step_p95": "  95 % of steps within",
    "seconds_per_window": "  for each window",
    "seconds_per_whole_step": "whole step, with optimizer",
    "seconds_per_whole_step_p95": "  95 % of steps within",
    "seconds_first_step": "first step",
    "compile_seconds": "  of which compilation",
    "seconds_per_frame": "a frame, transformer alone",
    "seconds_per_frame_p95": "  95 % of frames within",
    "seconds_per_frame_decoded": "a frame, decoded to uint8",
    "seconds_per_frame_decoded_p95": "  95 % of frames within",
    "seconds_first_frame": "first frame, context read",
    "warm_up_seconds": "warm-up",
    "frames_per_second": "frames a second",
    "frames_per_second_decoded": "frames a second, decoded",
    "tokens_per_second": "tokens a second",
    "tflop_per_second": "TFLOP/s",
    "matrix_tflop_per_second": "TFLOP/s of a matrix product",
    "matrix_share": "share of that",
    "peak_cuda_allocated_gib": "peak memory of the GPU, GiB",
    "peak_resident_growth_gib": "peak growth of memory, GiB",
}
"""What the table calls each number."""
SETTINGS = (
    "batch",
    "context",
    "frames",
    "windows",
    "steps",
    "solver",
    "slide",
    "guidance",
    "dtype",
    "device",
    "compiled",
    "graphs",
    "float8",
    "flex_attention",
    "repeats",
    "threads",
)


def table(measured: dict[str, Any]) -> str:
    """For people."""
    settings = ", ".join(f"{name} {measured[name]}" for name in SETTINGS if name in measured)
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    name, millions = measured["preset"] or measured["model"], measured["parameters"] / 1e6
    lines = [f"{measured['kind']} {name}, {millions:.1f} M parameters", settings, measured["hardware"], versions, ""]
    lines += [f"  {ROWS[key]:<30} {written(key, measured[key]):>12}" for key in ROWS if measured.get(key) is not None]
    if (rival := measured["against"]) is not None:
        key = next(key for key in ("seconds_per_step", "seconds_per_frame") if key in rival)
        low, high = rival["ratio_spread"]
        lines += ["", f"  {rival['name'] + ', the same work':<30} {written(key, rival[key]):>12}"]
        lines += [f"  {'times as long as ours':<30} {rival['ratio']:>12.2f}   ({low:.2f} to {high:.2f})"]
    return "\n".join(lines)


def written(key: str, value: float) -> str:
    """A number as a person reads it."""
    if "seconds" in key:
        return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.2f} ms"
    if key == "matrix_share":
        return f"{value:.1%}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
