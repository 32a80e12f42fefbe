"""What is minimised. An objective prepares a whole batch (what it draws is drawn there) and scores a part of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from nextframe.conditions import headings_of
from nextframe.config import WorldModelConfig
from nextframe.flow import CLEAN_TIME, COARSE_TIME, noised, training_levels
from nextframe.layout import Layout, shared_past
from nextframe.ranks import ALONE, Share
from nextframe.transformer import Transformer

Inputs = dict[str, Tensor]
"""Tensors whose first axis is the batch, so that a batch can be cut into micro-batches."""
LENGTHS = "lengths"
"""The one of them that says where the windows are. It stays on the CPU: to read it must not wait for a device."""
RESAMPLED = "resampled"
"""The one that says which frames enter as the model itself would make them; there only if some may."""
NOISE_BINS = 5
"""Bins of the noise level, equally wide, whose losses are told apart."""


class Score(NamedTuple):
    loss: Tensor
    """The mean over the batch axis: what is minimised."""
    terms: Tensor
    """What a person wants to know beside it, [terms, 2]: for each of the objective's `terms` a sum and of how many
    values, so that micro-batches, steps and processes can be added up. Without a gradient."""


class Objective(Protocol):
    """What is to become small: a loss of a network on a batch (`Task.objective`)."""

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of a score's terms."""
        ...

    @property
    def has_unused_parameters(self) -> bool:
        """Whether some weights have no gradient in some steps."""
        ...

    def prepare(self, batch: Any, generator: torch.Generator) -> Inputs:
        """Everything the loss of this batch needs; randomness comes from `generator` (on the CPU) alone.

        Noise is drawn for the batch of all processes and this one's rows are kept, so their number changes nothing.
        """
        ...

    def score(self, network: nn.Module, inputs: Inputs) -> Score:
        """The loss of a batch, or of some of its rows, as `prepare` left them."""
        ...


@dataclass(frozen=True)
class Clips:
    """A batch of training clips: scaled latents [b, f, c, h, w], and what their frames are conditioned on, if anything:

    ids, int64 [b, f], or vectors, float32 [b, f, a].
    """

    latents: Tensor
    conditions: Tensor | None
    lengths: tuple[int, ...] = ()
    """Window k ends with frame lengths[k] - 1; empty: one window, at the end of the clip."""
    share: Share = ALONE
    """Which rows of the batch of all processes these clips are."""


@dataclass(frozen=True)
class FrameFlowMatching:
    """Flow matching with a time of its own for every frame, and stochastic clean context (sections 3.1 and 3.2).

    Minimises the mean over the noisy frames i of each window of |v(x)_i - (noise_i - z_i)|^2, the mean over channels
    and pixels, where

        x_i = (1 - s_i) z_i + s_i noise_i,    network time t_i = 1000 s_i

    With probability `clean_context` a frame enters clean instead: x_i = z_i, t_i = CLEAN_TIME, and no loss. In a long
    model the frames before the window are context: coarse, x_i = z_i, t_i = COARSE_TIME, and no loss (section 3.3).
    Of the clean frames a share `resampled_context` (0 as published) are the model's own, made in one step from x_i at a
    noise level of their own and without a gradient: errors such as those that it will have to go on from.
    With full attention (Video DiT) all frames of a clip have one time: each sees the others as noisy as itself.
    """

    config: WorldModelConfig

    @property
    def terms(self) -> tuple[str, ...]:
        """The loss by noise level: `loss_at_0.1` is that of the frames between 0 and 0.2, each counted once."""
        return tuple(f"loss_at_{(number + 0.5) / NOISE_BINS:.1f}" for number in range(NOISE_BINS))

    @property
    def has_unused_parameters(self) -> bool:
        """Those of the coarse level, where no clip is longer than a window."""
        clip, model = self.config.clip, self.config.model
        return model.coarse_patch is not None and (clip.min_frames or clip.frames) <= model.window

    def layout(self, lengths: Sequence[int]) -> Layout:
        return shared_past(self.config.model, lengths)

    def prepare(self, batch: Clips, generator: torch.Generator) -> Inputs:
        """`input` [b, f, c, h, w], `time` [b, f], `target` [b, f_fine, c, h, w], `weight` [b, f_fine], `lengths`
        [b, windows], and where there are any `condition` [b, f] or [b, f, a], `headings` [b, f] and `resampled`
        [b, f_fine]; f counts the frames of the layout."""
        lengths = batch.lengths or (batch.latents.shape[1],)
        layout = self.layout(lengths)
        latents = layout.of_clip(batch.latents).float()
        b, f = latents.shape[:2]
        everyone, own = b * batch.share.ranks, batch.share.of
        windows = [segment.frames for segment in layout.segments[-layout.windows :]]
        fine = sum(windows)
        # Drawn for the windows alone: what is drawn must not depend on how much context there is.
        times = fine if self.config.model.attention == "frame-causal" else 1
        levels = own(training_levels((everyone, times), generator)).expand(b, fine)
        noise = own(torch.randn(everyone, fine, *latents.shape[2:], generator=generator))
        clean = own(torch.rand(everyone, fine, generator=generator)) < self.config.clean_context
        true = clean
        if share := self.config.resampled_context:
            true = clean & (own(torch.rand(everyone, fine, generator=generator)) >= share)
        window = noised(latents[:, -fine:], noise, levels.masked_fill(true, 0))
        time = torch.full((b, f), COARSE_TIME)
        time[:, -fine:] = (1000 * levels).masked_fill(true, CLEAN_TIME)
        inputs = {
            "input": torch.cat([latents[:, :-fine], window], dim=1),
            "time": time,
            "target": noise - latents[:, -fine:],
            "weight": torch.cat([frame_weights(part) for part in clean.split(windows, dim=1)], dim=1) / len(windows),
            LENGTHS: torch.tensor(lengths).repeat(b, 1),  # rows of their own: what is pinned must not overlap
        }
        if self.config.resampled_context:
            inputs[RESAMPLED] = clean & ~true
        if batch.conditions is not None:
            # A label belongs to the clip and is dropped for all of it; each action on its own.
            columns = 1 if self.config.model.condition == "label" else f
            dropped = own(torch.rand(everyone, columns, generator=generator)) < self.config.condition_dropout
            if self.config.model.condition == "vector":
                dropped = dropped[..., None]
            conditions = layout.of_clip(batch.conditions)
            headings = headings_of(self.config.model, batch.conditions)
            if headings is not None:  # of what was done, also where the model is not told
                inputs["headings"] = layout.of_clip(headings)
            inputs["condition"] = conditions.masked_fill(dropped, self.config.model.null_condition)
        return inputs

    @torch.no_grad()
    def resampled(self, transformer: Transformer, layout: Layout, inputs: Inputs) -> Inputs:
        """`inputs` where the frames to be resampled are clean, and the model's own: x_i - s_i v(x)_i."""
        chosen, frames, time = inputs[RESAMPLED], inputs["input"].clone(), inputs["time"].clone()
        window, window_time = (x[:, -chosen.shape[1] :] for x in (frames, time))
        levels = (window_time * chosen / 1000)[..., None, None, None]
        window -= levels * self.velocity(transformer, layout, inputs)
        window_time.masked_fill_(chosen, CLEAN_TIME)
        return {**inputs, "input": frames, "time": time}

    def velocity(self, transformer: Transformer, layout: Layout, inputs: Inputs) -> Tensor:
        """v(x) of the windows' frames, float32 [b, f_fine, c, h, w]."""
        tokens = transformer.tokens(inputs["input"], layout)
        condition, headings = inputs.get("condition"), inputs.get("headings")
        return transformer.latents(transformer(tokens, layout, inputs["time"], condition, headings=headings)).float()

    def score(self, network: nn.Module, inputs: Inputs) -> Score:
        assert isinstance(network, Transformer)
        layout = self.layout(inputs[LENGTHS][0].tolist())
        if RESAMPLED in inputs:
            inputs = self.resampled(network, layout, inputs)
        error = (self.velocity(network, layout, inputs) - inputs["target"]).square().mean(dim=(2, 3, 4))
        noisy = inputs["weight"] > 0
        levels = inputs["time"][:, -error.shape[1] :] / 1000
        return Score((error * inputs["weight"]).sum(dim=1).mean(), by_noise_level(error.detach(), levels, noisy))


def by_noise_level(error: Tensor, levels: Tensor, counted: Tensor) -> Tensor:
    """Sums and numbers of the frames' errors [b, f] by noise level, [NOISE_BINS, 2]; of those that are `counted`."""
    numbers = (levels * NOISE_BINS).ceil().clamp(1, NOISE_BINS) - 1  # level 0.2 is still of the first bin
    within = (numbers[..., None] == torch.arange(NOISE_BINS, device=error.device)) & counted[..., None]
    return torch.stack([(error[..., None] * within).sum(dim=(0, 1)), within.sum(dim=(0, 1))], dim=1)


def frame_weights(clean: Tensor) -> Tensor:
    """[b, f] weights of the frame losses: the mean over the frames of a clip that are not clean."""
    noisy = (~clean).float()
    return noisy / noisy.sum(dim=1, keepdim=True).clamp(min=1)
