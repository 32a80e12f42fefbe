"""The network: causal between frames, one table of tokens, one condition per frame."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import COMPASS, LONG, SHORT, random_transformer

from nextframe.architecture import TransformerConfig
from nextframe.cache import KeyValueCache
from nextframe.layers import VectorEmbedding
from nextframe.layout import COARSE, FINE, layout_of
from nextframe.mask import attention_mask
from nextframe.presets import MAZE
from nextframe.rope import heading_table, rotary_table, rotate
from nextframe.transformer import Transformer, parameters_of, patchify, unpatchify

CPU = torch.device("cpu")


def velocity(model: Transformer, latents: torch.Tensor, actions: torch.Tensor | None) -> torch.Tensor:
    layout = layout_of(model.config, latents.shape[1])
    time = torch.full(latents.shape[:2], 500.0)
    with torch.no_grad():
        return model.latents(model(model.tokens(latents, layout), layout, time, actions))


@pytest.mark.parametrize("config", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("changed", [0, 3, 5, 7])
def test_a_frame_changes_no_earlier_output(config: TransformerConfig, changed: int) -> None:
    model, frames = random_transformer(config), 8
    latents, actions = torch.randn(2, frames, 3, 4, 4), torch.randint(0, 3, (2, frames))
    other = latents.clone()
    other[:, changed] += 1
    before, after = velocity(model, latents, actions), velocity(model, other, actions)
    first = frames - before.shape[1]  # frames before it are coarse and have no output
    same = max(0, changed - first)
    assert torch.equal(before[:, :same], after[:, :same])
    assert not torch.allclose(before[:, same:], after[:, same:])


def test_a_later_coarse_frame_changes_no_earlier_one() -> None:
    """Seen through the keys that the coarse frames leave behind."""
    model, latents = random_transformer(LONG), torch.randn(1, 8, 3, 4, 4)
    layout, actions = layout_of(LONG, 8), torch.zeros(1, 8, dtype=torch.int64)
    other = latents.clone()
    other[:, 2] += 1  # the third of four coarse frames
    keys = []
    for clip in (latents, other):
        cache = KeyValueCache(LONG, 1, layout.tokens, torch.float32, CPU)
        with torch.no_grad():
            model(model.tokens(clip, layout), layout, torch.full((1, 8), -2.0), actions, cache)
        cache.push(layout.segments)
        keys.append(cache.extend(1, torch.zeros(1, 2, 0, 16), torch.zeros(1, 2, 0, 16))[0])
    before, after = keys
    assert torch.equal(before[:, :, : 2 * 4], after[:, :, : 2 * 4])
    assert not torch.allclose(before[:, :, 2 * 4 :], after[:, :, 2 * 4 :])


def test_a_condition_reaches_its_own_frame_only_and_later_ones() -> None:
    model, latents = random_transformer(LONG), torch.randn(1, 4, 3, 4, 4)
    actions = torch.zeros(1, 4, dtype=torch.int64)
    other = actions.clone()
    other[:, 2] = 1
    before, after = velocity(model, latents, actions), velocity(model, latents, other)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_layout_of_a_long_model() -> None:
    layout = layout_of(LONG, 6)
    assert layout.tokens == 2 * 4 + 4 * 16
    assert layout.frames == 6
    coarse, fine = layout.segments
    assert (coarse.level, fine.level) == (COARSE, FINE)
    assert coarse.positions()[:4].tolist() == [[0, 0, 0], [0, 0, 2], [0, 2, 0], [0, 2, 2]]
    assert fine.positions()[:, 0].unique().tolist() == [2, 3, 4, 5]


def test_mask_is_none_when_all_is_visible_and_never_looks_ahead() -> None:
    layout = layout_of(LONG, 6)
    mask = attention_mask(layout, layout, LONG)
    assert mask is not None
    frames = layout.token_frames()
    assert torch.equal(mask, frames[None, :] <= frames[:, None])
    last = layout_of(LONG, 6, first=5)
    assert attention_mask(last, layout, LONG) is None


def test_rotation_depends_on_distance_only() -> None:
    layout = layout_of(SHORT, 3)
    rotary = rotary_table(layout, SHORT.rope_axes, None, CPU)
    query, key = torch.randn(16), torch.randn(16)
    rotated_query = rotate(query.expand(1, layout.tokens, 1, 16), rotary, torch.float32)[0, 0]
    rotated_key = rotate(key.expand(1, layout.tokens, 1, 16), rotary, torch.float32)[0, 0]
    scores = rotated_query @ rotated_key.T
    torch.testing.assert_close(scores[16:32, 0:16], scores[32:48, 16:32])
    assert not torch.allclose(scores[16:32, 0:16], scores[32:48, 0:16])


@pytest.mark.parametrize("frames", [3, 255, 256, 257, 600])
def test_angles_are_those_of_every_tokens_place(frames: int) -> None:
    """However long the clip: the table is put together from pieces that are kept."""
    layout, axes = layout_of(LONG, frames), LONG.rope_axes
    places = torch.cat([segment.positions() for segment in layout.segments]).double()
    turns = [places[:, axis, None] * 10_000 ** (-torch.arange(0, m, 2).double() / m) for axis, m in enumerate(axes)]
    expected = torch.view_as_real(torch.exp(1j * torch.cat(turns, dim=1))).float()
    assert torch.equal(rotary_table(layout, axes, None, CPU), expected)


def test_patches_flatten_by_channel_then_row_then_column() -> None:
    latents = torch.arange(2 * 4 * 4.0).reshape(1, 1, 2, 4, 4)
    tokens = patchify(latents, 2)
    assert tokens[0, 0, 1].tolist() == [2, 3, 6, 7, 18, 19, 22, 23]
    assert torch.equal(unpatchify(tokens, 2, 2), latents)


def test_the_default_model_is_small_enough_to_ship() -> None:
    assert parameters_of(Transformer(MAZE.model)) < 8e6


def test_the_numbers_of_a_vector_may_be_of_any_size() -> None:
    network = random_transformer(replace(LONG, condition="vector", classes=0, action_size=2)).condition
    assert isinstance(network, VectorEmbedding)
    vectors, large = torch.randn(1, 5, 2), torch.tensor([3.0, 1000.0])
    vectors[0, 3] = torch.nan
    plain = network(vectors)
    network.set_range(-large + 7, large + 7)
    torch.testing.assert_close(network(vectors * large + 7), plain)
    assert torch.equal(network(torch.full((1, 1, 2), 1e20)), network(torch.full((1, 1, 2), 1e30)))


def test_a_conditioned_model_wants_its_condition() -> None:
    with pytest.raises(ValueError, match="conditioned on actions"):
        velocity(random_transformer(LONG), torch.randn(1, 2, 3, 4, 4), None)


def test_headings_turn_as_often_as_the_compass_says() -> None:
    layout, headings = layout_of(COMPASS, 5), torch.tensor([[0, 1, 2, 3, 4]])  # 4 is once round
    table = heading_table(layout, headings, COMPASS.compass, COMPASS.headings)
    turned = layout.token_frames()[:, None] * torch.tensor([1, 2]) * (math.pi / 2)
    torch.testing.assert_close(table[0], torch.stack([turned.cos(), turned.sin()], dim=-1))


def test_the_range_of_a_vector_is_minus_one_to_one() -> None:
    network = random_transformer(replace(LONG, condition="vector", classes=0, action_size=2)).condition
    assert isinstance(network, VectorEmbedding)
    network.set_range(torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0]))
    found = network(torch.tensor([[[-2.0, 10.0], [0.0, 5.0]]]))
    wanted = torch.tensor([[[-1.0, 1.0], [0.0, 0.0]]])
    torch.testing.assert_close(found, network.project(F.silu(network.expand(wanted))))
