"""Run by test_devices in a process of its own: checking shapes at run time, as the tests do, cannot be compiled.

Prints the number of graphs after each length, and the largest difference to the plain network.
"""

import copy
import json
import sys

import torch
from torch.nn.attention import flex_attention as flex_module

from nextframe import attention
from nextframe.architecture import TransformerConfig
from nextframe.config import WorldModelConfig
from nextframe.devices import blocks_of, compile_blocks, recompute_blocks
from nextframe.objective import Clips, FrameFlowMatching
from nextframe.transformer import Transformer

MODEL = TransformerConfig(
    latent_channels=3,
    latent_size=4,
    layers=2,
    heads=2,
    head_dim=16,
    rope_axes=(4, 6, 6),
    coarse_patch=2,
    window=4,
    condition="action",
    classes=3,
)
OBJECTIVE = FrameFlowMatching(WorldModelConfig(model=MODEL))


def loss_and_gradients(network: Transformer, frames: int) -> torch.Tensor:
    clips = Clips(torch.randn(2, frames, 3, 4, 4), torch.zeros(2, frames, dtype=torch.int64))
    network.zero_grad()
    loss = OBJECTIVE.score(network, OBJECTIVE.prepare(clips, torch.Generator().manual_seed(0))).loss
    loss.backward()
    return torch.cat([loss.detach()[None], *(p.grad.flatten() for p in network.parameters() if p.grad is not None)])


def main() -> None:
    torch.manual_seed(0)
    plain = Transformer(MODEL)
    for weight in plain.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    compiled, graphs = copy.deepcopy(plain), []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    if "flex-attention" in sys.argv:
        flex_module._validate_device = lambda *tensors: None  # its plain path has a backward pass on a processor too
        attention_graph = torch.compile(flex_module.flex_attention, dynamic=True, backend=backend)
        attention.compiled_flex_attention = lambda: attention_graph
        for block in blocks_of(compiled):
            block.attention.kernel = attention.flex
    compile_blocks(compiled, backend)
    if "recomputed" in sys.argv:
        recompute_blocks(compiled)
    counts, difference = [], 0.0
    for frames in (9, 31, 4, 5, 40, 2):
        results = []
        for network in (plain, compiled):
            torch.manual_seed(frames)
            results.append(loss_and_gradients(network, frames))
        difference = max(difference, (results[0] - results[1]).abs().max().item())
        counts.append(len(graphs))
    print(json.dumps({"graphs": counts, "difference": difference}))


if __name__ == "__main__":
    main()
