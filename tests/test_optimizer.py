"""Muon is torch's Muon, but for the arithmetic, and leaves out a broken step as AdamW does."""

import pytest
import torch
from torch import nn

from nextframe.config import OptimizerConfig
from nextframe.optimizer import optimizer_of, orthogonal

MUON = OptimizerConfig(algorithm="muon", weight_decay=0.1)
GOOD = torch.tensor(False)


class Stack(nn.Module):
    """Matrices of all shapes inside blocks, and some weights that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 24), nn.Linear(24, 16), nn.Linear(16, 16, bias=False)])
        self.head = nn.Linear(16, 3)

    def learn(self, step: int) -> None:
        x = torch.randn(32, 8, generator=torch.Generator().manual_seed(step))
        target = x[:, :3].square()
        for block in self.blocks:
            x = block(x).tanh()
        self.zero_grad()
        (self.head(x) - target).square().mean().backward()


def stack() -> Stack:
    torch.manual_seed(0)
    return Stack()


@pytest.mark.parametrize("shape", [(16, 16), (16, 64), (64, 16)])
def test_singular_values_become_nearly_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    (direction,) = orthogonal(matrix[None])
    found = torch.linalg.svdvals(direction)
    assert found.min() > 0.6 and found.max() < 1.3
    assert (u.T @ direction @ v.T).diagonal().min() > 0.6  # in the same directions


def test_muon_is_that_of_torch() -> None:
    ours, theirs = stack(), stack()
    optimizer = optimizer_of(ours, MUON, torch.bfloat16)
    matrices = [block.weight for block in theirs.blocks if isinstance(block, nn.Linear)]
    rest = [p for p in theirs.parameters() if all(p is not matrix for matrix in matrices)]
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=0.01, weight_decay=0.1)
    before = [p.detach().clone() for p in ours.parameters()]
    for step in range(4):
        for network in (ours, theirs):
            network.learn(step)
        optimizer.step(0.01, GOOD)
        muon.step()
        adamw.step()
    for one, other, start in zip(ours.parameters(), theirs.parameters(), before, strict=True):
        assert (one - other).norm() < 0.02 * (one - start).norm()  # which bfloat16 and the order of adding up make


@pytest.mark.parametrize("algorithm", ["adamw", "muon"])
def test_a_broken_step_changes_nothing(algorithm: str) -> None:
    network = stack()
    optimizer = optimizer_of(network, OptimizerConfig(algorithm=algorithm), torch.float32)  # pyright: ignore[reportArgumentType]
    for step in range(2):
        network.learn(step)
        optimizer.step(0.01, GOOD)
    held = {**network.state_dict(), **optimizer.state_dict()}
    before = {name: tensor.clone() for name, tensor in held.items()}
    network.learn(2)
    for p in network.parameters():
        assert p.grad is not None
        p.grad[0] = float("nan")
    optimizer.step(0.01, ~GOOD)
    after = {**network.state_dict(), **optimizer.state_dict()}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    network.learn(3)
    optimizer.step(0.01, GOOD)
    assert all(p.isfinite().all() for p in network.parameters())
