"""Run by test_attention in a process of its own: checking shapes at run time, as the tests do, cannot be compiled.

Prints the largest difference of attention in blocks to plain attention, compiled for each length: what torch 2.13
writes for all lengths at once is no C++ that compiles.
"""

import torch
from compiled_blocks import MODEL
from torch.nn.attention.flex_attention import flex_attention

from nextframe import attention
from nextframe.attention import attend, flex
from nextframe.layout import Layout, layout_of
from nextframe.mask import views


def main() -> None:
    torch.manual_seed(0)
    compiled = torch.compile(flex_attention, dynamic=False)
    attention.compiled_flex_attention = lambda: compiled
    largest = 0.0
    for frames in (31, 120):  # one hides parts of blocks of 128 alone, the other whole blocks too
        layout = layout_of(MODEL, frames)
        memory = layout.segments[0].tokens
        asked = layout.tokens - memory
        queries, keys, values = (torch.randn(2, 2, n, 16) for n in (asked, layout.tokens, layout.tokens))
        for asking, first in ((queries, memory), (keys, 0)):
            seen = views(layout, Layout(), MODEL, queries.device)
            blocks, plain = (attend(asking, keys, values, seen, first, way) for way in (flex, None))
            largest = max(largest, (blocks - plain).abs().max().item())
    print(largest)


if __name__ == "__main__":
    main()
