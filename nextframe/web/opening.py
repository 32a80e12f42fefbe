"""From the words of the command line to what is played."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nextframe.data.episodes import EpisodeDataset
from nextframe.errors import UserError
from nextframe.parallel import resolve_device
from nextframe.runs import WorldModel, load
from nextframe.sampler import at_sampling
from nextframe.web.stages import ModelStage
from nextframe.web.starts import Library

TRIED_CONTEXT, TRIED_FRAMES = 24, 4
WORTH_A_THREAD = 1.15
"""Times as fast as one thread, for all of them to be worth their waiting for each other."""


def open_model(model: Path, data: Path | None, given: dict[str, Any], real: bool, device: str) -> ModelStage:
    """A run to play. `given`: sampling settings in place of the model's own, where they are not None.

    Raises UserError when it is no run, or the footage or the settings are of another kind.
    """
    dataset = None if data is None else EpisodeDataset.open(data)
    world = load(model, resolve_device(device))
    if world.config.model.attention == "full":
        raise UserError(f"{model} is a Video DiT, which has no next frame: play a frame-autoregressive model")
    try:
        settings = {name: value for name, value in given.items() if value is not None}
        sample = replace(world.config.sample, **settings)
        if sample.riflex:
            raise ValueError("RIFLEx has to know how long a walk will be: set riflex: false in its config.yaml")
        at_sampling(world.config.model, sample, 1)
    except ValueError as error:
        raise UserError(f"sampling: {error}") from None
    settle_threads(world)
    return ModelStage(Path(model).name, world, Library(world, dataset), sample, real)


def settle_threads(world: WorldModel) -> None:
    """Give torch one thread if a frame is made as fast by one: it then waits for no other, whatever else is at work.

    A frame of a small model is hundreds of small operators, and each would wait for all cores (docs/play.md).
    """
    if world.device.type != "cpu" or torch.get_num_threads() == 1:
        return
    all_threads, seconds = torch.get_num_threads(), {}
    config = world.config.model
    shape = (TRIED_CONTEXT, config.latent_channels, config.latent_size, config.latent_size)
    action = [0.0] * config.action_size if config.condition == "vector" else 0
    for threads in (1, all_threads):
        torch.set_num_threads(threads)
        walk = world.walk_on(torch.zeros(shape), None, None, TRIED_CONTEXT + TRIED_FRAMES, 0)
        took = []
        for _ in range(TRIED_FRAMES):
            began = time.perf_counter()
            walk.imagine(action)
            took.append(time.perf_counter() - began)
        seconds[threads] = min(took[1:])  # the first reads the context
    torch.set_num_threads(1 if seconds[1] < WORTH_A_THREAD * seconds[all_threads] else all_threads)
