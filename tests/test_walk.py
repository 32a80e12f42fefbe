"""A walk from Python: ids, vectors, labels, and what a model does not have."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_transformer
from tiny import MODEL, SIZE, TOKENIZER, tiny_run

from nextframe.architecture import TransformerConfig
from nextframe.autoencoder import Autoencoder
from nextframe.checkpoint import AUTOENCODER, WEIGHTS, read_weights, write_weights
from nextframe.config import SampleConfig, WorldModelConfig
from nextframe.devices import PACKED_WEIGHTS, matrix_precision, prepare_for_inference
from nextframe.errors import UserError
from nextframe.metadata import Metadata
from nextframe.runs import Action, Walk, WorldModel, action_tensor, clip_conditions, export, load
from nextframe.session import Session

CPU = torch.device("cpu")
CLIP = torch.randint(0, 256, (3, SIZE, SIZE, 3), dtype=torch.uint8)
VECTORS = replace(MODEL, condition="vector", classes=0, action_size=2)
LABELS = replace(MODEL, condition="label")


def walk(config: TransformerConfig, actions: torch.Tensor | None = None, label: int | None = None) -> Walk:
    world = WorldModelConfig(model=config, sample=SampleConfig(steps=2))
    model = WorldModel(world, random_transformer(config), Autoencoder(TOKENIZER).eval(), "")
    return model.walk(CLIP, actions, label=label)


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


def test_an_autoencoder_of_other_latents_is_refused(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("latent_size: 4", "latent_size: 4096"))
    with pytest.raises(UserError, match="makes latents of 4 x 4 x 4, the world model takes 4 x 4096 x 4096"):
        load(run)


def test_an_action_may_be_a_number_of_numpys_or_torchs_or_a_name() -> None:
    for action in (np.int64(1), torch.tensor(1), "jump"):
        assert action_tensor(MODEL, action, ("wait", "jump")).tolist() == 1


@pytest.mark.parametrize("action", ["hop", 1.0, torch.tensor(1.0), [1], 7])
def test_an_action_that_there_is_not_is_refused(action: Action) -> None:
    with pytest.raises(ValueError, match=r"is none of the model's: choose 0 to 4, or wait, jump"):
        action_tensor(MODEL, action, ("wait", "jump"))


def test_actions_and_labels_of_a_clip_may_be_names() -> None:
    named = Metadata(10.0, ("wait", "jump"), ("cat", "dog"))
    told = [clip_conditions(MODEL, 3, actions, None, named) for actions in (["jump", "wait"], torch.tensor([1, 0]))]
    assert torch.equal(*[x for x in told if x is not None])
    dog = clip_conditions(LABELS, 3, None, "dog", named)
    assert dog is not None and dog.tolist() == [1, 1, 1]
    assert clip_conditions(LABELS, 3, None, np.int64(1), named) is not None
    for label in ("cow", 99, None):
        with pytest.raises(ValueError, match="is none of the model's"):
            clip_conditions(LABELS, 3, None, label, named)


@pytest.mark.parametrize("bad", [[float("inf"), 0.0], [1.0, float("nan")]], ids=["infinite", "half"])
def test_numbers_that_would_spoil_a_walk_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="is none of the model's: give 2 numbers"):
        walk(VECTORS).step(bad)
    with pytest.raises(ValueError, match="action 1 of the clip has numbers that are not finite"):
        walk(VECTORS, torch.tensor([[0.0, 0.0], bad]))
    with pytest.raises(ValueError, match="is none of the model's"):
        walk(VECTORS).step()  # an action has to be said


@pytest.mark.parametrize(
    "actions",
    [torch.tensor([1, 6]), torch.tensor([-1, 1]), torch.tensor([0.5, 1.0])],
    ids=["beyond", "below", "between"],
)
def test_actions_of_the_clip_are_the_models(actions: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"not all of .* are actions of the model: choose 0 to 4"):
        walk(MODEL, actions)


def test_vectors_may_come_in_any_precision() -> None:
    given = torch.tensor([[0.25, 1.0], [0.5, 0.0]])
    frames = []
    for actions in (given, given.double(), given.bfloat16(), given.numpy()):
        torch.manual_seed(1)
        frames.append(walk(VECTORS, actions).step([0.0, 1.0]))  # pyright: ignore[reportArgumentType]
    assert all(torch.equal(frame, frames[0]) for frame in frames)


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
        (MODEL, torch.zeros(3, dtype=torch.int64), None, 0, "3 frames have actions"),
        (VECTORS, torch.zeros(2, 3), None, [0.0, 0.0], "3 frames have actions"),
        (VECTORS, None, None, [0.0], "give 2 numbers"),
        (VECTORS, None, None, 1, "give 2 numbers"),
        (LABELS, None, None, 0, "label None is none of the model's"),
        (LABELS, None, 7, 0, "label 7 is none of the model's: choose 0 to 4"),
        (MODEL, None, 3, 0, "this model knows no labels"),
    ],
)
def test_what_a_model_does_not_have(
    config: TransformerConfig, actions: torch.Tensor | None, label: int | None, action: int | list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        walk(config, actions, label).step(action)


def test_a_clip_may_be_numpys() -> None:
    torch.manual_seed(1)
    model = walk(MODEL).model
    assert torch.equal(model.encode(CLIP.numpy()), model.encode(CLIP))
    assert model.walk(CLIP.numpy(), np.array([1, 2])).step(1).shape == (SIZE, SIZE, 3)


def test_a_walk_goes_back_to_whole_frames() -> None:
    with pytest.raises(ValueError, match=r"cannot go back to 1\.5 of 3 frames"):
        walk(MODEL).rewind(1.5)  # pyright: ignore[reportArgumentType]


def test_a_model_in_bfloat16_encodes_and_decodes_by_itself() -> None:
    model = WorldModel(WorldModelConfig(model=MODEL), random_transformer(MODEL), Autoencoder(TOKENIZER).eval(), "")
    prepare_for_inference(model.autoencoder, torch.bfloat16, CPU)
    model = replace(model, precision=torch.bfloat16)
    assert model.decode(model.encode(CLIP)).shape == CLIP.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_a_network_that_is_settled_for_sampling_is_the_same_function(
    dtype: torch.dtype, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 to rounding; bfloat16 as near to float32 as the plain path in bfloat16 is."""
    monkeypatch.setitem(PACKED_WEIGHTS, dtype, 1)
    network, sample = random_transformer(MODEL), SampleConfig(steps=2, guidance=guidance)
    latents, told = torch.randn(2, 5, 4, 4, 4), torch.zeros(2, 5, dtype=torch.int64)

    def rolled_out(precision: torch.dtype) -> torch.Tensor:
        with matrix_precision(precision, CPU):
            session = Session(network, latents, told, 9, sample, [0, 1])
            return torch.stack([session.step(torch.tensor([1, 2])) for _ in range(3)])

    exact, plain = rolled_out(torch.float32), rolled_out(dtype)
    prepare_for_inference(network, dtype, CPU)
    assert "forward" in vars(network.head)  # packed
    settled = rolled_out(dtype)
    if dtype == torch.float32:
        torch.testing.assert_close(settled, plain, atol=1e-4, rtol=0)
    else:
        errors = [(frames - exact).square().mean().sqrt().item() for frames in (settled, plain)]
        assert errors[0] < 1.3 * errors[1]
    assert network.head.weight.dtype == dtype
    assert network.condition.weight.dtype == torch.float32  # an embedding is no product


@pytest.mark.parametrize("action_of", ["arrival", "departure"])
def test_a_walk_goes_back_and_grows(action_of: str) -> None:
    """In whatever order: what it gives after is what a walk gives that has only done what counts."""
    world = WorldModelConfig(model=replace(MODEL, action_of=action_of), sample=SampleConfig(steps=2))
    model = WorldModel(world, random_transformer(world.model), Autoencoder(TOKENIZER).eval(), "")
    way = model.walk(CLIP, most_frames=9)
    for action in (1, 2, 0, 1, 2, 2):
        way.step(action)
    with pytest.raises(ValueError, match="room for 9 frames"):
        way.step(0)
    way.grow(30)
    way.step(1)
    way.rewind(6)
    for action in (2, 2, 0, 1, 1, 1):
        way.step(action)
    fresh = model.walk(CLIP)
    for action in (1, 2, 0, 2, 2, 0, 1, 1, 1):
        fresh.step(action)
    torch.testing.assert_close(way.latents, fresh.latents, atol=1e-5, rtol=1e-5)
    for frames in (0, 13):
        with pytest.raises(ValueError, match=f"cannot go back to {frames} of 12 frames"):
            way.rewind(frames)


def test_what_is_measured_keeps_its_precision_in_an_export(tmp_path: Path) -> None:
    weights = tiny_run(tmp_path / "run") / AUTOENCODER / WEIGHTS
    write_weights(weights, {**read_weights(weights), "scale": torch.tensor(0.2889)})
    export(tmp_path / "run", tmp_path / "exported")
    assert read_weights(tmp_path / "exported" / AUTOENCODER / WEIGHTS)["scale"] == torch.tensor(0.2889)


def test_latents_of_a_walk_are_a_copy() -> None:
    way = walk(MODEL)
    way.step(1)
    before = way.latents
    kept = before.clone()
    way.rewind(3)
    way.step(2)
    assert torch.equal(before, kept) and not torch.equal(way.latents, kept)
