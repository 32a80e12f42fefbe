"""How well a model predicts episodes it has never seen, against two baselines and its own ceiling.

For each held-out episode: encode the context, roll out under the true actions, decode, compare with the truth; as often
as the protocol has seeds and trajectories. What is finished is on disk at once, so the same command goes on where it
stopped.
"""

import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import mode
from typing import Any

import numpy as np
import torch

from nextframe.architecture import TransformerConfig
from nextframe.checkpoint import AUTOENCODER, WEIGHTS
from nextframe.config import SampleConfig
from nextframe.data.episodes import EpisodeDataset, EpisodeInfo
from nextframe.devices import choose_threads, enough_room, hardware_name, resolve_device
from nextframe.errors import UserError
from nextframe.estimate import Estimate, estimate
from nextframe.files import read_json, refuse_taken, sha256, sole_writer, sweep
from nextframe.forecast import (
    check_sampling,
    forecast,
    held_out_episodes,
    labels_of,
    noise_seed,
    shortened,
)
from nextframe.hub import local_run
from nextframe.layout import COARSE, layout_of
from nextframe.metrics.image import torchmetrics_version
from nextframe.progress import progress, silent
from nextframe.protocol import Protocol
from nextframe.results import (
    PREDICTIONS,
    RESULTS,
    Measured,
    Prediction,
    Results,
    Speed,
    TokenCounts,
    is_done,
    prediction_path,
    read_prediction,
    write_prediction,
    write_results,
)
from nextframe.runs import WorldModel, load
from nextframe.sampler import at_sampling
from nextframe.scoring import Footage, Scorer, combine, load_scorer
from nextframe.transformer import parameters_of
from nextframe.version import VERSION

TRIED_CONTEXT, TRIED_FRAMES, TRIED_STEPS = 16, 2, 2
"""Context frames, frames and steps of the trial that chooses the number of threads."""
REVISION = 2
"""Of how predictions are made and scored; raise it when that changes, so that no result mixes two."""


def evaluate(
    protocol: Protocol,
    model: Path,
    data: Path,
    out: Path,
    device: str = "auto",
    batch: int = 8,
    sample: SampleConfig | None = None,
) -> Results:
    """Predict the held-out episodes of `data` with the run `model`; writes `results.json` and predictions to `out`.

    `protocol`: one of PROTOCOLS by name, or your own. `batch`: trajectories predicted side by side; it changes speed,
    memory, and in bfloat16 rounding. `sample`: if not given, the model's own settings with the protocol's in their
    place; its seed is added to those of all noise. Finished trajectories are kept unless the weights of either network,
    context or frames, the footage, the sampling settings or the precision have changed. Raises UserError when footage,
    model and protocol do not fit together, or when none of the metrics can be computed; where something is missing for
    some of them, `Results.missing` says so.
    """
    plan = prepare(protocol, model, data, out, device, batch, sample)
    with sole_writer(out):
        for line in replaced(out, plan):
            print(line, file=sys.stderr)
        sweep(out / PREDICTIONS)  # `out` itself may hold more than results
        with plan.at_work():
            results = _results(plan)
        write_results(out, results)
    return results


def replaced(out: Path, plan: "Plan") -> list[str]:
    """In a line, that `out` has results of another run or footage, if it has; what cannot be read is not ours."""
    try:
        found = read_json(out / RESULTS)
        before = found["model"]["run"], found["data"]["folder"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    now = str(plan.run), str(plan.data)
    return [f"{out} has results of {before[0]} on {before[1]}: they are replaced"] if before != now else []


def _results(plan: "Plan") -> Results:
    """Do what is missing, and put all together."""
    protocol, sample, world, jobs = plan.protocol, plan.sample, plan.world, plan.jobs
    firsts = [job for job in jobs if job.first]
    if plan.missing:
        print(plan.estimate().line(), file=sys.stderr)
    predict_missing(plan)
    measured = [measured_again(plan, job) for job in jobs]
    combined, frames = combine(plan.scorer, measured), protocol.context + protocol.frames
    return Results(
        protocol=protocol,
        sample=sample,
        episodes=tuple(job.info.name for job in firsts),
        seeds=tuple(job.seed for job in firsts),
        labels=tuple(job.label for job in firsts) if world.config.model.condition == "label" else (),
        **vars(combined),
        how=plan.scorer.how,
        speed=measured_speed(measured),
        tokens=count_tokens(at_sampling(world.config.model, sample, frames), frames),
        model=_describe_model(world, plan.run, plan.autoencoder),
        data={"folder": str(plan.data), **asdict(plan.dataset.info)},
        environment=environment(world, plan.scorer),
    )


@dataclass(frozen=True)
class Plan:
    """An evaluation that has not begun."""

    protocol: Protocol
    sample: SampleConfig
    run: Path
    world: WorldModel
    autoencoder: str
    """sha256 of its weights."""
    data: Path
    """As it was given."""
    dataset: EpisodeDataset
    scorer: Scorer
    jobs: "list[Job]"
    batch: int
    absent: int
    """Episodes that the footage lacks: there may be some when all that is wanted is an estimate."""

    @cached_property
    def missing(self) -> "list[Job]":
        """What was not on disk when this was first asked. All that is there is read for it."""
        return [job for job in self.jobs if not is_done(job.path, job.fingerprint)]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """In the precision of the matrix products, with as many threads as pay. UserError when a batch does not fit."""
        threads = torch.get_num_threads()
        full = f"{self.world.device} has no room for {self.batch} predictions at once: lower --batch"
        try:
            with enough_room(full), self.world.at_work():
                if self.missing:
                    choose_threads(self.world.device, lambda: self._try_out(self.missing[: self.batch]))
                yield
        finally:
            torch.set_num_threads(threads)

    def _try_out(self, group: "list[Job]") -> None:
        """Predict a few frames of a batch."""
        most = self.protocol
        short = replace(most, context=min(most.context, TRIED_CONTEXT), frames=min(most.frames, TRIED_FRAMES))
        episode = shortened(self.dataset.read(group[0].info), short, self.world)
        labels, seeds = [job.label for job in group], [job.seed for job in group]
        few = replace(self.sample, steps=min(self.sample.steps, TRIED_STEPS))
        forecast(self.world, [episode] * len(group), short, few, seeds, silent, labels)

    def estimated(self) -> Estimate:
        """What is left of it to do, before any of it is done."""
        with self.at_work():
            return self.estimate()

    def estimate(self) -> Estimate:
        """Of what is `missing`, measured within `at_work` on a short piece of it."""
        info = (self.missing or self.jobs)[0].info
        rollouts = len(self.missing) + self.absent * len(self.protocol.seeds) * self.protocol.trajectories
        batches = [min(self.batch, rollouts - first) for first in range(0, rollouts, self.batch)]
        return estimate(
            self.world,
            lambda: shortened(self.dataset.read(info), self.protocol, self.world),
            self.protocol,
            self.sample,
            self.scorer,
            batches,
            sum(job.first for job in self.missing) + self.absent,
        )


def prepare(
    protocol: Protocol,
    model: Path,
    data: Path,
    out: Path,
    device: str,
    batch: int,
    sample: SampleConfig | None,
    keep: bool = True,
) -> Plan:
    """All that is checked and loaded before the first rollout; raises as `evaluate` does.

    `keep`: whether `out` may be written to. If not, the footage may have fewer episodes than are asked for.
    """
    absent = 0
    refuse_taken(out, "results")
    if batch < 1:
        raise UserError(f"--batch is {batch}: predict at least 1 episode at a time")
    dataset, target, run = EpisodeDataset.open(data), resolve_device(device), local_run(model)
    world = load(run, target)
    sample = sample or protocol.settings(world.config.sample)
    check_sampling(world, protocol, sample)
    # What is recorded as asked for is what is done, where the protocol has a word in it.
    steps, guidance = protocol.steps and sample.steps, None if protocol.guidance is None else sample.guidance
    protocol = replace(protocol, steps=steps, guidance=guidance)
    there = len(dataset.episodes(protocol.split)[:: protocol.every])
    if not keep and 0 < there < protocol.episodes:
        absent = protocol.episodes - there
        protocol = replace(protocol, episodes=there)
        print(f"{data} has {there} of these episodes: the other {absent:,} are taken to be like them", file=sys.stderr)
    infos = held_out_episodes(dataset, world, protocol)
    labels = labels_of(world, infos, protocol)
    told = world.config.model.condition == "action" and sample.guidance > 0
    # Better missing now than after the first rollout.
    asked = replace(protocol, episodes=protocol.episodes + absent)
    scorer = load_scorer(asked, target, Footage(dataset, infos, told, out if keep else None))
    for metric, reason in scorer.missing.items():
        print(f"{metric} is not computed: {reason}", file=sys.stderr)
    autoencoder = sha256(run / AUTOENCODER / WEIGHTS)
    settings = [REVISION, world.sha256, autoencoder, asdict(world.config.model), asdict(sample), str(world.precision)]
    settings += [protocol.context, protocol.frames, world.config.clip.interval]  # not how many: more can be added
    jobs = jobs_of(protocol, dataset, infos, labels, out, sample.seed, settings)
    return Plan(protocol, sample, run, world, autoencoder, data, dataset, scorer, jobs, batch, absent)


@dataclass(frozen=True)
class Job:
    """One trajectory to predict."""

    info: EpisodeInfo
    label: int
    seed: int
    """Of its noise."""
    first: bool
    """Of the trajectories of its episode."""
    path: Path
    fingerprint: str


def jobs_of(
    protocol: Protocol,
    dataset: EpisodeDataset,
    infos: Sequence[EpisodeInfo],
    labels: Sequence[int],
    out: Path,
    offset: int,
    settings: list[Any],
) -> list[Job]:
    """By episode, then by seed, then by trajectory. `offset`: added to all seeds of noise. `settings`: what else
    decides what is predicted.
    """
    jobs = []
    for index, (info, label) in enumerate(zip(infos, labels, strict=True)):
        for seed, trajectory in product(protocol.seeds, range(protocol.trajectories)):
            noise = offset + noise_seed(seed, index, trajectory)
            fingerprint = hashlib.sha256(
                json.dumps([*settings, dataset.digest(info), label, noise]).encode()
            ).hexdigest()
            path = prediction_path(out, info.name, seed, trajectory)
            jobs.append(Job(info, label, noise, (seed, trajectory) == (protocol.seeds[0], 0), path, fingerprint))
    return jobs


def predict_missing(plan: Plan) -> None:
    """Predict and score what is not on disk yet; every batch is written when it is finished."""
    world, dataset, protocol, scorer, missing = plan.world, plan.dataset, plan.protocol, plan.scorer, plan.missing
    done = (len(plan.jobs) - len(missing)) * protocol.frames
    with progress(f"predicting {dataset.folder.name}", len(plan.jobs) * protocol.frames, done) as advance:
        for first in range(0, len(missing), plan.batch):
            group = missing[first : first + plan.batch]
            read = {job.info.name: job.info for job in group}  # once, however many trajectories it has in the batch
            read = {name: shortened(dataset.read(info), protocol, world) for name, info in read.items()}
            episodes = [read[job.info.name] for job in group]
            seeds, labels = [job.seed for job in group], [job.label for job in group]
            made = forecast(world, episodes, protocol, plan.sample, seeds, advance, labels)
            for job, episode, video in zip(group, episodes, made.videos, strict=True):
                advance(0, "scoring")
                judged = scorer.judge(world, episode, video, job.first)
                measured = Measured(
                    scores=judged.scores,
                    features=judged.features,
                    frames=len(video),
                    rollout_seconds=made.rollout_seconds / len(group),
                    decode_seconds=made.decode_seconds / len(group),
                    batch=len(group),
                    hardware=hardware_name(world.device),
                    fingerprint=job.fingerprint,
                    how=scorer.how,
                )
                write_prediction(job.path, Prediction(video, judged.reconstruction, measured))


def measured_again(plan: Plan, job: Job) -> Measured:
    """What is on disk of a finished trajectory; scored again, not predicted, where a metric could not be computed then.

    The pictures stay on disk: those of a whole protocol are gigabytes.
    """
    found = read_prediction(job.path)
    if not plan.scorer.lacks(found.measured, job.first):
        return found.measured
    episode = shortened(plan.dataset.read(job.info), plan.protocol, plan.world)
    judged = plan.scorer.judge(plan.world, episode, found.video, job.first)
    measured = replace(found.measured, scores=judged.scores, features=judged.features, how=plan.scorer.how)
    write_prediction(job.path, Prediction(found.video, judged.reconstruction, measured))
    return measured


def measured_speed(measured: Sequence[Measured]) -> Speed:
    """From the times of all batches, those of earlier, interrupted runs included.

    Only of one kind, the most frequent: batches of another size, or from another machine, have another speed.
    """
    hardware, batch = mode((one.hardware, one.batch) for one in measured)
    alike = [one for one in measured if (one.hardware, one.batch) == (hardware, batch)]
    frames = sum(one.frames for one in alike)
    rollout_seconds = sum(one.rollout_seconds for one in alike)
    decode_seconds = sum(one.decode_seconds for one in alike)
    both = rollout_seconds + decode_seconds
    return Speed(
        hardware=hardware,
        batch=batch,
        rollout_frames_per_second=frames / rollout_seconds,
        decode_frames_per_second=frames / decode_seconds,
        frames_per_second=frames / both,
        seconds_per_frame=both / frames,
    )


def count_tokens(config: TransformerConfig, frames: int) -> TokenCounts:
    """Of what the last of `frames` frames sees, itself included; and of all of them, if each were fine."""
    layout = layout_of(config, frames)
    coarse = [segment for segment in layout.segments if segment.level == COARSE]
    fine = layout.segments[-1]
    return TokenCounts(
        fine_frames=fine.frames,
        fine_per_frame=fine.tokens_per_frame,
        coarse_frames=sum(segment.frames for segment in coarse),
        coarse_per_frame=coarse[0].tokens_per_frame if coarse else 0,
        total=layout.tokens,
        uniform=frames * fine.tokens_per_frame,
    )


def environment(world: WorldModel, scorer: Scorer) -> dict[str, Any]:
    """What the scores were made with. Predictions from an earlier call may be from other hardware: see `Speed`."""
    return {
        "hardware": hardware_name(world.device),
        "device": str(world.device),
        "threads": torch.get_num_threads(),
        "precision": str(world.precision).removeprefix("torch."),
        "nextframe": VERSION,
        "torch": torch.__version__,
        **({"torchmetrics": torchmetrics_version()} if {"psnr", "ssim"} & set(scorer.frames) else {}),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _describe_model(world: WorldModel, run: Path, autoencoder: str) -> dict[str, Any]:
    return {
        "run": str(run),
        "sha256": world.sha256,
        "autoencoder_sha256": autoencoder,
        "parameters": parameters_of(world.transformer),
        "autoencoder_parameters": parameters_of(world.autoencoder),
        "config": asdict(world.config),
        "autoencoder_config": asdict(world.autoencoder.config),
    }
