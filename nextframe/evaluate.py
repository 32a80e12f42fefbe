"""How well a model predicts episodes it has never seen, against two baselines and its own ceiling.

For each held-out episode: encode the context, roll out under the true actions, decode, compare with the truth. What
is finished is on disk at once, so the same command goes on where it stopped.
"""

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mode
from typing import Any

import numpy as np
import torch

from nextframe.autoencoder import decode_video, encode_video
from nextframe.checkpoint import AUTOENCODER, WEIGHTS
from nextframe.config import Protocol, SampleConfig, TransformerConfig
from nextframe.data.episodes import Episode, EpisodeDataset, EpisodeInfo
from nextframe.errors import UserError
from nextframe.files import sha256, sole_writer, sweep
from nextframe.forecast import Forecast, forecast, held_out_episodes, shortened
from nextframe.layout import COARSE, layout_of
from nextframe.metrics.image import psnr, ssim, torchmetrics_version
from nextframe.parallel import hardware_name, matrix_precision, resolve_device, resolve_precision
from nextframe.presets import PROTOCOLS
from nextframe.progress import progress
from nextframe.results import (
    METHODS,
    PREDICTIONS,
    Method,
    Prediction,
    Results,
    Speed,
    Tokens,
    is_done,
    prediction_path,
    read_prediction,
    shown,
    summarise,
    write_prediction,
    write_results,
)
from nextframe.runs import WorldModel, load
from nextframe.version import VERSION

REVISION = 1
"""Of how predictions are made and scored; raise it when that changes, so that no result mixes two."""


def evaluate(
    protocol: Protocol | str,
    model: Path,
    data: Path,
    out: Path,
    device: str = "auto",
    batch: int = 8,
    sample: SampleConfig | None = None,
) -> Results:
    """Predict the held-out episodes of `data` with the run `model`; writes `results.json` and predictions to `out`.

    `protocol`: one of PROTOCOLS by name, or your own. `batch`: episodes predicted side by side; it changes speed and
    memory only. `sample`: the model's own settings if not given. Finished episodes are kept unless the weights, the
    protocol, the footage or the sampling settings have changed. Raises UserError when footage, model and protocol do
    not fit together.
    """
    protocol = named_protocol(protocol)
    if batch < 1:
        raise UserError(f"--batch is {batch}: predict at least 1 episode at a time")
    torchmetrics_version()  # better missing now than after the first rollout
    dataset, target = EpisodeDataset.open(data), resolve_device(device)
    world = load(model, target)
    sample = sample or world.config.sample
    infos = held_out_episodes(dataset, world, protocol)
    precision = resolve_precision("auto", target)
    autoencoder = sha256(model / AUTOENCODER / WEIGHTS)
    settings = [REVISION, world.sha256, autoencoder, asdict(world.config.model), asdict(sample), str(precision)]
    settings += [protocol.context, protocol.frames]  # not how many episodes: more of them can be added
    jobs = [_job(out, info, sample.seed + index, settings) for index, info in enumerate(infos)]
    with sole_writer(out):
        sweep(out / PREDICTIONS)  # `out` itself may hold more than results
        with matrix_precision(precision, target):
            predict_missing(world, dataset, jobs, protocol, sample, batch)
        predictions = [read_prediction(job.path) for job in jobs]
        scores, gains = summarise(np.stack([prediction.scores for prediction in predictions]))
        results = Results(
            protocol=protocol,
            sample=sample,
            episodes=tuple(job.info.name for job in jobs),
            seeds=tuple(job.seed for job in jobs),
            scores=scores,
            gains=gains,
            speed=measured_speed(predictions),
            tokens=count_tokens(world.config.model, protocol.context + protocol.frames),
            model=_describe_model(world, model, autoencoder),
            data={"folder": str(data), **asdict(dataset.info)},
            environment=environment(target, precision),
        )
        write_results(out, results)
    return results


def named_protocol(protocol: Protocol | str) -> Protocol:
    """Raises UserError for a name that is not in PROTOCOLS."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise UserError(f"there is no protocol {protocol!r}: choose {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol]


@dataclass(frozen=True)
class Job:
    """One episode to predict."""

    info: EpisodeInfo
    seed: int
    path: Path
    fingerprint: str


def _job(out: Path, info: EpisodeInfo, seed: int, settings: list[Any]) -> Job:
    content = json.dumps([*settings, info.sha256, seed])
    return Job(info, seed, prediction_path(out, info.name), hashlib.sha256(content.encode()).hexdigest())


def predict_missing(
    world: WorldModel, dataset: EpisodeDataset, jobs: list[Job], protocol: Protocol, sample: SampleConfig, batch: int
) -> None:
    """Predict and score what is not on disk yet; every batch is written when it is finished."""
    missing = [job for job in jobs if not is_done(job.path, job.fingerprint)]
    done = (len(jobs) - len(missing)) * protocol.frames
    with progress(f"predicting {dataset.folder.name}", len(jobs) * protocol.frames, done) as advance:
        for first in range(0, len(missing), batch):
            group = missing[first : first + batch]
            episodes = [shortened(dataset.read(job.info), protocol) for job in group]
            made = forecast(world, episodes, protocol, sample, [job.seed for job in group], advance)
            for index, (job, episode) in enumerate(zip(group, episodes, strict=True)):
                write_prediction(job.path, _scored(world, job, episode, made, index))


def _scored(world: WorldModel, job: Job, episode: Episode, made: Forecast, index: int) -> Prediction:
    """The forecast of one episode of a batch, and its scores beside those of the other methods."""
    video = made.videos[index]
    context, truth = np.split(episode.video, [len(episode.video) - len(video)])
    latents = encode_video(world.autoencoder, torch.from_numpy(truth))
    reconstruction = decode_video(world.autoencoder, latents).numpy()
    mean = np.rint(context.mean(axis=0, dtype=np.float64)).astype(np.uint8)
    candidates: dict[Method, np.ndarray] = {
        "model": video,
        "repeat_last": np.repeat(context[-1:], len(truth), axis=0),
        "context_mean": np.repeat(mean[None], len(truth), axis=0),
        "reconstruction": reconstruction,
    }
    scores = [torch.stack([psnr(candidates[method], truth), ssim(candidates[method], truth)]) for method in METHODS]
    batch = len(made.videos)
    return Prediction(
        video=video,
        reconstruction=reconstruction[[frame - 1 for frame in shown(len(truth))]],
        scores=torch.stack(scores).numpy(),
        rollout_seconds=made.rollout_seconds / batch,
        decode_seconds=made.decode_seconds / batch,
        batch=batch,
        hardware=hardware_name(world.device),
        fingerprint=job.fingerprint,
    )


def measured_speed(predictions: list[Prediction]) -> Speed:
    """From the times of all batches, those of earlier, interrupted runs included.

    Only of one kind, the most frequent: batches of another size, or from another machine, have another speed.
    """
    hardware, batch = mode((prediction.hardware, prediction.batch) for prediction in predictions)
    predictions = [found for found in predictions if (found.hardware, found.batch) == (hardware, batch)]
    frames = sum(len(prediction.video) for prediction in predictions)
    rollout_seconds = sum(prediction.rollout_seconds for prediction in predictions)
    decode_seconds = sum(prediction.decode_seconds for prediction in predictions)
    both = rollout_seconds + decode_seconds
    return Speed(
        hardware=hardware,
        batch=batch,
        rollout_frames_per_second=frames / rollout_seconds,
        decode_frames_per_second=frames / decode_seconds,
        frames_per_second=frames / both,
        seconds_per_frame=both / frames,
    )


def count_tokens(config: TransformerConfig, frames: int) -> Tokens:
    """Of a sequence of `frames` frames, the one being predicted included."""
    layout = layout_of(config, frames)
    coarse = [segment for segment in layout.segments if segment.level == COARSE]
    fine = layout.segments[-1]
    return Tokens(
        fine_frames=fine.frames,
        fine_per_frame=fine.tokens_per_frame,
        coarse_frames=sum(segment.frames for segment in coarse),
        coarse_per_frame=coarse[0].tokens_per_frame if coarse else 0,
        total=layout.tokens,
        uniform=frames * fine.tokens_per_frame,
    )


def environment(device: torch.device, precision: torch.dtype) -> dict[str, Any]:
    """What the scores were made with. Predictions from an earlier call may be from other hardware: see `Speed`."""
    return {
        "hardware": hardware_name(device),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "precision": str(precision).removeprefix("torch."),
        "nextframe": VERSION,
        "torch": torch.__version__,
        "torchmetrics": torchmetrics_version(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _describe_model(world: WorldModel, run: Path, autoencoder: str) -> dict[str, Any]:
    return {
        "run": str(run),
        "sha256": world.sha256,
        "autoencoder_sha256": autoencoder,
        "parameters": sum(weight.numel() for weight in world.transformer.parameters()),
        "autoencoder_parameters": sum(weight.numel() for weight in world.autoencoder.parameters()),
        "config": asdict(world.config),
        "autoencoder_config": asdict(world.autoencoder.config),
    }
