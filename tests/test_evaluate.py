"""Predicting held-out episodes: right, resumable, and clear about what does not fit."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import ACTIONS, MODEL, SIZE, tiny_episode, tiny_episodes, tiny_run

from nextframe import evaluate as module
from nextframe.autoencoder import Autoencoder
from nextframe.checkpoint import WEIGHTS, write_weights
from nextframe.config import SampleConfig
from nextframe.data.episodes import DatasetInfo, Episode, EpisodeDataset
from nextframe.devices import hardware_name
from nextframe.errors import UserError
from nextframe.evaluate import count_tokens, evaluate, jobs_of, measured_speed
from nextframe.forecast import Forecast, forecast
from nextframe.metrics.image import psnr
from nextframe.progress import silent
from nextframe.protocol import Protocol
from nextframe.results import METHODS, RESULTS, Measured, prediction_path, read_prediction
from nextframe.runs import load, load_autoencoder
from nextframe.sample import sample

PROTOCOL = Protocol(context=5, frames=3, episodes=3, split="test")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_episodes(tmp_path_factory.mktemp("data") / "episodes").folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many episodes each rollout was for."""
    made: list[int] = []

    def counted(world: Any, episodes: Any, *rest: Any) -> Any:
        made.append(len(episodes))
        return forecast(world, episodes, *rest)

    monkeypatch.setattr(module, "forecast", counted)
    monkeypatch.setattr(module, "choose_threads", lambda *_: None)
    return made


def test_results_hold_what_was_measured(run: Path, data: Path, tmp_path: Path) -> None:
    results = evaluate(PROTOCOL, run, data, tmp_path, "cpu", batch=2)
    assert json.loads((tmp_path / RESULTS).read_text())["model"]["sha256"] == load(run).sha256
    assert results.episodes == ("test_0", "test_1", "test_2")
    assert results.sample == SampleConfig(steps=2)
    assert len(results.scores["model"]["psnr"].frames) == 3
    assert results.speed.frames_per_second < results.speed.rollout_frames_per_second
    assert {"hardware", "torch", "torchmetrics", "precision"} <= set(results.environment)


def test_results_of_another_run_are_not_replaced_without_a_word(
    run: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluate(PROTOCOL, run, data, tmp_path / "out", "cpu")
    evaluate(PROTOCOL, run, data, tmp_path / "out", "cpu")
    assert "replaced" not in capfd.readouterr().err
    copy = shutil.copytree(run, tmp_path / "copy")
    evaluate(PROTOCOL, copy, data, tmp_path / "out", "cpu")
    assert f"has results of {run} on {data}: they are replaced" in capfd.readouterr().err


def test_samples_that_could_not_be_written_are_not_made(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextframe.sample.forecast", lambda *_: pytest.fail("a rollout that nobody will see"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        sample(PROTOCOL, run, data, tmp_path / "file" / "samples", "cpu")


def test_weights_that_change_while_they_are_read_are_not_named_by_the_sum_of_others(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")

    def trained_meanwhile(folder: Path, device: str) -> Autoencoder:
        write_weights(copy / WEIGHTS, {name: x + 1 for name, x in load_file(copy / WEIGHTS).items()})
        return load_autoencoder(folder, device)

    monkeypatch.setattr("nextframe.runs.load_autoencoder", trained_meanwhile)
    with pytest.raises(UserError, match="was written to while it was read"):
        load(copy)


def test_methods_are_scored_on_the_predicted_frames_only(run: Path, data: Path, tmp_path: Path) -> None:
    evaluate(PROTOCOL, run, data, tmp_path, "cpu")
    dataset = EpisodeDataset.open(data)
    for info in dataset.episodes("test"):
        video = dataset.read(info).video
        found, truth = read_prediction(prediction_path(tmp_path, info.name)), video[5:8]
        scores = dict(zip(METHODS, found.measured.scores["psnr"], strict=True))
        mean = np.rint(video[:5].mean(0)).astype(np.uint8)
        np.testing.assert_allclose(scores["model"], psnr(found.video, truth))
        np.testing.assert_allclose(scores["repeat_last"], psnr(np.stack([video[4]] * 3), truth))
        np.testing.assert_allclose(scores["context_mean"], psnr(np.stack([mean] * 3), truth))
        np.testing.assert_allclose(scores["reconstruction"][:2], psnr(found.reconstruction, truth[:2]))


def test_finished_episodes_are_not_done_twice(run: Path, data: Path, tmp_path: Path, calls: list[int]) -> None:
    first = evaluate(PROTOCOL, run, data, tmp_path, "cpu", batch=2)
    prediction_path(tmp_path, "test_1").unlink()
    again = evaluate(PROTOCOL, run, data, tmp_path, "cpu", batch=2)
    assert calls == [2, 1, 1]
    assert again.scores == first.scores
    evaluate(replace(PROTOCOL, episodes=2), run, data, tmp_path, "cpu")
    assert len(calls) == 3


def test_as_many_threads_predict_as_pay(run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(device: torch.device, work: Callable[[], object]) -> None:
        work()
        torch.set_num_threads(1)

    before = torch.get_num_threads()
    monkeypatch.setattr(module, "choose_threads", settle)
    try:
        torch.set_num_threads(2)
        results = evaluate(PROTOCOL, run, data, tmp_path, "cpu", batch=2)
        assert results.environment["threads"] == 1 and results.speed.hardware.endswith("1 core")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_batch_that_does_not_fit_is_one_line(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*rest: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(module, "forecast", full)
    with pytest.raises(UserError, match="cpu has no room for 2 predictions at once: lower --batch"):
        evaluate(PROTOCOL, run, data, tmp_path, "cpu", batch=2)


def test_an_interrupted_evaluation_keeps_its_batches(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(world: Any, episodes: Any, *rest: Any) -> Any:
        if len(episodes) == 1:
            raise KeyboardInterrupt
        return forecast(world, episodes, *rest)

    monkeypatch.setattr(module, "forecast", interrupted)
    monkeypatch.setattr(module, "choose_threads", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        evaluate(PROTOCOL, run, data, tmp_path, "cpu", batch=2)
    assert [path.name for path in sorted(tmp_path.rglob("*.*"))] == ["test_0.npz", "test_1.npz"]


def test_other_weights_settings_or_frames_are_predicted_anew(
    run: Path, data: Path, tmp_path: Path, calls: list[int]
) -> None:
    one = replace(PROTOCOL, episodes=1)
    for protocol, model, settings in (
        (one, run, SampleConfig(steps=1)),
        (one, run, SampleConfig(steps=1, seed=1)),
        (one, tiny_run(tmp_path / "other", seed=1), SampleConfig(steps=1, seed=1)),
        (replace(one, frames=2), run, SampleConfig(steps=1)),
    ):
        evaluate(protocol, model, data, tmp_path / "out", "cpu", sample=settings)
    assert calls == [1, 1, 1, 1]


def test_a_damaged_prediction_is_made_anew(run: Path, data: Path, tmp_path: Path, calls: list[int]) -> None:
    one = replace(PROTOCOL, episodes=1)
    evaluate(one, run, data, tmp_path, "cpu")
    path = prediction_path(tmp_path, "test_0")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for count, damaged in enumerate((whole[:100], b"", b"\x93NUMPY", bytes(flipped)), 2):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"test_0\.npz .*delete it, and evaluate again"):
            read_prediction(path)
        evaluate(one, run, data, tmp_path, "cpu")
        assert calls == [1] * count
    with np.load(path) as arrays:
        np.savez(path, **{name: arrays[name] for name in arrays.files if name != "features"})
    with pytest.raises(UserError, match="is no prediction"):
        read_prediction(path)


def test_speed_is_that_of_one_machine(run: Path, data: Path, tmp_path: Path) -> None:
    evaluate(PROTOCOL, run, data, tmp_path, "cpu", batch=1)
    measured = [read_prediction(prediction_path(tmp_path, f"test_{index}")).measured for index in range(3)]
    other = replace(measured[0], hardware="an abacus", rollout_seconds=1e6)
    speed = measured_speed([other, *measured[1:]])
    # With as many threads as paid.
    assert speed.hardware.rpartition(",")[0] == hardware_name(torch.device("cpu")).rpartition(",")[0]
    assert speed == measured_speed(measured[1:])


def test_a_frame_is_made_from_the_context_and_the_action_that_led_to_it(run: Path) -> None:
    world, protocol, settings = load(run), replace(PROTOCOL, episodes=1), SampleConfig(steps=2)
    episode = tiny_episode(0, 8)

    def predicted(video: np.ndarray, actions: np.ndarray) -> np.ndarray:
        with world.at_work():
            return forecast(world, [Episode(video, actions)], protocol, settings, [0], silent).videos[0]

    usual = predicted(episode.video, episode.actions)
    future = episode.video.copy()
    future[5:] = 0
    assert (predicted(future, episode.actions) == usual).all()
    for place, changes in ((4, [True, True, True]), (6, [False, False, True]), (7, [False, False, False])):
        actions = episode.actions.copy()
        actions[place] = (actions[place] + 1) % len(ACTIONS)
        differs = (predicted(episode.video, actions) != usual).any(axis=(1, 2, 3))
        assert differs.tolist() == changes


def test_tokens_of_two_levels() -> None:
    tokens = count_tokens(MODEL, 10)
    assert (tokens.fine_frames, tokens.fine_per_frame) == (4, 16)
    assert (tokens.coarse_frames, tokens.coarse_per_frame) == (6, 4)
    assert (tokens.total, tokens.uniform) == (4 * 16 + 6 * 4, 160)
    short = count_tokens(replace(MODEL, coarse_patch=None), 10)
    assert (short.coarse_frames, short.total) == (0, short.uniform)


@pytest.mark.parametrize(
    ("changes", "batch", "message"),
    [
        ({"episodes": 4}, 8, "3 episodes of the split 'test', 4 are asked for"),
        ({"split": "demo"}, 8, "0 episodes of the split 'demo'"),
        ({"frames": 6}, 8, "test_0 has 10 frames, 5 of context and 6 to predict are 11"),
        ({"context": 0}, 8, "what begins from nothing is no prediction"),
        ({}, 0, "--batch is 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    run: Path, data: Path, tmp_path: Path, changes: dict[str, Any], batch: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(replace(PROTOCOL, **changes), run, data, tmp_path / "out", "cpu", batch)
    assert not (tmp_path / "out").exists()


def test_footage_of_another_world_is_refused(run: Path, tmp_path: Path) -> None:
    many = EpisodeDataset.create(tmp_path / "many", DatasetInfo(10.0, SIZE, tuple("abcdef"), {}))
    with pytest.raises(UserError, match="6 actions, the model knows 5"):
        evaluate(PROTOCOL, run, many.folder, tmp_path / "out", "cpu")
    large = EpisodeDataset.create(tmp_path / "large", DatasetInfo(10.0, 64, ACTIONS, {}))
    with pytest.raises(UserError, match="frames of 64 pixels, the model takes 32"):
        evaluate(PROTOCOL, run, large.folder, tmp_path / "out", "cpu")


def test_missing_actions_are_named(run: Path, tmp_path: Path) -> None:
    dataset = tiny_episodes(tmp_path / "data", count=1)
    path = tmp_path / "data" / "test" / "test_0.npz"
    np.savez(path, pose=np.zeros(10))
    with pytest.raises(UserError, match=r"test_0.npz has no array `actions`"):
        evaluate(replace(PROTOCOL, episodes=1), run, dataset.folder, tmp_path / "out", "cpu")


def test_samples_begin_with_the_context(run: Path, data: Path, tmp_path: Path) -> None:
    videos = sample(replace(PROTOCOL, episodes=2), run, data, tmp_path, "cpu")
    assert [path.name for path in videos] == ["test_0.mp4", "test_1.mp4"]
    with np.load(tmp_path / "test_1.npz") as arrays:
        assert arrays["video"].shape == (8, SIZE, SIZE, 3) and arrays["context"] == 5
        assert (arrays["video"][:5] == tiny_episode(1, 10).video[:5]).all()


def test_rollout_and_decoding_are_timed_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, clock = load(tiny_run(tmp_path / "run")), iter([10.0, 13.0, 14.0])
    monkeypatch.setattr("nextframe.forecast.now", lambda device: next(clock))
    protocol = Protocol(context=3, frames=2, episodes=1)
    made = forecast(world, [tiny_episode(0, 5)], protocol, SampleConfig(steps=1), [0], silent)
    assert (made.rollout_seconds, made.decode_seconds) == (3, 1)


def test_speed_is_of_the_parts_and_of_both() -> None:
    one = Measured({}, np.zeros((0, 0)), 4, 1.0, 3.0, 2, "machine", "")
    speed = measured_speed([one, one])
    assert (speed.rollout_frames_per_second, speed.decode_frames_per_second) == (4, 4 / 3)
    assert (speed.frames_per_second, speed.seconds_per_frame) == (1, 1)


def test_the_first_seed_need_not_be_zero(tmp_path: Path) -> None:
    dataset = tiny_episodes(tmp_path / "data", count=2)
    protocol, infos = Protocol(episodes=2, seeds=(3, 0), trajectories=2), dataset.episodes()
    jobs = jobs_of(protocol, dataset, infos, [0, 0], tmp_path, 0, [])
    assert [job.first for job in jobs] == [True, False, False, False] * 2


def test_a_batchs_time_is_shared_by_its_trajectories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_episodes(tmp_path / "data", frames=10).folder

    def made(world: Any, episodes: Any, protocol: Any, *rest: Any) -> Forecast:
        return Forecast(np.zeros((len(episodes), protocol.frames, SIZE, SIZE, 3), np.uint8), 2.0, 4.0)

    monkeypatch.setattr(module, "forecast", made)
    protocol = Protocol(context=5, frames=4, episodes=3, metrics=("psnr",))
    speed = module.evaluate(protocol, tiny_run(tmp_path / "run"), data, tmp_path / "out", "cpu", 3).speed
    assert (speed.rollout_frames_per_second, speed.decode_frames_per_second) == (6, 3)
