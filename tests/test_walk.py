"""A walk from Python: ids, vectors, labels, and what a model does not have."""

from dataclasses import replace

import pytest
import torch
from conftest import random_transformer
from tiny import MODEL, SIZE, TOKENIZER

from nextframe.autoencoder import Autoencoder
from nextframe.config import SampleConfig, TransformerConfig, WorldModelConfig
from nextframe.parallel import cast_products, matrix_precision
from nextframe.runs import Walk, WorldModel
from nextframe.sampler import Session

CLIP = torch.randint(0, 256, (3, SIZE, SIZE, 3), dtype=torch.uint8)
VECTORS = replace(MODEL, condition="vector", classes=0, action_size=2)
LABELS = replace(MODEL, condition="label")


def walk(config: TransformerConfig, actions: torch.Tensor | None = None, label: int | None = None) -> Walk:
    world = WorldModelConfig(model=config, sample=SampleConfig(steps=2))
    model = WorldModel(world, random_transformer(config), Autoencoder(TOKENIZER).eval(), "")
    return model.session(CLIP, actions, label=label)


@pytest.mark.parametrize(
    ("config", "one", "other"), [(MODEL, 1, 2), (VECTORS, [0.5, -1.0], [0.5, 1.0])], ids=["ids", "vectors"]
)
@pytest.mark.parametrize("action_of", ["arrival", "departure"])
def test_an_action_changes_the_next_frame(
    config: TransformerConfig, one: int | list[float], other: int | list[float], action_of: str
) -> None:
    frames = []
    for action in (one, one, other):
        torch.manual_seed(1)  # the same random weights
        frames.append(walk(replace(config, action_of=action_of)).step(action))
    assert frames[0].shape == (SIZE, SIZE, 3) and frames[0].dtype == torch.uint8
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])


def test_a_label_is_for_all_of_the_walk() -> None:
    frames = []
    for label in (0, 4):
        torch.manual_seed(1)
        way = walk(LABELS, label=label)
        frames.append(torch.stack([way.step(), way.step()]))
    assert not torch.equal(*frames)


@pytest.mark.parametrize(
    ("config", "actions", "label", "action", "message"),
    [
        (MODEL, None, None, 6, "action 6 is none of the model's: choose 0 to 4"),
        (MODEL, torch.zeros(3, dtype=torch.int64), None, 0, "3 frames have 2 actions"),
        (VECTORS, torch.zeros(2, 3), None, [0.0, 0.0], "3 frames have 2 actions"),
        (VECTORS, None, None, [0.0], "give 2 numbers"),
        (VECTORS, None, None, 1, "give 2 numbers"),
        (LABELS, None, None, 0, "label None is none of the model's"),
        (LABELS, None, 7, 0, "label 7 is none of the model's: choose 0 to 4"),
    ],
)
def test_what_a_model_does_not_have(
    config: TransformerConfig, actions: torch.Tensor | None, label: int | None, action: int | list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        walk(config, actions, label).step(action)


def test_weights_kept_in_bfloat16_give_what_casting_them_every_time_gives() -> None:
    network = random_transformer(MODEL)
    latents, told = torch.randn(1, 3, 4, 4, 4), torch.zeros(1, 3, dtype=torch.int64)
    frames = []
    for _ in range(2):
        with matrix_precision(torch.bfloat16, torch.device("cpu")):
            session = Session(network, latents, told, 5, SampleConfig(steps=2), [0])
            frames.append(session.step(torch.tensor([1])))
        cast_products(network, torch.bfloat16)
    assert torch.equal(*frames)
    assert network.head.weight.dtype == torch.bfloat16 and network.time.expand.weight.dtype == torch.bfloat16
    assert network.condition.weight.dtype == torch.float32  # an embedding is no product
