"""A visitor's walk, without a browser: back, on, with other settings, as if one had walked there afresh; saved, too."""

import tempfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_transformer
from tiny import ACTIONS, MODEL, SIZE, TOKENIZER, tiny_episode, tiny_episodes, tiny_run
from visiting import stepped

from nextframe.architecture import TransformerConfig
from nextframe.autoencoder import Autoencoder
from nextframe.config import SampleConfig, WorldModelConfig
from nextframe.data.episodes import DatasetInfo, EpisodeDataset
from nextframe.data.video import decoded
from nextframe.errors import UserError
from nextframe.metrics.image import psnr
from nextframe.runs import WorldModel
from nextframe.web import saving
from nextframe.web.dreamer import Dreamer, Made
from nextframe.web.game import Game, step_games
from nextframe.web.history import Action
from nextframe.web.messages import StartMessage
from nextframe.web.opening import open_model
from nextframe.web.saving import save
from nextframe.web.stages import ModelStage
from nextframe.web.starts import Library, Start
from nextframe.web.visitor import Visitor

CONTEXT = 6
SAMPLE = SampleConfig(steps=2, seed=3)
VECTORS = replace(MODEL, condition="vector", classes=0, action_size=2)
KINDS: dict[str, tuple[TransformerConfig, SampleConfig]] = {
    "arrival": (MODEL, SAMPLE),
    "departure": (replace(MODEL, action_of="departure"), SAMPLE),
    "a compass": (replace(MODEL, turns=(1, -1, 0, 0, 0), headings=4, rope_axes=(4, 4, 4)), SAMPLE),
    "vectors at departure": (replace(VECTORS, action_of="departure"), SAMPLE),
    "labels": (replace(MODEL, condition="label"), SAMPLE),
    "nothing": (replace(MODEL, condition="none", classes=0), SAMPLE),
    "a memory": (MODEL, replace(SAMPLE, memory=8)),
    "a sliding window": (replace(MODEL, coarse_patch=None), replace(SAMPLE, memory=4)),
    "guided": (MODEL, replace(SAMPLE, guidance=1.5, solver="heun")),
}


def world_of(config: TransformerConfig) -> WorldModel:
    torch.manual_seed(1)
    return WorldModel(WorldModelConfig(model=config), random_transformer(config), Autoencoder(TOKENIZER).eval(), "ab")


def start_of(config: TransformerConfig) -> Start:
    episode = tiny_episode(0, CONTEXT)
    actions = {
        "action": episode.actions[:-1],
        "vector": np.random.default_rng(0).normal(size=(CONTEXT - 1, 2)).astype(np.float32),
    }
    label = 2 if config.condition == "label" else None
    return Start("clip", episode.video, actions.get(config.condition), label)


def dreamed(world: WorldModel, start: Start, sample: SampleConfig) -> Game:
    """In the one thread there is."""
    seen = start.seen_by(world, lambda work: work())
    return Game(Dreamer(world, sample, start.label), seen, Path(tempfile.gettempdir()))


def action(config: TransformerConfig, number: int) -> Action:
    if config.condition == "vector":
        return (number / 2, -1.0)
    return number % 3 if config.condition == "action" else None


def test_only_actions_that_the_footage_has_are_offered(tmp_path: Path) -> None:
    """A preset may have room for more, and what those do has never been learnt."""
    footage, world = tiny_episodes(tmp_path), world_of(replace(MODEL, classes=len(ACTIONS) + 2))
    stage = ModelStage("tiny", world, Library(world, footage), SAMPLE)
    assert stage.actions.count == len(ACTIONS) and stage.info.action_names == ACTIONS == footage.info.action_names
    assert ModelStage("tiny", world, Library(world, None), SAMPLE).actions.count == len(ACTIONS) + 2


def check_as_fresh(game: Game, world: WorldModel, sample: SampleConfig) -> None:
    """The frames where the game stands are those of a walk that has only ever gone there."""
    path, start = game.history.path(), game.start
    actions = None if start.actions is None else torch.from_numpy(start.actions)
    clip = np.stack([game.film.read(place) for place in range(CONTEXT)])
    walk = world.walk(torch.tensor(clip), actions, sample, most_frames=60, label=start.label)
    for step in path[CONTEXT:]:
        frame = walk.step(0 if step.action is None else step.action).numpy()
        shown = game.film.read(step.place)
        assert np.abs(frame.astype(int) - shown).max() <= 1  # where rounding falls on the other side
    made = torch.stack([step.latents for step in path])
    torch.testing.assert_close(made, walk.latents, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["arrival", "vectors at departure", "labels", "nothing"])
def test_a_run_opens_with_as_many_threads_as_pay(kind: str, tmp_path: Path) -> None:
    """Which is found out only where there are several."""
    config, sample = KINDS[kind]
    run, threads = tiny_run(tmp_path / "run", model=config), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        stage = open_model(run, None, sample, real=False, device="cpu")
        assert torch.get_num_threads() in (1, 2) and stage.facts()["model"] == "run"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", KINDS)
def test_going_back_and_on_is_a_fresh_walk(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextframe.web.dreamer.BLOCK", 3)  # room has to be made several times
    config, sample = KINDS[kind]
    world = world_of(config)
    game = dreamed(world, start_of(config), sample)
    for number in range(8):
        stepped(game, action(config, number))
    check_as_fresh(game, world, sample)
    first_end = game.shown().copy()
    game.seek(CONTEXT + 2)
    for number in (2, 2, 1, 0, 1):
        stepped(game, action(config, number))
    assert (game.history.branch.number, game.history.branch.origin) == (1, CONTEXT + 3)
    check_as_fresh(game, world, sample)
    game.seek(CONTEXT - 2)  # into the clip
    stepped(game, action(config, 1))
    stepped(game, action(config, 2))
    assert game.history.outline()[2] == {"id": 2, "from": CONTEXT - 1, "length": CONTEXT + 1}
    assert np.array_equal(game.enter(0), first_end)  # as it was left
    stepped(game, action(config, 2))
    assert len(game.history.branches) == 3  # at an end there is nothing to branch off
    check_as_fresh(game, world, sample)
    game.enter(1)  # shorter than what the session holds, and another way
    stepped(game, action(config, 0))
    check_as_fresh(game, world, sample)
    game.source.rest()  # as when the visitor is away
    stepped(game, action(config, 1))
    check_as_fresh(game, world, sample)


def test_a_walk_goes_on_without_reading_all_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, usual = [], WorldModel.walk_on
    monkeypatch.setattr(WorldModel, "walk_on", lambda *given: begun.append(1) or usual(*given))
    game = dreamed(world_of(MODEL), start_of(MODEL), SAMPLE)
    for _ in range(8):
        stepped(game, 1)
    game.seek(CONTEXT + 2)
    for _ in range(5):
        stepped(game, 2)
    assert len(begun) == 1
    game.source.rest()
    stepped(game, 1)
    assert len(begun) == 2


def test_other_settings_are_those_of_a_fresh_walk_over_the_same_frames() -> None:
    world, other = world_of(MODEL), SampleConfig(steps=4, guidance=2.0, solver="adams", seed=3)
    game = dreamed(world, start_of(MODEL), SAMPLE)
    for number in range(3):
        stepped(game, number % 3)
    before = torch.stack([step.latents for step in game.history.path()])
    actions = torch.tensor([step.action for step in game.history.path()[1:]])
    game.change(steps=4, guidance=2.0, solver="adams")
    frames = [stepped(game, 1)[0] for _ in range(6)]
    walk = world.walk_on(before, actions, other, 60)
    fresh = torch.stack([walk.imagine(1) for _ in range(6)])
    made = torch.stack([step.latents for step in game.history.path()])[-6:]
    torch.testing.assert_close(made, fresh, atol=1e-5, rtol=1e-5)
    assert not np.array_equal(frames[0], frames[1])
    with pytest.raises(UserError, match="sampling: steps is 0"):
        game.change(steps=0)


def test_an_upload_is_of_the_class_its_visitor_names(tmp_path: Path) -> None:
    world = world_of(replace(MODEL, condition="label"))
    stage = ModelStage("tiny", world, Library(world, None), SAMPLE)
    stage.keep("mine", np.zeros((1, SIZE, SIZE, 3), np.uint8))
    assert stage.facts()["labels"] == [f"class {place}" for place in range(MODEL.classes)]
    game = stage.begin(StartMessage(upload="mine", context=1, label=2), tmp_path, lambda work: work())
    assert game.start.label == 2
    with pytest.raises(UserError, match=f"there is no label {MODEL.classes}: choose 0 to"):
        stage.begin(StartMessage(upload="mine", context=1, label=MODEL.classes), tmp_path, lambda work: work())


def test_a_setting_the_model_cannot_follow_leaves_the_walk_as_it_was() -> None:
    config = KINDS["nothing"][0]
    game = dreamed(world_of(config), start_of(config), SAMPLE)
    with pytest.raises(UserError, match="told nothing it could follow"):
        game.change(guidance=2.0)
    stepped(game, None)


def test_a_walk_that_is_given_up_while_it_is_read_says_so() -> None:
    game, _ = walked([1])
    game.close()
    with pytest.raises(UserError, match="not kept any more"):
        game.film.read(0)
    with pytest.raises(UserError, match="not kept any more"):
        game.film.append(np.zeros((SIZE, SIZE, 3), np.uint8))


@pytest.mark.parametrize("kind", ["arrival", "departure", "vectors at departure", "labels", "a memory", "guided"])
def test_walks_that_are_stepped_together_are_fresh_walks(kind: str) -> None:
    """Of other lengths, on other branches, one with other settings, one that is only at times there."""
    config, sample = KINDS[kind]
    world, other = world_of(config), replace(sample, steps=3)
    samples = [sample, sample, other, sample]
    games = [dreamed(world, start_of(config), own) for own in samples]
    for number in range(3):
        stepped(games[1], action(config, number))
    for number in range(8):
        if number == 4:
            games[1].seek(CONTEXT + 2)
        there = games if number % 3 else games[:3]
        results = step_games([(game, action(config, number + place)) for place, game in enumerate(there)])
        assert not any(isinstance(result, Exception) for result in results)
    for game, own in zip(games, samples, strict=True):
        check_as_fresh(game, world, own)


def test_the_next_frame_is_made_while_one_is_decoded() -> None:
    world, release = world_of(MODEL), threading.Event()
    game, plain = (dreamed(world, start_of(MODEL), SAMPLE) for _ in range(2))
    with ThreadPoolExecutor(1) as decoder:
        decoder.submit(release.wait)  # nothing is decoded before this ends
        made = [step_games([(game, number)], decoder)[0] for number in range(3)]
        assert game.history.frame == CONTEXT + 2
        assert not any(isinstance(one, Exception) or one.frame.done() for one in made)
        release.set()
        assert np.array_equal(game.shown(), [stepped(plain, number)[0] for number in range(3)][-1])  # it waits for it
    check_as_fresh(game, world, SAMPLE)


def test_what_cannot_be_decoded_is_said_to_whoever_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(MODEL)
    game = dreamed(world, start_of(MODEL), SAMPLE)
    monkeypatch.setattr(world.autoencoder, "decode", lambda *_: 1 / 0)
    with ThreadPoolExecutor(1) as decoder:
        step_games([(game, 0)], decoder)
        with pytest.raises(ZeroDivisionError):
            game.shown()
    game.close()


def no_room() -> None:
    raise UserError("this walk is full")


def test_what_ends_one_walk_leaves_those_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(MODEL)
    games = [dreamed(world, start_of(MODEL), SAMPLE) for _ in range(4)]
    full, broken = games[1], games[2]
    monkeypatch.setattr(full.history, "check_room", no_room)
    monkeypatch.setattr(broken.source, "walk_for", lambda *_: 1 / 0)
    for number in range(3):
        results = step_games([(game, number) for game in games])
        assert [type(result) for result in results] == [Made, UserError, ZeroDivisionError, Made]
    for game in (games[0], games[3]):
        check_as_fresh(game, world, SAMPLE)


def test_nothing_grows_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextframe.web.history.MOST_BRANCHES", 2)
    monkeypatch.setattr("nextframe.web.history.MOST_FRAMES", 3)
    game = dreamed(world_of(MODEL), start_of(MODEL), SAMPLE)
    stepped(game, 0)
    game.seek(2)
    stepped(game, 0)
    game.seek(2)
    with pytest.raises(UserError, match="2 branches"):
        stepped(game, 0)
    game.enter(1)
    stepped(game, 0)
    with pytest.raises(UserError, match="3 frames, which is all there is room for: save it"):
        stepped(game, 0)


def walked(actions: list[int]) -> tuple[Game, DatasetInfo]:
    game = dreamed(world_of(MODEL), start_of(MODEL), SAMPLE)
    for number in actions:
        stepped(game, number)
    names = (*ACTIONS, "action 3", "action 4")
    return game, DatasetInfo(10.0, SIZE, names, {"world": "dream", "model": "ab"})


def test_a_saved_episode_is_one_to_train_on(tmp_path: Path) -> None:
    game, info = walked([1, 2, 2, 0])
    path = game.history.path()
    with zipfile.ZipFile(save(game, path, info, "episode", tmp_path)) as archive:
        archive.extractall(tmp_path / "data")
    dataset = EpisodeDataset.open(tmp_path / "data")
    assert dataset.info == info
    (listed,) = dataset.episodes("train")
    dataset.verify(listed)
    episode = dataset.read(listed)
    assert np.array_equal(episode.video, np.stack([game.film.read(step.place) for step in path]))
    assert episode.actions.tolist() == [*game.start.actions.tolist(), 1, 2, 2, 0, 0]  # pyright: ignore
    assert listed.meta == {"start": "clip", "context": CONTEXT}


def test_a_class_without_a_name_is_not_saved(tmp_path: Path) -> None:
    """As of a model of classes that is played without its footage."""
    config, sample = KINDS["labels"]
    game = dreamed(world_of(config), start_of(config), sample)
    stepped(game, action(config, 0))
    info = DatasetInfo(10.0, SIZE, (), {"world": "dream", "model": "ab"}, "none")
    with zipfile.ZipFile(save(game, game.history.path(), info, "episode", tmp_path)) as archive:
        archive.extractall(tmp_path / "data")
    (listed,) = EpisodeDataset.open(tmp_path / "data").episodes("train")
    assert listed.label is None and listed.frames == CONTEXT + 1


def test_what_is_dreamt_from_the_middle_of_the_clip_on_is_not_saved_as_shown(tmp_path: Path) -> None:
    game, info = walked([1])
    game.seek(CONTEXT - 3)
    stepped(game, 2)
    stepped(game, 0)
    assert game.history.shown == CONTEXT - 2
    path = game.history.path()
    assert int(np.load(save(game, path, info, "npz", tmp_path))["context"]) == CONTEXT - 2
    game.enter(0)
    assert game.history.shown == CONTEXT


def test_what_is_saved_fits_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    game, info = walked([1, 2])
    monkeypatch.setattr(saving, "MOST_BYTES", (CONTEXT + 1) * 3 * SIZE**2)
    with pytest.raises(UserError, match=f"8 frames are too many to save at once: stand at frame {CONTEXT} or before"):
        save(game, game.history.path(), info, "mp4", tmp_path)
    game.seek(CONTEXT)
    assert save(game, game.history.path(), info, "mp4", tmp_path).read(1)


def test_a_walk_from_a_picture_is_saved_from_where_somebody_acts(tmp_path: Path) -> None:
    world, info = world_of(MODEL), walked([])[1]
    game = dreamed(world, replace(start_of(MODEL), actions=None), SAMPLE)
    with pytest.raises(UserError, match="nobody has acted"):
        save(game, game.history.path(), info, "episode", tmp_path)
    stepped(game, 2)
    with zipfile.ZipFile(save(game, game.history.path(), info, "episode", tmp_path)) as archive:
        archive.extractall(tmp_path / "data")
    dataset = EpisodeDataset.open(tmp_path / "data")
    episode = dataset.read(dataset.episodes()[0])
    assert episode.actions.tolist() == [2, 0]
    assert np.array_equal(episode.video[0], game.film.read(CONTEXT - 1))


def test_a_saved_video_and_saved_frames(tmp_path: Path) -> None:
    game, info = walked([1, 2, 2, 0])
    path = game.history.path()
    truth = np.full((SIZE, SIZE, 3), 7, np.uint8)
    game.note_truth(path[-1], truth)
    assert path[-1].psnr == round(float(psnr(game.shown()[None], truth[None])), 2) < 40
    video = np.stack([game.film.read(step.place) for step in path])
    with np.load(save(game, path, info, "npz", tmp_path)) as saved:
        assert np.array_equal(saved["video"], video)
        assert saved["context"] == CONTEXT and saved["actions"].tolist()[-5:] == [1, 2, 2, 0, 0]
        assert np.array_equal(saved["truth"][-1], truth) and not saved["truth"][-2].any()
        assert np.array_equal(saved["truth"][:CONTEXT], video[:CONTEXT])
    with save(game, path, info, "mp4", tmp_path) as file:
        pictures = list(decoded(file))
    assert len(pictures) == len(video) and pictures[0].shape == (SIZE, SIZE, 3)


def test_a_walk_from_a_picture_goes_on_as_one_whose_actions_nobody_knows() -> None:
    world, start = world_of(MODEL), replace(start_of(MODEL), actions=None)
    game, walk = dreamed(world, start, SAMPLE), world.walk(start.video, None, SAMPLE)
    for action in (1, 2):
        stepped(game, action)
        walk.step(action)
    torch.testing.assert_close(game.history.current().latents, walk.latents[-1])


def test_the_rate_is_of_the_time_between_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=101.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("nextframe.web.visitor.time", clock)
    nobody: Any = (None, None)
    visitor = Visitor(walked([])[0], 10.0, lambda frames: (0, 0), *nobody)
    visitor._shown.extend([98.0, 100.0, 100.5, 101.0])  # one of them is long ago
    assert visitor._rate() == 2.0


def test_of_what_is_dreamt_there_is_no_truth_until_it_is_asked_for() -> None:
    game, _ = walked([1])
    first, given = game.history.path()[-1], game.history.path()[-2]
    seen = game.truth(given)
    assert game.truth(first) is None and seen is not None and np.array_equal(seen, game.film.read(given.place))
