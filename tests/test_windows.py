"""Windows that share a coarse past: each computes, learns and is drawn as if it were alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COMPASS, LONG, SHORT, random_transformer
from tiny import tiny_latents
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nextframe.architecture import TransformerConfig
from nextframe.clip_starts import draw_clip_starts
from nextframe.clips import clip_batches
from nextframe.conditions import headings_of
from nextframe.config import ClipConfig, TrainConfig, WorldModelConfig
from nextframe.devices import recompute_blocks
from nextframe.flops import training_flops
from nextframe.learner import accumulate_gradients
from nextframe.objective import LENGTHS, RESAMPLED, Clips, FrameFlowMatching, Inputs
from nextframe.transformer import Transformer

CPU = torch.device("cpu")
LABEL = replace(LONG, condition="label")
VECTOR = replace(LONG, condition="vector", classes=0, action_size=2)
NONE = replace(LONG, condition="none", classes=0)


def prepared(
    model: TransformerConfig, lengths: tuple[int, ...], batch: int = 2, resampled: float = 0.0
) -> tuple[FrameFlowMatching, Inputs]:
    config = WorldModelConfig(model=model, clean_context=0.4, resampled_context=resampled, condition_dropout=0.3)
    objective, frames = FrameFlowMatching(config), max(lengths)
    conditions = None
    if model.condition == "vector":
        conditions = torch.randn(batch, frames, 2)
    elif model.condition != "none":
        conditions = torch.randint(0, 3, (batch, 1 if model.condition == "label" else frames)).expand(batch, frames)
    clips = Clips(torch.randn(batch, frames, 3, 4, 4), conditions, lengths)
    return objective, objective.prepare(clips, torch.Generator().manual_seed(0))


def alone(objective: FrameFlowMatching, inputs: Inputs, window: int) -> Inputs:
    """The inputs of one window of several, as a clip of its own."""
    lengths = inputs[LENGTHS][0].tolist()
    *past, _ = objective.layout([max(lengths)]).segments
    before = objective.layout([lengths[window]]).frames
    sizes = [part.frames for part in objective.layout(lengths).segments[len(past) :]]
    start = sum(sizes[:window])
    fine = torch.arange(start, start + sizes[window])
    coarse = torch.arange(before - sizes[window])
    columns = torch.cat([coarse, sum(part.frames for part in past) + fine])
    own = {name: inputs[name][:, columns] for name in ("input", "time", "condition", "headings") if name in inputs}
    own |= {name: inputs[name][:, fine] for name in ("target", RESAMPLED) if name in inputs}
    own["weight"] = inputs["weight"][:, fine] * len(lengths)
    return own | {LENGTHS: inputs[LENGTHS][:, window : window + 1]}


def loss_and_gradients(network: Transformer, objective: FrameFlowMatching, inputs: Inputs, parts: int = 1) -> list:
    loss = accumulate_gradients(objective.score, network, inputs, parts, CPU).loss
    return [loss, *(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters())]


@pytest.mark.parametrize(
    "model", [LONG, COMPASS, LABEL, VECTOR, NONE], ids=["action", "compass", "label", "vector", "none"]
)
@pytest.mark.parametrize("lengths", [(5, 11, 8), (9, 9), (2, 7, 4), (1, 1, 3), (12,)], ids=str)
@pytest.mark.parametrize("resampled", [0.0, 0.6])
def test_each_window_is_as_it_would_be_alone(
    model: TransformerConfig, lengths: tuple[int, ...], resampled: float
) -> None:
    network = random_transformer(model)
    objective, inputs = prepared(model, lengths, resampled=resampled)
    together = loss_and_gradients(network, objective, inputs)
    apart = [loss_and_gradients(network, objective, alone(objective, inputs, k)) for k in range(len(lengths))]
    for found, *expected in zip(together, *apart, strict=True):
        torch.testing.assert_close(found, sum(expected) / len(lengths), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model", [LONG, VECTOR], ids=["action", "vector"])
def test_parts_and_recomputing_change_nothing(model: TransformerConfig) -> None:
    network = random_transformer(model)
    objective, inputs = prepared(model, (5, 11, 8), batch=4, resampled=0.6)
    whole = loss_and_gradients(network, objective, inputs)
    in_parts = loss_and_gradients(network, objective, inputs, parts=2)
    recompute_blocks(network)
    recomputed = loss_and_gradients(network, objective, inputs)
    for one, part, again in zip(whole, in_parts, recomputed, strict=True):
        torch.testing.assert_close(one, part, atol=1e-6, rtol=1e-5)
        assert torch.equal(one, again)


def test_windows_differ_in_all_that_is_drawn_but_a_label() -> None:
    for model in (LONG, VECTOR, LABEL):
        objective, inputs = prepared(model, (9, 9), batch=64)
        past, first, second = (part.frames for part in objective.layout((9, 9)).segments)
        assert (past, first, second) == (5, 4, 4)
        for name in ("time", "input", "target"):
            one, other = inputs[name][:, -8:-4], inputs[name][:, -4:]
            assert not torch.isclose(one, other).all(), name
        dropped = inputs["condition"].isnan().any(-1) if model is VECTOR else inputs["condition"] == 3
        one, other = dropped[:, -8:-4], dropped[:, -4:]
        assert 0.15 < dropped.float().mean() < 0.45
        # Without its label a clip is without it everywhere: else a window would see it in the past.
        assert torch.equal(one, other) is (model is LABEL)


WORLD = WorldModelConfig(
    model=LONG,
    clip=ClipConfig(frames=9, interval=2, min_frames=4, windows=3),
    train=TrainConfig(steps=20, batch=6, device="cpu", precision="float32"),
)


@pytest.mark.parametrize("more", [0, 5])
def test_each_window_is_drawn_as_if_it_were_alone(more: int) -> None:
    """Chi square of (length, start), which alone is uniform in length and, given it, in all starts that fit."""
    shortest, draws, random = 20, 10_000, np.random.default_rng(0)
    counts = np.zeros((3, 9, shortest + more), int)
    for _ in range(draws):
        starts = draw_clip_starts(WORLD, 0, shortest, random)
        start = starts.start(shortest + more, random)
        for window, length in enumerate(starts.lengths):
            counts[window, length, start] += 1
    expected = np.zeros((9, shortest + more))
    for length in range(4, 9):
        fits = shortest + more - (length - 1) * 2
        expected[length, :fits] = draws / 5 / fits
    cells = expected > 0
    assert counts[:, ~cells].sum() == 0
    square = ((counts - expected)[:, cells] ** 2 / expected[cells]).sum(axis=1)
    degrees = cells.sum() - 1
    assert (np.abs(square - degrees) < 4 * np.sqrt(2 * degrees)).all(), (square, degrees)
    # And windows of one clip do differ.
    assert sum(len(set(draw_clip_starts(WORLD, 0, shortest, random).lengths)) > 1 for _ in range(100)) > 50


def test_clips_start_apart_and_hold_their_longest_window(tmp_path: Path) -> None:
    dataset = tiny_latents(tmp_path, vectors=True)
    config = replace(WORLD, model=VECTOR)
    batches, apart = clip_batches(dataset, config), 0
    for step in range(20):
        clips = batches(step)
        assert len(clips.lengths) == 3 and clips.conditions is not None
        assert clips.latents.shape[:2] == clips.conditions.shape[:2] == (2, max(clips.lengths))
        starts = clips.conditions[:, 1, 0].tolist()  # the number of the frame
        apart += starts[0] != starts[1]
        again = clip_batches(dataset, config)(step)
        assert torch.equal(again.latents, clips.latents) and again.lengths == clips.lengths
    assert apart > 10


def test_training_learns_and_can_be_mirrored(tmp_path: Path) -> None:
    config = replace(WORLD, model=NONE, clip=replace(WORLD.clip, mirror=True), condition_dropout=0.0)
    batches, objective = clip_batches(tiny_latents(tmp_path, mirrored=True), config), FrameFlowMatching(config)
    network = Transformer(NONE)
    optimizer, losses = torch.optim.Adam(network.parameters(), 1e-2), []
    for step in range(60):
        inputs = objective.prepare(batches(step), torch.Generator().manual_seed(step))
        losses.append(accumulate_gradients(objective.score, network, inputs, 1, CPU).loss.item())
        optimizer.step()
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": SHORT}, "a short model has no coarse past .*: set --clip.windows 1"),
        ({"train": replace(WORLD.train, batch=8)}, "train.batch 8 counts windows: clip.windows 3 must divide it"),
    ],
)
def test_what_cannot_share_a_past_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(WORLD, **changes)


def test_windows_of_one_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"set --clip\.min-frames"):
        ClipConfig(frames=9, windows=2)
    with pytest.raises(ValueError, match="windows is 0"):
        ClipConfig(windows=0)


@pytest.mark.parametrize("resampled", [False, True])
def test_arithmetic_of_windows_is_what_torch_counts(resampled: bool) -> None:
    """Of windows of one frame, which hide nothing from themselves: exact in what one window more costs."""
    config = replace(LONG, window=1)
    network, counts = random_transformer(config), []
    for windows in (1, 3):
        objective, inputs = prepared(config, (9,) * windows, batch=1, resampled=float(resampled))
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            objective.score(network, inputs)
        counts.append(counter.get_total_flops())
    ours = [training_flops(config, 1, [9] * windows, resampled) for windows in (1, 3)]
    # Counted: one forward pass, or two. A backward pass is as much as two more.
    forward = (counts[1] - counts[0]) / (2 if resampled else 1)
    assert ours[1] - ours[0] == (4 if resampled else 3) * forward


def test_an_action_that_is_not_told_still_turns() -> None:
    objective = FrameFlowMatching(WorldModelConfig(model=COMPASS, condition_dropout=0.9))
    taken = torch.randint(0, 3, (4, 9))
    inputs = objective.prepare(Clips(torch.randn(4, 9, 3, 4, 4), taken), torch.Generator().manual_seed(0))
    assert (inputs["condition"] == 3).float().mean() > 0.6
    headings = headings_of(COMPASS, taken)
    assert headings is not None and torch.equal(inputs["headings"], headings)


def test_windows_share_the_weight_of_their_clip() -> None:
    objective = FrameFlowMatching(WorldModelConfig(model=LONG))
    clips = Clips(torch.randn(4, 9, 3, 4, 4), torch.randint(0, 3, (4, 9)), (9, 6, 7))
    weight = objective.prepare(clips, torch.Generator().manual_seed(0))["weight"]
    torch.testing.assert_close(weight.split(4, dim=1)[0].sum(dim=1), torch.full((4,), 1 / 3))
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(4))
