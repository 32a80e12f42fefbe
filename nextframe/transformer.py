"""The one transformer: tokens and their layout in, a velocity per fine token out.

It has never heard of data sets, devices or cache policy, nor of how long a window is. The kinds of model are kinds of
layout.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextframe.architecture import TransformerConfig
from nextframe.attention import concatenated
from nextframe.cache import KeyValueCache
from nextframe.layers import Block, Modulation, Seen, TimeEmbedding, VectorEmbedding, adaptive_layer_norm, chunks
from nextframe.layout import COARSE, FINE, Layout, newest_apart
from nextframe.mask import views
from nextframe.rope import heading_table, rotary_table
from nextframe.shapes import FrameConditions, FrameTimes, Latents, Modulations, RotaryTable, Tokens


@dataclass(frozen=True)
class Rows:
    """So many rows of a batch, where their tokens stand in time, and the cache that they see and write."""

    count: int
    layout: Layout
    cache: KeyValueCache | None = None
    headings: Tensor | None = None
    """Which way each frame of the layout faces, int64 [count, f]: of a model with a compass."""


def patchify(latents: Latents, patch: int) -> Tokens:
    """[b, f, c, h, w] -> [b, f, n, c p p], tokens by row and column, each patch flattened as (c, p1, p2)."""
    b, f, c, h, w = latents.shape
    x = latents.reshape(b, f, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(b, f, (h // patch) * (w // patch), c * patch * patch)


def unpatchify(tokens: Tokens, patch: int, channels: int) -> Latents:
    """The inverse of `patchify`, for a square grid."""
    b, f, n, _ = tokens.shape
    side = round(n**0.5)
    x = tokens.reshape(b, f, side, side, channels, patch, patch)
    return x.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, f, channels, side * patch, side * patch)


class Transformer(nn.Module):
    """FAR (arXiv 2503.19325): DiT blocks, one condition vector per frame, frame-causal attention over token levels."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        coarse = config.coarse_patch is not None
        patches = [config.patch, config.coarse_patch] if coarse else [config.patch]
        self.embed = nn.ModuleList(nn.Linear(p * p * config.latent_channels, config.width) for p in patches if p)
        self.time = TimeEmbedding(config.width)
        if config.condition == "vector":
            self.condition = VectorEmbedding(config.action_size, config.width)
        elif config.condition != "none":
            self.condition = nn.Embedding(config.classes + 1, config.width)
        last = config.layers - 1
        self.blocks = nn.ModuleList(Block(config.width, config.heads, coarse, i == last) for i in range(config.layers))
        self.final_modulation = Modulation(config.width, 2)
        self.head = nn.Linear(config.width, config.patch**2 * config.latent_channels)
        self.initialise()
        # In the order of use.
        self._modulated = [module for module in self.modules() if isinstance(module, Modulation)]

    def initialise(self) -> None:
        """Xavier everywhere; small embeddings; zero modulations and head, so that the network starts as nothing."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Modulation):
                nn.init.zeros_(module.linear.weight)
            elif isinstance(module, TimeEmbedding):
                nn.init.normal_(module.expand.weight, std=0.02)
                nn.init.normal_(module.project.weight, std=0.02)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.head.weight)

    def tokens(self, latents: Latents, layout: Layout) -> list[Tokens]:
        """The patches of `latents` (the frames of `layout`, in its order), one tensor per segment."""
        patches = {FINE: self.config.patch, COARSE: self.config.coarse_patch or 0}
        parts = latents.split([segment.frames for segment in layout.segments], dim=1)
        return [patchify(part, patches[segment.level]) for part, segment in zip(parts, layout.segments, strict=True)]

    def latents(self, tokens: Tokens) -> Latents:
        """The frames of fine tokens."""
        return unpatchify(tokens, self.config.patch, self.config.latent_channels)

    def forward(
        self,
        tokens: Sequence[Tokens],
        layout: Layout,
        time: FrameTimes,
        condition: FrameConditions | None = None,
        cache: KeyValueCache | None = None,
        headings: Tensor | None = None,
    ) -> Tokens:
        """Velocity of the fine tokens, [b, f_fine, n, c p p].

        `tokens`: one tensor [b, f, n, c p p] per segment of `layout`. `time` [b, f], `condition` (int64 [b, f] or float
        [b, f, a]) and, of a model with a compass, `headings` (int64 [b, f]): one column per frame of it. With a
        `cache` the tokens also see what lies on its stack, and their keys and values are written above it. Raises
        ValueError where the condition or the headings are missing.
        """
        rows = Rows(len(time), layout, cache, headings)
        return self.velocity(tokens, [rows], self.modulations(time, condition))

    def modulations(self, time: FrameTimes, condition: FrameConditions | None) -> Modulations:
        """What times and conditions do to the network, per frame: all that depends on them. Two [b, f, 3 d] per block,
        of attention and MLP, and last one [b, f, 2 d] of the head.

        A sampler knows the times of its steps beforehand, and computes them all in one go.
        """
        vectors = F.silu(self.condition_vectors(time, condition))
        return [part(vectors) for part in self._modulated]

    def velocity(
        self,
        tokens: Sequence[Tokens],
        rows: Sequence[Rows],
        modulations: Modulations,
        output_frames: int | None = None,
    ) -> Tokens:
        """`forward` with the modulations at hand, of the newest `output_frames` fine frames alone; None: of all.

        Returns [b, output_frames, n, c p p]. The rows may stand at other times and over other caches; in number and
        size their segments are alike.
        """
        layout, device = rows[0].layout, tokens[0].device
        output_frames = output_frames or layout.segments[-1].frames
        seen = self._seen(rows, device)
        seen_in_last = self._seen(
            [replace(one, layout=newest_apart(one.layout, output_frames)) for one in rows], device
        )
        return self.run_blocks(
            tokens, layout, output_frames, modulations, self.rotary(rows, device), seen, seen_in_last
        )

    def run_blocks(
        self,
        tokens: Sequence[Tokens],
        layout: Layout,
        output_frames: int,
        modulations: Modulations,
        rotary: RotaryTable,
        seen: Sequence[Seen],
        seen_in_last: Sequence[Seen],
    ) -> Tokens:
        """`velocity` where it is settled how tokens turn, `rotary` [(b,) n, e / 2, 2], and what they see: `seen`, and
        in the last block `seen_in_last`.

        Of `layout` the levels and sizes alone matter: nothing in here depends on when a frame is.
        """
        levels = [segment.level for segment in layout.segments]
        hidden: list[Tensor] = [self.embed[level](x) for level, x in zip(levels, tokens, strict=True)]
        *blocks, last = self.blocks
        for index, block in enumerate(blocks):
            parts = modulations[2 * index : 2 * index + 2]
            hidden = block(hidden, parts, levels, len(levels), rotary, seen, index)
        # In the last block only the frames that are asked for have queries: nothing else of it would reach the head. So
        # the layout is cut there, and `seen_in_last` is what those see.
        apart = newest_apart(layout, output_frames)
        levels = [segment.level for segment in apart.segments]
        *older, newest = hidden
        hidden = [*older, *newest.split([part.frames for part in apart.segments[len(older) :]], dim=1)]
        newest = concatenated(
            last(hidden, modulations[-3:-1], levels, apart.windows, rotary, seen_in_last, len(blocks))
        )
        # In this order, unlike in the blocks, as in the published checkpoints.
        scale, shift = chunks(modulations[-1][:, -newest.shape[1] :], 2)
        return self.head(adaptive_layer_norm(newest, shift, scale))

    def rotary(self, rows: Sequence[Rows], device: torch.device) -> RotaryTable:
        """How the tokens of these rows turn."""
        tables = [self._positions(one, device) for one in rows]
        if len(rows) == 1:
            return tables[0]
        return torch.cat([table.expand(one.count, -1, -1, -1) for table, one in zip(tables, rows, strict=True)])

    def _positions(self, rows: Rows, device: torch.device) -> RotaryTable:
        config = self.config
        table = rotary_table(rows.layout, config.rope_axes, config.riflex_frames, device)
        if not config.compass:
            return table
        if rows.headings is None:
            raise ValueError("this model has a compass: give the heading of each frame")
        compass = heading_table(rows.layout, rows.headings, config.compass, config.headings)
        return torch.cat([table.expand(rows.count, -1, -1, -1), compass], dim=-2)

    def _seen(self, rows: Sequence[Rows], device: torch.device) -> list[Seen]:
        below = [Layout() if one.cache is None else one.cache.layout for one in rows]
        return [
            Seen(one.count, views(one.layout, past, self.config, device), one.cache)
            for one, past in zip(rows, below, strict=True)
        ]

    def condition_vectors(self, time: FrameTimes, condition: FrameConditions | None) -> Tensor:
        """One vector per frame, [b, f, d]: its time, and its label or action."""
        vectors = self.time(time)
        if self.config.condition == "none":
            return vectors
        if condition is None:
            raise ValueError(f"this model is conditioned on {self.config.condition}s: give one per frame")
        return vectors + self.condition(condition)

    def with_config(self, config: TransformerConfig) -> "Transformer":
        """The same network, its weights shared, under settings that do not touch them (how far it sees, RoPE)."""
        other = copy.copy(self)
        other.config = config
        return other


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
