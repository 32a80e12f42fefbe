"""The path, its times, and the way back."""

import math
from typing import get_args

import pytest
import torch
from conftest import LONG

from nextframe.config import Solver, WorldModelConfig
from nextframe.flow import SOLVERS, euler, evaluated_levels, noise_generator, noised, published_levels, training_levels
from nextframe.objective import Clips, FrameFlowMatching


def test_training_levels_lie_on_the_published_grid() -> None:
    levels = training_levels((20_000,), torch.Generator().manual_seed(0))
    assert levels.min() > 0 and levels.max() <= 1
    torch.testing.assert_close((levels * 1000).round(), levels * 1000, atol=1e-3, rtol=0)
    assert abs(levels.median() - 0.5) < 0.02  # logit-normal around a half
    assert abs((levels < torch.sigmoid(torch.tensor(-1.0))).float().mean() - 0.159) < 0.01  # one sigma


def test_published_levels() -> None:
    assert published_levels(1) == [1.0, 0.0]
    assert published_levels(3) == pytest.approx([1.0, 0.5005, 0.001, 0.0])


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_euler_is_exact_on_a_straight_path(steps: int) -> None:
    latents, noise = torch.randn(2, 3), torch.randn(2, 3)
    back = euler(lambda x, s: noise - latents, noise, steps)
    torch.testing.assert_close(back, latents)
    assert torch.equal(noised(latents, noise, torch.tensor([0.0, 1.0])), torch.stack([latents[0], noise[1]]))


def test_objective_keeps_times_context_and_weights_together() -> None:
    config = WorldModelConfig(model=LONG, clean_context=0.3, condition_dropout=0.5)
    clips = Clips(torch.randn(64, 7, 3, 4, 4), torch.randint(0, 3, (64, 7)))
    inputs = FrameFlowMatching(config).prepare(clips, torch.Generator().manual_seed(0))
    assert all(x.is_contiguous() for x in inputs.values())  # memory that overlaps cannot be pinned
    time, weight = inputs["time"], inputs["weight"]
    assert (time[:, :3] == -2).all()  # coarse
    clean = time[:, 3:] == -1
    assert 0.2 < clean.float().mean() < 0.4
    assert (weight[clean] == 0).all()
    torch.testing.assert_close(weight.sum(1), 1 - clean.all(dim=1).float())  # 0 for a clip that is all clean
    assert torch.equal(inputs["input"][:, :3], clips.latents[:, :3])
    assert torch.equal(inputs["input"][:, 3:][clean], clips.latents[:, 3:][clean])
    # x = (1 - s) z + s noise and target = noise - z, so z = x - s target
    s = (time[:, 3:] / 1000).clamp(min=0)[..., None, None, None]
    torch.testing.assert_close(
        inputs["input"][:, 3:] - s * inputs["target"], clips.latents[:, 3:], atol=1e-4, rtol=1e-4
    )
    dropped = inputs["condition"] == 3
    assert 0.4 < dropped.float().mean() < 0.6
    assert clips.conditions is not None
    assert torch.equal(inputs["condition"][~dropped], clips.conditions[~dropped])


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("even-euler", 1), ("heun", 2), ("adams", 2)])
def test_solvers_have_their_order(solver: Solver, order: int) -> None:
    """Twice the steps, 2^order times less error, on dx/ds = x + s, whose solution is known."""
    start = torch.ones(1, dtype=torch.float64)
    exact = 3 * math.exp(-1) - 1  # x(s) = C e^s - s - 1 with x(1) = 1, at s = 0

    def error(steps: int) -> float:
        return abs(SOLVERS[solver](lambda x, s: x + s, start, steps).item() - exact)

    assert math.log2(error(40) / error(80)) == pytest.approx(order, abs=0.15)


def test_evaluations_per_step() -> None:
    assert set(SOLVERS) == set(get_args(Solver))
    counts = {solver: len(evaluated_levels(solver, 8)) for solver in SOLVERS}
    assert counts == {"euler": 8, "even-euler": 8, "heun": 15, "adams": 8}
    assert all(0 < level <= 1 for solver in SOLVERS for level in evaluated_levels(solver, 8))


def test_no_two_draws_of_neighbouring_seeds_are_the_same() -> None:
    drawn = {noise_generator(seed, number).initial_seed() for seed in range(20) for number in range(300)}
    assert len(drawn) == 20 * 300
