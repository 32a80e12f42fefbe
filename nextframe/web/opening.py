"""From the words of the command line to what is played."""

from dataclasses import replace
from pathlib import Path

import torch

from nextframe.config import SampleConfig
from nextframe.data.episodes import EpisodeDataset
from nextframe.devices import choose_threads, resolve_device
from nextframe.errors import UserError
from nextframe.runs import WorldModel, load
from nextframe.sampler import at_sampling
from nextframe.web.stages import ModelStage
from nextframe.web.starts import Library

TRIED_CONTEXT, TRIED_FRAMES, TRIED_STEPS = 24, 4, 2


def open_model(model: Path, data: Path | None, sample: SampleConfig, real: bool, device: str) -> ModelStage:
    """A run to play. Raises UserError when it is no run, or the footage or the settings are of another kind."""
    dataset = None if data is None else EpisodeDataset.open(data)
    world = load(model, resolve_device(device))
    if world.config.model.attention == "full":
        raise UserError(f"{model} is a Video DiT, which has no next frame: play a frame-autoregressive model")
    if sample.riflex:
        raise UserError("RIFLEx has to know how long a walk will be: leave it out, or set riflex: false in config.yaml")
    at_sampling(world.config.model, sample, 1)
    choose_threads(world.device, lambda: _try_out(world, sample))
    return ModelStage(Path(model).name, world, Library(world, dataset), sample, real)


def _try_out(world: WorldModel, sample: SampleConfig) -> None:
    """A short walk, of few steps a frame: which number of threads is faster, they tell as well."""
    config = world.config.model
    action = [0.0] * config.action_size if config.condition == "vector" else 0
    label = 0 if config.condition == "label" else None
    few, room = replace(sample, steps=min(sample.steps, TRIED_STEPS)), TRIED_CONTEXT + TRIED_FRAMES
    walk = world.walk_on(torch.zeros(TRIED_CONTEXT, *config.latent_shape), None, few, room, label)
    for _ in range(TRIED_FRAMES):
        walk.imagine(action)
