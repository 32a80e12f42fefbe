"""What a model knows of the footage it learnt from: names for people, nothing that is computed with."""

from pathlib import Path

import pytest
from conftest import random_transformer
from tiny import MODEL, TOKENIZER

from nextframe.autoencoder import Autoencoder
from nextframe.config import SampleConfig, WorldModelConfig
from nextframe.data.episodes import DatasetInfo
from nextframe.errors import UserError
from nextframe.metadata import METADATA, Metadata, read_metadata, unlike, write_metadata
from nextframe.runs import WorldModel
from nextframe.web.stages import ModelStage
from nextframe.web.starts import Library

LEARNT = Metadata(15.0, ("wait", "jump", "duck"))


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_metadata(LEARNT, tmp_path)
    assert read_metadata(tmp_path) == LEARNT


def test_a_model_without_it_knows_no_names(tmp_path: Path) -> None:
    assert read_metadata(tmp_path) == Metadata()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"fps": 0, "action_names": [], "label_names": []}',
        '{"fps": null, "action_names": [1], "label_names": []}',
        '{"fps": 1, "action_names": null, "label_names": []}',
    ],
)
def test_a_damaged_file_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / METADATA).write_text(content)
    with pytest.raises(UserError, match=r"metadata.json is damaged"):
        read_metadata(tmp_path)


def test_it_has_the_names_of_what_a_model_is_told() -> None:
    info = DatasetInfo(15.0, 64, ("wait", "jump"), {}, "id", ("cat", "dog"))
    told = {"action": (("wait", "jump"), ()), "label": ((), ("cat", "dog")), "none": ((), ())}
    for condition, (actions, labels) in told.items():
        assert Metadata.of(info, condition) == Metadata(15.0, actions, labels)  # pyright: ignore[reportArgumentType]


def test_footage_of_another_world_is_told_from_the_models() -> None:
    assert unlike(LEARNT, LEARNT) == ""
    assert unlike(LEARNT, Metadata()) == ""  # nothing is known of what it learnt
    other = unlike(Metadata(30.0, ("left", "right")), LEARNT)
    assert other == "30 frames a second, where it learnt 15; actions left, right, where it learnt wait, jump, duck"
    assert unlike(Metadata(15.0), LEARNT) == "actions without names, where it learnt wait, jump, duck"


def test_a_model_is_played_without_footage_by_the_names_it_learnt() -> None:
    config = WorldModelConfig(model=MODEL)
    network, autoencoder = random_transformer(MODEL), Autoencoder(TOKENIZER).eval()
    world = WorldModel(config, network, autoencoder, "ab", metadata=LEARNT)
    info = ModelStage("tiny", world, Library(world, None), SampleConfig()).info
    assert info.fps == 15.0
    assert info.action_names == ("wait", "jump", "duck")  # and none it never learnt
