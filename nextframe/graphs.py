"""A frame as one computation of fixed shapes, which a GPU records once and then replays (CUDA graphs).

A frame is thousands of small kernels, and launching them one by one takes longer than they do. In a recording only
numbers may change. So all that differs from frame to frame (what is read of the past, noise, conditions, positions,
where to write) is first copied to where the recording looks for it; and keys are read beyond the top of the cache, so
that a recording serves stacks of many heights, with a mask that hides them. What is computed is what `session.py`
computes.
"""

import gc
import sys
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from nextframe.cache import KeyValueCache
from nextframe.config import SampleConfig
from nextframe.errors import UserError
from nextframe.flow import noise_levels
from nextframe.layers import Seen
from nextframe.layout import Layout, newest_apart
from nextframe.mask import Span, View, added_to_logits, frame_mask
from nextframe.sampler import integrated, layout_times
from nextframe.transformer import Transformer

KEYS = 256
"""Keys are read in steps of so many: with a larger step there are fewer recordings, and more is read to be hidden."""
NEVER = 2**40
"""The frame of a place that nobody has written: later than any."""


LARGEST_DIFFERENCE = 0.05
"""Between a frame that is replayed and the same computed, root mean square, in units of the latter: what kernels of
other sizes may round differently is far less, and whatever reads or writes the wrong memory far more."""


class UnrecordableError(RuntimeError):
    """A GPU could not record a frame, or did not replay what had been recorded."""


class FrameGraphs:
    """The next frame of one batch of rollouts over one cache, for every shape of the work a recording of its own."""

    given_up: ClassVar[bool] = False
    """Whether a frame could not be recorded in this process."""

    def __init__(self, model: Transformer, sample: SampleConfig, cache: KeyValueCache) -> None:
        self._model, self._sample, self._cache = model, sample, cache
        self._device = model.head.weight.device
        self.forget()

    @property
    def replays(self) -> bool:
        """Whether frames of a session that is stepped by itself are recorded and replayed."""
        if self._sample.graphs == "auto":
            return self._device.type == "cuda" and not FrameGraphs.given_up
        return self._sample.graphs == "on"

    def forget(self) -> None:
        """The cache has moved: what was recorded would write where it was."""
        self._recordings: dict[Hashable, _Recording] = {}
        # One memory and one stream for all: they are replayed one after the other, and what they make is copied out.
        self._place = None
        if self.replays and self._device.type == "cuda":
            self._place = _Place(torch.cuda.graph_pool_handle(), torch.cuda.Stream(self._device))

    def frame(
        self,
        layout: Layout,
        past: Tensor,
        noise: Tensor,
        conditions: Tensor | None,
        rotary: Tensor,
    ) -> Tensor:
        """The next frame [b, c, h, w]; what is read of the past is left above the top of the cache.

        `layout`: the frames to be read and, last, the new one. `past`: latents of the former, [rows, f - 1, c, h, w],
        a row for every branch of guidance and sample. `noise`: [b, c, h, w]. `conditions`: [rows, f] or [rows, f, a].
        `rotary`: how the tokens of the layout turn. Where it cannot be recorded: with `auto` it is computed, and no
        session tries again in this process; with `on`, raises UserError.
        """
        device, below = noise.device, self._cache.layout
        own, top = layout.token_frames(device), below.tokens + layout.tokens
        keys = min(-(-top // KEYS) * KEYS, self._cache.capacity)
        inputs = {
            "past": past,
            "noise": noise,
            "rotary": rotary,
            "frames": own,
            "frames_of_keys": torch.cat([below.token_frames(device), own, own.new_full((keys - top,), NEVER)]),
            "places": torch.arange(below.tokens, top, device=device),
        }
        if conditions is not None:
            inputs["conditions"] = conditions
        shape = (keys, tuple((segment.level, segment.frames) for segment in layout.segments))
        if shape not in self._recordings:
            self._recordings[shape] = _Recording(self._model, self._sample, self._cache, layout, keys)
        recording = self._recordings[shape]
        try:
            return recording(inputs, self._place)
        except UnrecordableError as error:
            if self._sample.graphs == "on":
                raise UserError(f"{error}: set graphs to off") from error
            FrameGraphs.given_up = True
            self.forget()
            print(f"{error}: going on without, which is slower", file=sys.stderr)
            return recording.compute()


@dataclass(frozen=True)
class _Place:
    """Where recordings are made that share their memory, which they may only from one stream."""

    pool: Any
    stream: torch.cuda.Stream


class _Recording:
    """The next frame, for layouts of one shape and stacks of up to so many keys."""

    def __init__(
        self, model: Transformer, sample: SampleConfig, cache: KeyValueCache, layout: Layout, keys: int
    ) -> None:
        self.model, self.sample, self.cache, self.layout, self.keys = model, sample, cache, layout, keys
        self.device = model.head.weight.device
        self.noise_levels = noise_levels(sample.solver, sample.steps)
        self.read = layout.frames - 1
        *_, last = layout.segments
        self.tokens_read = layout.tokens - last.tokens_per_frame
        past_times = layout_times(layout)[:-1]
        self.times = torch.tensor([*past_times, *(1000 * s for s in self.noise_levels)], device=self.device)
        self.inputs: dict[str, Tensor] = {}
        self.graph: torch.cuda.CUDAGraph | None = None
        self.made: Tensor | None = None

    def __call__(self, inputs: dict[str, Tensor], place: _Place | None) -> Tensor:
        """The first time it is computed, the second time recorded on a GPU, and from then on replayed."""
        if not self.inputs:
            self.inputs = {name: x.to(self.device, copy=True) for name, x in inputs.items()}
            return self.compute()
        for name, x in inputs.items():
            self.inputs[name].copy_(x)
        if place is None:
            return self.compute()
        if self.graph is None:
            self.graph = self.record(place)
        self.graph.replay()
        assert self.made is not None
        return self.made.clone()

    def record(self, place: _Place) -> torch.cuda.CUDAGraph:
        """`compute`, recorded, and held against what it makes without. Raises UnrecordableError."""
        computed = self.compute()
        try:
            graph = self.captured(place)
            graph.replay()
            assert self.made is not None
            difference = ((self.made - computed).norm() / computed.norm()).item()
            if not difference <= LARGEST_DIFFERENCE:
                raise RuntimeError(f"replayed, it differs by {difference:.0%}")
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise UnrecordableError(f"{self.device} could not record a frame ({reason})") from error
        return graph

    def captured(self, place: _Place) -> torch.cuda.CUDAGraph:
        """`compute`, recorded: nothing of it runs before it is replayed."""
        graph = torch.cuda.CUDAGraph()
        # cuBLAS keeps a workspace for a stream: one that was made outside this memory goes when another session's does.
        torch._C._cuda_clearCublasWorkspaces()
        # Weights that autocast has cast for a recording lie in its memory: nobody else may find them there.
        enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        with (
            _nothing_collected(),
            torch.cuda.device(self.device),
            torch.autocast("cuda", dtype, enabled, cache_enabled=False),
            # Other threads go on meanwhile: `play` decodes in one.
            torch.cuda.graph(graph, place.pool, place.stream, capture_error_mode="thread_local"),
        ):
            self.made = self.compute()
        return graph

    def compute(self) -> Tensor:
        """All evaluations of the solver; the first also reads the past."""
        given, config = self.inputs, self.model.config
        visible = frame_mask(given["frames"], given["frames_of_keys"], config.temporal_decay)
        mask = added_to_logits(visible, self.cache.dtype)  # once, or every step of every block would make it so
        conditions = given.get("conditions")
        if conditions is not None:
            conditions = torch.cat([conditions, *[conditions[:, -1:]] * (len(self.noise_levels) - 1)], dim=1)
        rows = len(given["past"])
        modulations = self.model.modulations(self.times.expand(rows, -1), conditions)
        alone = Layout(newest_apart(self.layout, 1).segments[-1:])

        def velocity(x: Tensor, s: float) -> Tensor:
            number = self.noise_levels.index(s)
            column, latents, layout, start = self.read + number, x[:, None], alone, self.tokens_read
            first = column
            if number == 0:
                first, latents, layout, start = 0, torch.cat([given["past"], latents], dim=1), self.layout, 0
            seen = [self.seen(rows, mask, start)]
            parts = [part[:, first : column + 1] for part in modulations]
            tokens, rotary = self.model.tokens(latents, layout), given["rotary"][..., start:, :, :]
            out = self.model.run_blocks(tokens, layout, 1, parts, rotary, seen, seen)
            return self.model.latents(out)[:, 0].float()

        return integrated(velocity, given["noise"], self.sample, branches=rows // len(given["noise"]))

    def seen(self, rows: int, mask: Tensor, start: int) -> Seen:
        """What the tokens from `start` on see: those of the new frame in a span of their own, to be asked alone."""
        parts = pairwise((start, self.tokens_read, self.layout.tokens))
        spans = [Span(a - start, b - start, self.keys, mask[a:b]) for a, b in parts if a < b]
        places = self.cache.fixed(self.keys, self.inputs["places"][start:])
        return Seen(rows, (View(0, ((0, self.keys),), tuple(spans)),), places)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Another graph, taken away by the garbage collector while one is recorded, would end the recording."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
