"""How much arithmetic a model asks for, counted from its configuration and layout.

It is counted from the mathematics, not from what the code happens to do: attention only between tokens of which one
sees the other, modulation once per frame, and in the last block only what the answer needs. So a share of the
machine's rate that is computed from it means useful work. A multiplication and an addition are two operations;
norms, activations, rotations and the softmax (about a hundredth) are left out.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, takewhile

from nextframe.architecture import TransformerConfig
from nextframe.layers import TIME_CHANNELS
from nextframe.layout import COARSE, FINE, Layout, layout_of


@dataclass(frozen=True)
class Frame:
    """A frame as the network sees it."""

    level: int
    index: int
    tokens: int


def frames_of(layout: Layout) -> list[Frame]:
    return [
        Frame(segment.level, index, segment.tokens_per_frame)
        for segment in layout.segments
        for index in range(segment.start, segment.stop)
    ]


def training_flops(config: TransformerConfig, batch: int, lengths: Sequence[int], resampled: bool = False) -> int:
    """Forward and backward on `batch` clips with a window at the end of their first `lengths[k]` frames, for each k.

    A backward pass is two forward ones; what is `resampled` takes another. All windows but the longest save their
    coarse past, which sees nothing but itself.
    """
    costs = [_window_flops(config, length) for length in lengths]
    forward = sum(alone - saved for alone, saved in costs) + max(saved for _, saved in costs)
    return (4 if resampled else 3) * batch * forward


@cache
def _window_flops(config: TransformerConfig, frames: int) -> tuple[int, int]:
    """A forward pass on a clip of one window, and what of that its coarse past alone takes."""
    clip = frames_of(layout_of(config, frames))
    past = [frame for frame in clip if frame.level == COARSE]
    answers = [frame for frame in clip if frame.level == FINE]
    return forward_flops(config, clip, clip, answers), forward_flops(config, past, past, [])


def frame_flops(config: TransformerConfig, past: int, steps: int) -> int:
    """Sampling one frame after `past` frames in `steps` steps, with a cache of keys and values.

    The first step also computes the frames that are not in the cache as this frame sees them: the newest one, and those
    that have become coarse.
    """
    *seen, new = frames_of(layout_of(config, past + 1))
    kept = _common_start(seen, frames_of(layout_of(config, past))[:-1] if past else [])
    unread = seen[kept:]
    keys = [*seen, new]
    first = forward_flops(config, [*unread, new], keys, [new])
    return first + (steps - 1) * forward_flops(config, [new], keys, [new])


def forward_flops(config: TransformerConfig, queries: list[Frame], keys: list[Frame], answers: list[Frame]) -> int:
    """One pass over the frames `queries`, which see `keys` (themselves among them); `answers` are asked a velocity."""
    width, channels = config.width, config.latent_channels
    patches = {FINE: config.patch, COARSE: config.coarse_patch or 0}
    memory = [frame for frame in queries if frame not in answers]

    def tokens(frames: list[Frame]) -> int:
        return sum(frame.tokens for frame in frames)

    # Query, key, value and output 8 d^2, the MLP 16 d^2 per token; two modulations of three vectors per frame.
    block = 24 * width**2 * tokens(queries) + 12 * width**2 * len(queries)
    block += 4 * width * visible_pairs(config, queries, keys)
    # In the last block what only serves as memory has keys and values, for which it needs shift and scale.
    last = 24 * width**2 * tokens(answers) + 12 * width**2 * len(answers)
    last += 4 * width**2 * tokens(memory) + 4 * width**2 * len(memory)
    last += 4 * width * visible_pairs(config, answers, keys)
    embedding = sum(2 * channels * patches[frame.level] ** 2 * width * frame.tokens for frame in queries)
    time = 2 * (TIME_CHANNELS * width + width**2) * len(queries)
    head = 4 * width**2 * len(answers) + 2 * width * channels * config.patch**2 * tokens(answers)
    return (config.layers - 1) * block + last + embedding + time + head


def visible_pairs(config: TransformerConfig, queries: list[Frame], keys: list[Frame]) -> int:
    """Pairs of a query token and a key token it sees."""
    if config.attention == "full":
        return sum(query.tokens for query in queries) * sum(key.tokens for key in keys)
    keys = sorted(keys, key=lambda key: key.index)
    tokens = [0, *accumulate(key.tokens for key in keys)]
    indices = [key.index for key in keys]
    return sum(query.tokens * tokens[bisect_right(indices, query.index)] for query in queries)


def _common_start(one: list[Frame], other: list[Frame]) -> int:
    """Length of the longest start that two lists share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
