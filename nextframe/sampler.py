"""Frames from a model, the plain way: each by following the flow from noise, everything computed at every step.

`uncached_frame` is the reference for `session.Session`, which is fast and gives the same frames. `sample_clip` is how a
Video DiT samples, which has no next frame.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nextframe.architecture import TransformerConfig
from nextframe.conditions import headings_of
from nextframe.config import SampleConfig
from nextframe.errors import UserError
from nextframe.flow import CLEAN_TIME, COARSE_TIME, SOLVERS, Velocity, noise_generator
from nextframe.layout import COARSE, Layout, layout_of
from nextframe.transformer import Transformer


def integrated(velocity: Velocity, noise: Tensor, sample: SampleConfig, branches: int) -> Tensor:
    """From noise to latents [b, ...]. With two branches `velocity` is of batches [null; condition], and guidance
    (classifier-free, arXiv 2207.12598) is v_null + guidance (v_condition - v_null)."""

    def guided(x: Tensor, s: float) -> Tensor:
        null, condition = velocity(torch.cat([x, x]), s).chunk(2)
        return null + sample.guidance * (condition - null)

    return SOLVERS[sample.solver](guided if branches == 2 else velocity, noise, sample.steps)


def frame_noise(shape: tuple[int, ...], seeds: list[int], frame: int) -> Tensor:
    """Starting noise of one frame [b, *shape]: each sample has its own seed, so the batch changes nothing."""
    return torch.stack([torch.randn(shape, generator=noise_generator(seed, frame)) for seed in seeds])


def at_sampling(config: TransformerConfig, sample: SampleConfig, frames: int) -> TransformerConfig:
    """How a model sees when it samples up to `frames` frames: as it was trained, or extrapolating (section 4.3).

    Raises UserError for a memory shorter than the model's window, and for guidance by what the model is not told.
    """
    if config.condition == "none" and sample.guidance != 1:
        raise UserError(f"guidance is {sample.guidance}, and the model is told nothing it could follow: set it to 1")
    given: dict[str, Any] = {
        "memory": sample.memory,
        "slide": sample.slide if sample.slide > 1 else None,
        "riflex_frames": frames if sample.riflex else None,
        "temporal_decay": sample.temporal_decay or None,
    }
    try:
        return replace(config, **{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        raise UserError(f"sampling: {error}") from None


def layout_times(layout: Layout) -> list[float]:
    """The network time of every frame of a layout of clean frames."""
    return [
        COARSE_TIME if segment.level == COARSE else CLEAN_TIME
        for segment in layout.segments
        for _ in range(segment.frames)
    ]


def guidance_branches(config: TransformerConfig, sample: SampleConfig) -> tuple[bool, ...]:
    """Whether the condition is given, in each of the networks that guidance needs: without it, with it, or both."""
    if config.condition == "none" or sample.guidance == 1:
        return (True,)
    return (False,) if sample.guidance == 0 else (False, True)


def for_all_branches(config: TransformerConfig, sample: SampleConfig, conditions: Tensor) -> Tensor:
    """The conditions of all branches of guidance, one after the other along the batch."""
    null = torch.full_like(conditions, config.null_condition)
    return torch.cat([conditions if given else null for given in guidance_branches(config, sample)])


@torch.no_grad()
def uncached_frame(
    model: Transformer, context: Tensor, conditions: Tensor | None, sample: SampleConfig, seeds: list[int]
) -> Tensor:
    """The reference: the next frame [b, c, h, w] after `context` [b, f, c, h, w], everything computed at every step.

    `conditions`: int64 [b, f + 1] or float32 [b, f + 1, a], the new frame's last. Whoever extrapolates gives a
    model of the configuration `at_sampling`.
    """
    config = model.config
    frames = context.shape[1] + 1
    layout = layout_of(config, frames)
    context = context[:, frames - layout.frames :]
    past = torch.tensor(layout_times(layout)[:-1], device=context.device)

    def velocity(x: Tensor, s: float) -> Tensor:
        clip = torch.cat([context.repeat(len(x) // len(context), 1, 1, 1, 1), x[:, None]], dim=1)
        time = torch.cat([past, past.new_tensor([1000 * s])]).expand(len(x), -1)
        output = model(model.tokens(clip, layout), layout, time, of_branches, headings=headings)
        return model.latents(output[:, -1:])[:, 0].float()

    seen = None if conditions is None else conditions[:, frames - layout.frames :]
    of_branches = None if seen is None else for_all_branches(config, sample, seen)
    guides = len(guidance_branches(config, sample))
    headings = headings_of(config, conditions)
    if headings is not None:
        headings = headings[:, frames - layout.frames :].repeat(guides, 1)
    noise = frame_noise(context.shape[2:], seeds, frames - 1).to(context.device)
    return integrated(velocity, noise, sample, guides)


@torch.no_grad()
def sample_clip(
    model: Transformer, batch: int, frames: int, conditions: Tensor | None, sample: SampleConfig, seeds: list[int]
) -> Tensor:
    """A clip of a Video DiT, from nothing: all frames denoised together, at one time. Latents [b, frames, c, h, w].

    `conditions`: one per frame, as in `Session`.
    """
    config = model.config
    layout = layout_of(config, frames)
    device = model.head.weight.device
    noise = torch.stack([frame_noise(config.latent_shape, seeds, frame) for frame in range(frames)], dim=1).to(device)
    of_branches = None if conditions is None else for_all_branches(config, sample, conditions.to(device))

    def velocity(x: Tensor, s: float) -> Tensor:
        time = torch.full(x.shape[:2], 1000 * s, device=device)
        return model.latents(model(model.tokens(x, layout), layout, time, of_branches)).float()

    guides = len(guidance_branches(config, sample))
    return integrated(velocity, noise, sample, guides)
