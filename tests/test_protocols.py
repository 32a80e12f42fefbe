"""Seeds, trajectories, guidance, metrics and generation: everything a protocol may ask beyond the maze's."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import ACTIONS, MODEL, SIZE, tiny_episode, tiny_episodes, tiny_i3d, tiny_run

from nextframe import evaluate as module
from nextframe.architecture import TransformerConfig
from nextframe.cli import run_command
from nextframe.config import SampleConfig
from nextframe.data.episodes import DatasetInfo, Episode, EpisodeDataset, EpisodeInfo
from nextframe.errors import UserError
from nextframe.evaluate import evaluate
from nextframe.flow import noise_generator
from nextframe.forecast import Forecast, drawn, forecast, noise_seed
from nextframe.metadata import Metadata, write_metadata
from nextframe.metrics.compression import through_mp4
from nextframe.metrics.fvd import VideoFeatures, frechet_distance
from nextframe.metrics.image import psnr
from nextframe.metrics.lpips import Lpips
from nextframe.metrics.revisit import GROUPS
from nextframe.options import SamplingOptions, changed
from nextframe.pages.behaviour import unlike_the_papers
from nextframe.pages.report import chosen_clips, write_report
from nextframe.pages.scores import by_seed
from nextframe.presets import PROTOCOLS, as_published
from nextframe.progress import silent
from nextframe.protocol import Protocol
from nextframe.results import METHODS, RESULTS, Measured, Results, prediction_path, read_prediction
from nextframe.runs import load
from nextframe.sample import sample
from nextframe.scoring import Footage, Scorer, _revisits, combine, load_scorer, there_and_back

PROTOCOL = Protocol(context=5, frames=10, episodes=3, seeds=(0, 2), trajectories=2, metrics=("psnr", "ssim", "fvd"))
PLAIN = replace(MODEL, coarse_patch=None, window=16, condition="none", classes=0)
LABELS = replace(PLAIN, condition="label", classes=3)
VECTORS = replace(MODEL, condition="vector", classes=0, action_size=2)
VIDEO_DIT = replace(PLAIN, attention="full")
GENERATION = replace(PROTOCOLS["ucf101-generation"], frames=10, episodes=4, seeds=(0, 2), steps=2, split="test")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_episodes(tmp_path_factory.mktemp("data") / "episodes", frames=16).folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven clips of three classes, most of the first."""
    info = DatasetInfo(10.0, SIZE, ACTIONS, {}, label_names=("juggling", "archery", "a very long name of a class"))
    dataset = EpisodeDataset.create(tmp_path_factory.mktemp("classes") / "data", info)
    for index, label in enumerate((0, 0, 0, 0, 1, 1, 2)):
        dataset.add(f"clip_{index}", "test", tiny_episode(index, 12), {}, label)
    dataset.save()
    return dataset.folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_i3d(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Weights are what a test puts into $NEXTFRAME_WEIGHTS, nothing by default."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(tmp_path / "nothing"))
    yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The seeds and the labels of each rollout."""
    made: list[list[int]] = []

    def counted(world: Any, episodes: Any, protocol: Any, sample: Any, seeds: Any, advance: Any, labels: Any) -> Any:
        made.extend([seeds, labels])
        return forecast(world, episodes, protocol, sample, seeds, advance, labels)

    monkeypatch.setattr(module, "forecast", counted)
    return made


def all_seeds(calls: list[list[int]]) -> list[int]:
    return sorted(seed for seeds in calls[::2] for seed in seeds)


def test_the_noise_of_no_two_trajectories_is_the_same() -> None:
    assert [noise_seed(0, episode, 0) for episode in (0, 7)] == [0, 7]
    corners = [(0, 1, 2, 4095), (*range(30), 2**20 - 1), (*range(9), 1023)]
    seeds = [noise_seed(seed, episode, trajectory) for seed, episode, trajectory in product(*corners)]
    # For the first and the last frame of a clip.
    generators = {noise_generator(seed, frame).initial_seed() for seed in seeds for frame in (0, 300)}
    assert len(generators) == 2 * len(seeds) == 2 * 4 * 31 * 10


@pytest.mark.parametrize(
    "changes",
    [
        *({"seeds": seeds} for seeds in ((), (1, 1), (-1,), (4096,))),
        *({"trajectories": 0}, {"frames": 0}, {"metrics": ()}, {"guidance": -1.0}, {"steps": 0}, {"episodes": 2**21}),
    ],
)
def test_impossible_protocols_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        replace(Protocol(), **changes)
    with pytest.raises(UserError, match="protocol: "):
        changed(Protocol(), **changes)


def test_a_maze_is_scored_as_it_always_was(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of commit 8a8b0c8, before there were seeds and trajectories; noise in the place of a model."""
    data = tiny_episodes(tmp_path / "data", frames=30).folder
    asked = []

    def noise(world: Any, episodes: Any, protocol: Any, sample: Any, seeds: Any, *rest: Any) -> Forecast:
        asked.append(seeds)
        shape = (protocol.frames, SIZE, SIZE, 3)
        videos = [np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8) // 2 for seed in seeds]
        truths = [episode.video[protocol.context :] // 2 for episode in episodes]
        return Forecast(np.stack(videos) + np.stack(truths), 1.0, 1.0)

    monkeypatch.setattr(module, "forecast", noise)
    protocol = Protocol(context=5, frames=20, episodes=3)
    results = evaluate(protocol, run, data, tmp_path / "out", "cpu", 2, SampleConfig(steps=2, seed=7))
    assert asked == [[7, 8], [9]] and results.seeds == (7, 8, 9)
    names = [path.name for path in sorted((tmp_path / "out" / "predictions").iterdir())]
    assert names == ["test_0.npz", "test_1.npz", "test_2.npz"]
    found = {method: scores for method, scores in results.scores.items() if method != "reconstruction"}
    assert {method: scores["psnr"].episodes for method, scores in found.items()} == {
        "model": (14.989, 15.0026, 15.0133),
        "repeat_last": (37.8102, 37.8841, 20.5541),
        "context_mean": (15.731, 16.5767, 14.5361),
    }
    assert [found["model"]["ssim"].early.mean, found["context_mean"]["ssim"].early.mean] == [0.5538, 0.513]
    assert results.gains["repeat_last"]["psnr"].early.mean == -19.3433
    assert [results.gains[method]["ssim"].won for method in ("repeat_last", "context_mean")] == [3, 2]
    assert results.by_seed["psnr"].mean == pytest.approx(15.0016, abs=1e-4) and results.missing == {}
    *lines, of_the_first = [line.split("  ") for line in results.summary()]
    assert of_the_first == ["over 20 frames; the model over the first 16 alone: PSNR 15.01, SSIM 0.554"]
    assert [line[0] for line in lines] == list(METHODS.values())
    assert "PSNR 15.00" in lines[0] and "PSNR 32.08" in lines[1]


def trajectory(psnr: float, lpips: float, first: bool, features: Any = ((0.0,),)) -> Measured:
    """One frame per unit apart, so that the mean over two frames is what is given."""
    methods = len(METHODS) if first else 1
    scores = {name: np.full((methods, 2), value, np.float32) for name, value in (("psnr", psnr), ("lpips", lpips))}
    scores["psnr"][0] += (-1, 1)
    return Measured(scores, np.array(features), 2, 1.0, 1.0, 1, "", "")


def test_each_metric_takes_its_own_best_and_seeds_are_averaged() -> None:
    protocol = replace(PROTOCOL, episodes=1, metrics=("psnr", "lpips"))
    scorer = Scorer(torch.device("cpu"), ("psnr", "lpips"), None, None, {}, protocol)
    measured = [
        trajectory(20, 0.3, True),  # seed 0: the second is better by LPIPS, of which less is better
        trajectory(10, 0.1, False),
        trajectory(14, 0.5, False),  # seed 2: the second is better by both
        trajectory(16, 0.2, False),
    ]
    found = combine(scorer, measured)
    assert found.by_seed["psnr"].seeds == (20, 16) and found.by_seed["lpips"].seeds == (0.1, 0.2)
    assert found.by_seed["psnr"].mean == 18 and found.by_seed["psnr"].deviation == pytest.approx(2 * 2**0.5, abs=1e-4)
    assert found.scores["model"]["psnr"].episodes == (18,) and found.scores["model"]["lpips"].episodes == (0.15,)
    assert [figure.mean for figure in found.scores["model"]["psnr"].frames] == [17, 19]
    assert found.scores["repeat_last"]["psnr"].episodes == (20,)  # other methods have one prediction, whatever is asked
    assert found.picked == (0,)
    assert (
        found.gains["repeat_last"]["lpips"].early.mean == pytest.approx(0.15)
        and found.gains["repeat_last"]["lpips"].won
    )


def test_the_fvd_is_one_of_each_trajectory_of_all_episodes() -> None:
    protocol = replace(PROTOCOL, episodes=2, metrics=("fvd",))
    unchanged: Any = lambda videos: videos  # noqa: E731
    scorer = Scorer(torch.device("cpu"), (), None, unchanged, {}, protocol)
    values = np.arange(8.0) ** 2  # by episode, seed and trajectory
    measured = [
        trajectory(0, 0, index % 4 == 0, [[value], [10.0 * index]] if index % 4 == 0 else [[value]])
        for index, value in enumerate(values)
    ]
    found, true = combine(scorer, measured), np.array([[0.0], [40.0]])
    each = [frechet_distance(values[[place, place + 4]][:, None], true) for place in range(4)]
    assert found.by_seed["fvd"].seeds == pytest.approx((sum(each[:2]) / 2, sum(each[2:]) / 2), abs=1e-4)
    assert found.scores["model"] == {} and found.picked == (0, 0)


def test_seeds_and_trajectories_go_on_where_they_stopped(
    run: Path, data: Path, weights: Path, tmp_path: Path, calls: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(weights))
    whole = evaluate(PROTOCOL, run, data, tmp_path / "whole", "cpu", batch=5)
    wanted = sorted(noise_seed(seed, episode, one) for seed in (0, 2) for episode in range(3) for one in range(2))
    assert all_seeds(calls) == wanted and [len(seeds) for seeds in calls[::2]] == [5, 5, 2]
    calls.clear()

    counted = module.forecast

    def interrupted(*arguments: Any) -> Any:
        if len(calls) == 4:
            raise KeyboardInterrupt
        return counted(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "forecast", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(PROTOCOL, run, data, tmp_path / "parts", "cpu", batch=3)
    assert len(list((tmp_path / "parts" / "predictions").iterdir())) == 6
    prediction_path(tmp_path / "parts", "test_0", 2, 1).unlink()
    parts = evaluate(PROTOCOL, run, data, tmp_path / "parts", "cpu", batch=4)
    assert all_seeds(calls) == sorted([*wanted, noise_seed(2, 0, 1)])
    assert parts.scores == whole.scores and parts.by_seed == whole.by_seed and parts.picked == whole.picked

    calls.clear()  # a protocol with less in it finds all it needs
    one = evaluate(replace(PROTOCOL, seeds=(2,), episodes=2), run, data, tmp_path / "parts", "cpu")
    assert not calls and one.by_seed["psnr"].seeds != whole.by_seed["psnr"].seeds[1:]  # of two episodes, not three
    assert evaluate(replace(PROTOCOL, seeds=(2,)), run, data, tmp_path / "parts", "cpu").by_seed[
        "psnr"
    ].mean == pytest.approx(whole.by_seed["psnr"].seeds[1])


def test_the_first_trajectory_is_that_of_a_protocol_without_any(run: Path, data: Path, tmp_path: Path) -> None:
    protocol = replace(PROTOCOL, metrics=("psnr",))
    evaluate(protocol, run, data, tmp_path / "many", "cpu", batch=4)
    evaluate(replace(protocol, seeds=(0,), trajectories=1), run, data, tmp_path / "one", "cpu", batch=4)
    for name in ("test_0", "test_2"):
        videos = [read_prediction(prediction_path(tmp_path / out, name)).video for out in ("one", "many")]
        assert (videos[0] == videos[1]).all()
        others = [prediction_path(tmp_path / "many", name, *other) for other in ((0, 1), (2, 0), (2, 1))]
        assert all((read_prediction(path).video != videos[0]).any() for path in others)


def test_missing_weights_are_reported_and_scores_made_good_later(
    run: Path,
    data: Path,
    weights: Path,
    tmp_path: Path,
    calls: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    protocol = replace(PROTOCOL, seeds=(0,), metrics=("psnr", "lpips", "fvd"))
    results = evaluate(protocol, run, data, tmp_path / "out", "cpu")
    said = [line for line in capsys.readouterr().err.splitlines() if "is not computed" in line]
    assert [line.split()[0] for line in said] == ["lpips", "fvd"] and "no network here" in said[1]
    assert set(results.missing) == {"lpips", "fvd"} and results.frame_metrics == ["psnr"]
    assert "i3d_torchscript.pt is missing" in json.loads((tmp_path / "out" / RESULTS).read_text())["missing"]["fvd"]
    lines = results.summary()
    assert lines[0].split()[-4:] == ["LPIPS", "missing", "FVD", "missing"] and lines[-1].startswith("FVD is missing: ")
    page = "".join(by_seed(results))
    for metric, file in (("FVD", r"i3d_torchscript\.pt"), ("LPIPS", r"\S+\.pth")):
        assert re.search(rf"{metric} is missing: \S+{file} is missing", page)

    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(weights))
    monkeypatch.setattr(Lpips, "load", lambda trunk: Difference())
    monkeypatch.setattr("nextframe.scoring.fingerprint", lambda *names: "a stand-in")
    calls.clear()
    later = evaluate(protocol, run, data, tmp_path / "out", "cpu")
    assert not calls and later.missing == {} and later.scores["model"]["psnr"] == results.scores["model"]["psnr"]
    # The stand-in is a mean of pixels, so it is known what LPIPS must be.
    dataset = EpisodeDataset.open(data)
    first = read_prediction(prediction_path(tmp_path / "out", "test_1"))
    truth = dataset.read(dataset.episodes("test")[1]).video[5:15]
    wanted = np.abs(first.video.astype(float) - truth).mean((1, 2, 3)) / 127.5
    np.testing.assert_allclose(first.measured.scores["lpips"][0], wanted, atol=1e-5)
    page = write_report(tmp_path / "report.html", later, tmp_path / "out", data).read_text()
    assert f"FVD {later.by_seed['fvd'].mean:.1f}" in later.summary()[0] and "LPIPS (lower is better)" in page
    assert "by each metric the best of 2 predictions" in page.lower()


class Difference(torch.nn.Module):
    def forward(self, pictures: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return (pictures - others).abs().mean((1, 2, 3))


def test_nothing_to_compute_is_said_before_anything_is_sampled(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing of this protocol can be scored .*i3d_torchscript\.pt is missing"):
        evaluate(replace(PROTOCOL, metrics=("fvd",)), run, data, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()
    device, footage = torch.device("cpu"), Footage(EpisodeDataset.open(data), [], told=False, folder=None)
    for changes, reason in (({"frames": 9}, "9 predicted frames are too few"), ({"episodes": 1}, "1 episode has no")):
        assert reason in load_scorer(replace(PROTOCOL, **changes), device, footage).missing["fvd"]


def generated(
    model: TransformerConfig, data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Results:
    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(weights))
    world = tiny_run(tmp_path / "world", model=model)
    return evaluate(GENERATION, world, data, tmp_path / "out", "cpu", batch=3)


def fvd_by_hand(results: Results, data: Path, out: Path, seed: int) -> float:
    """From the files alone, with the features of the stand-in written out."""
    dataset = EpisodeDataset.open(data)
    infos = {info.name: info for info in dataset.episodes()}
    made = [read_prediction(prediction_path(out, name, seed)).video for name in results.episodes]
    true = [dataset.read(infos[name]).video[:10] for name in results.episodes]

    def features(video: np.ndarray) -> np.ndarray:
        x = video / 127.5 - 1
        return np.concatenate([x.mean((0, 1, 2)), np.abs(np.diff(x, axis=0)).mean((0, 1, 2))])

    return frechet_distance([features(video) for video in made], [features(video) for video in true])


@pytest.mark.parametrize("model", [PLAIN, VIDEO_DIT, MODEL], ids=["none", "video-dit", "long-action"])
def test_clips_from_nothing(
    model: TransformerConfig, data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_episodes(tmp_path / "data", count=5, frames=12).folder
    results = generated(model, data, weights, tmp_path, monkeypatch)
    assert results.scores["model"] == {} and results.labels == () and len(set(results.episodes)) == 4
    for place, seed in enumerate((0, 2)):
        by_hand = fvd_by_hand(results, data, tmp_path / "out", seed)
        assert results.by_seed["fvd"].seeds[place] == pytest.approx(by_hand, abs=2e-3)
    videos = [
        read_prediction(prediction_path(tmp_path / "out", name, seed)).video
        for name in results.episodes
        for seed in (0, 2)
    ]
    assert len({video.tobytes() for video in videos}) == 8


def test_classes_take_turns(
    classes: Path, weights: Path, tmp_path: Path, calls: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = generated(LABELS, classes, weights, tmp_path, monkeypatch)
    assert results.labels == (0, 1, 2, 0)
    told = {
        seed: label
        for seeds, labels in zip(calls[::2], calls[1::2], strict=True)
        for seed, label in zip(seeds, labels, strict=True)
    }
    assert told == {noise_seed(seed, index, 0): index % 3 for index in range(4) for seed in (0, 2)}
    labels = {info.name: info.label for info in EpisodeDataset.open(classes).episodes()}
    assert [labels[name] for name in results.episodes] == [0, 1, 2, 0]
    page = write_report(tmp_path / "report.html", results, tmp_path / "out", classes).read_text()
    assert "What does it make from nothing?" in page and results.figure("fvd") in page
    assert "PSNR" not in re.sub('base64,[^"]*', "", page)  # letters of a clip may be any
    assert "sample 2: archery" in page and "seeds 0, 2" in page and page.count("data:video/mp4") == 3
    made = sample(replace(GENERATION, episodes=2), tmp_path / "world", classes, tmp_path / "samples", "cpu")
    assert [path.name for path in made] == ["sample_000.mp4", "sample_001.mp4"]
    with np.load(tmp_path / "samples" / "sample_001.npz") as arrays:
        assert arrays["label"] == 1 and arrays["video"].shape == (10, SIZE, SIZE, 3)
        assert (arrays["video"] == read_prediction(prediction_path(tmp_path / "out", results.episodes[1])).video).all()


def test_samples_of_one_class(classes: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "world", model=LABELS)
    write_metadata(Metadata(10.0, label_names=("archery", "bowling", "10")), run)
    for label, number in (("bowling", 1), ("2", 2), ("10", 2)):
        videos = sample(replace(GENERATION, episodes=2), run, classes, tmp_path / f"of_{label}", "cpu", label=label)
        told = [np.load(video.with_suffix(".npz"))["label"] for video in videos]
        assert told == [number, number]
    (video,) = sample(
        replace(GENERATION, context=4, frames=8, episodes=1), run, classes, tmp_path / "on", "cpu", label="2"
    )
    assert np.load(video.with_suffix(".npz"))["label"] == 2
    for label in ("3", "archer"):
        with pytest.raises(UserError, match="is none of the model's: choose 0 to 2"):
            sample(GENERATION, run, classes, tmp_path / "none", "cpu", label=label)
    assert not (tmp_path / "none").exists()


def test_true_clips_are_drawn_evenly() -> None:
    infos = [EpisodeInfo(f"{index:03}", "test", 9, {}, {}, {}, index // 10 % 3) for index in range(60)]
    order = drawn(infos)
    assert sorted(info.name for info in order) == [info.name for info in infos]
    assert [info.label for info in order[:12]] == [0, 1, 2] * 4
    assert [info.name for info in order] == [info.name for info in drawn(infos)]
    assert [info.name for info in order[::3]] != sorted(info.name for info in order[::3])
    few = drawn([info for info in infos if info.label != 1 or info.name == "010"])
    assert [info.label for info in few[:7]] == [0, 1, 2, 0, 2, 0, 2]


def test_every_third_frame(tmp_path: Path, calls: list[list[int]]) -> None:
    """A model that was trained on every third frame is asked about every third."""
    world = load(tiny_run(tmp_path / "world", model=PLAIN, interval=3))
    protocol = replace(PROTOCOL, context=2, frames=3, episodes=1, metrics=("psnr",))
    data = tiny_episodes(tmp_path / "data", count=1, frames=13).folder
    results = evaluate(protocol, tmp_path / "world", data, tmp_path / "out", "cpu")
    thirds = tiny_episode(0, 13).video[::3]
    own = forecast(world, [Episode(thirds, np.zeros(5, np.int64))], protocol, SampleConfig(steps=2), [0], silent)
    found = read_prediction(prediction_path(tmp_path / "out", "test_0"))
    assert (found.video == own.videos[0]).all()
    error = np.square(thirds[1].astype(float) - thirds[2:]).mean((1, 2, 3))
    np.testing.assert_allclose(
        found.measured.scores["psnr"][1], np.minimum(10 * np.log10(255**2 / (error + 1e-9)), 60), atol=1e-3
    )
    assert results.fps == pytest.approx(10 / 3)
    (clip,) = chosen_clips(results, tmp_path / "out", EpisodeDataset.open(data))
    assert (clip.context == thirds[:2]).all() and (clip.truth == thirds[2:]).all() and len(clip.actions) == 5
    short = tiny_episodes(tmp_path / "short", count=1, frames=12).folder
    with pytest.raises(UserError, match="3 to predict at every 3 frames are 13"):
        evaluate(protocol, tmp_path / "world", short, tmp_path / "other", "cpu")


def test_a_class_is_told_with_every_frame(classes: Path, tmp_path: Path) -> None:
    world, protocol = load(tiny_run(tmp_path / "world", model=LABELS)), Protocol(context=2, frames=3, episodes=4)
    evaluate(protocol, tmp_path / "world", classes, tmp_path / "out", "cpu")
    found = read_prediction(prediction_path(tmp_path / "out", "clip_3")).video
    made = [
        forecast(world, [tiny_episode(3, 5)], protocol, SampleConfig(steps=2), [3], silent, [label]).videos[0]
        for label in (0, 1)
    ]
    assert (made[0] == found).all() and (made[1] != found).any()


def test_vectors_are_passed_on(tmp_path: Path) -> None:
    """The action that led to a frame, whatever it is made of; and it fits over a picture."""
    run, names = tiny_run(tmp_path / "world", model=VECTORS), ("sideways", "ahead")
    info = DatasetInfo(10.0, SIZE, names, {}, action_kind="vector")
    dataset = EpisodeDataset.create(tmp_path / "data", info)
    actions = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    episode = Episode(tiny_episode(0, 8).video, actions)
    dataset.add("test_0", "test", episode, {})
    dataset.save()
    protocol = Protocol(context=5, frames=3, episodes=1)
    results = evaluate(protocol, run, dataset.folder, tmp_path / "out", "cpu")
    usual = read_prediction(prediction_path(tmp_path / "out", "test_0")).video
    for place, changes in ((4, [True, True, True]), (6, [False, False, True]), (7, [False, False, False])):
        other = actions.copy()
        other[place] += 1
        again = forecast(load(run), [Episode(episode.video, other)], protocol, SampleConfig(steps=2), [0], silent)
        assert (again.videos[0] != usual).any(axis=(1, 2, 3)).tolist() == changes
    write_report(tmp_path / "report.html", results, tmp_path / "out", dataset.folder)
    assert sample(protocol, run, dataset.folder, tmp_path / "samples", "cpu")
    with pytest.raises(UserError, match="has actions that are vectors, the model takes actions by number"):
        evaluate(protocol, tiny_run(tmp_path / "ids"), dataset.folder, tmp_path / "other", "cpu")


@pytest.mark.parametrize(
    ("model", "interval", "changes", "message"),
    [
        (VIDEO_DIT, 1, {}, "a Video DiT makes clips from nothing"),
        (LABELS, 1, {}, "conditioned on class labels, and episodes of .* have none"),
        (MODEL, 2, {}, "would not be told the actions between"),
        (VECTORS, 1, {}, "has actions by number, the model takes actions that are vectors"),
        (PLAIN, 1, {"context": 0, "frames": 17, "metrics": ("fvd",)}, "0 episodes of the split 'test' with 17 frames"),
    ],
    ids=["video-dit", "labels", "interval", "vectors", "short"],
)
def test_what_a_model_cannot_do_is_refused(
    model: TransformerConfig,
    interval: int,
    changes: dict[str, Any],
    message: str,
    data: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(weights))
    run = tiny_run(tmp_path / "world", model=model, interval=interval)
    with pytest.raises(UserError, match=message):
        evaluate(replace(PROTOCOL, **{"frames": 3, **changes}), run, data, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


def test_settings_come_from_the_command_line_then_the_protocol_then_the_model(run: Path) -> None:
    own, asked = PROTOCOLS["maze"], PROTOCOLS["dmlab"]
    assert SamplingOptions().settings(own, run) == SampleConfig(steps=2)
    assert SamplingOptions().settings(asked, run) == SampleConfig(steps=50, guidance=1.5)
    given = SamplingOptions(steps=3, guidance=0.0, seed=5, memory=8, slide=2, riflex=True, temporal_decay=0.1)
    wanted = SampleConfig(steps=3, guidance=0.0, seed=5, memory=8, slide=2, riflex=True, temporal_decay=0.1)
    assert given.settings(asked, run) == wanted
    with pytest.raises(UserError, match="sampling: steps is 0"):
        SamplingOptions(steps=0).settings(asked, run)
    with pytest.raises(UserError, match="is an autoencoder"):
        SamplingOptions().settings(asked, run / "autoencoder")


def test_settings_that_the_model_cannot_do_are_one_line(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sampling: memory is 2"):
        evaluate(replace(PROTOCOL, metrics=("psnr",)), run, data, tmp_path, "cpu", sample=SampleConfig(2, memory=2))


def test_every_sampling_option_is_one_of_both_verbs(run: Path, data: Path, tmp_path: Path) -> None:
    given = f"--model {run} --data {data} --episodes 1 --device cpu --steps 1 --solver euler --guidance 0 --seed 3"
    further = f"{given} --memory 6 --riflex --temporal-decay 0.1 --out {tmp_path}/out"
    run_command(f"sample --context 5 --frames 4 {further}".split())
    assert (tmp_path / "out" / "test_0.mp4").exists()
    with pytest.raises(UserError, match=r"test_0 has 16 frames, .* are 300"):
        run_command(f"evaluate dmlab --split test --seeds 0 --trajectories 2 {further}".split())
    with pytest.raises(UserError, match="protocol: trajectories is 0"):
        run_command(f"evaluate dmlab --trajectories 0 {further}".split())


def test_measured_as_the_published_script_does(
    run: Path, data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FVD over context and prediction, on what an mp4 leaves; every n-th episode; the authors' row beside ours."""
    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(weights))
    fewer = {"context": 5, "frames": 10, "episodes": 2, "seeds": (0,), "steps": 2, "guidance": 1.0}
    plain = replace(PROTOCOLS["ucf101-prediction"], **fewer, trajectories=1)
    published = replace(as_published("ucf101-prediction"), **fewer, trajectories=1, every=2)
    ours, theirs = (evaluate(one, run, data, tmp_path / name) for name, one in (("a", plain), ("b", published)))
    fewer_steps = SampleConfig(steps=1, solver="euler")
    assert evaluate(plain, run, data, tmp_path / "c", sample=fewer_steps).protocol.steps == 1  # as it was done
    assert ours.episodes == ("test_0", "test_1") and theirs.episodes == ("test_0", "test_2")
    assert "context and prediction, after a lossy mp4" in theirs.how["fvd"] and "lossy" not in ours.how["psnr"]
    # By hand: what is looked at of the first episode.
    world, features = load(run), VideoFeatures.load(torch.device("cpu"))
    episode = EpisodeDataset.open(data).read(EpisodeDataset.open(data).episodes()[0])
    made = read_prediction(prediction_path(tmp_path / "b", "test_0", 0, 0))
    context = there_and_back(world, episode.video[:5])
    pair = through_mp4(np.concatenate([context, made.video]), episode.video[:15])
    np.testing.assert_allclose(made.measured.features, features(np.stack(pair)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made.measured.scores["psnr"][0], psnr(pair[0][5:], pair[1][5:]), rtol=1e-4)
    page = write_report(tmp_path / "b" / "report.html", theirs, tmp_path / "b", data).read_text()
    assert "Beside the paper" in page and "FAR-B (paper)" in page and "194.1" in page and "25.64" in page
    assert "not the paper&#x27;s protocol: 5 frames of context, not 4; 10 predicted frames, not 12; 2 episodes" in page
    whole = replace(PROTOCOLS["dmlab"], guidance=1.0)
    assert unlike_the_papers(PROTOCOLS["dmlab"], SampleConfig()) == []
    unlike = unlike_the_papers(whole, SampleConfig(solver="adams", memory=20))
    assert unlike == ["1.0 as guidance, not 1.5", "adams as solver", "20 as memory"]
    assert (
        "Beside the paper"
        not in write_report(
            tmp_path / "a" / "own.html", replace(ours, protocol=replace(plain, name="")), tmp_path / "a", data
        ).read_text()
    )


def test_the_interval_of_an_fvd_is_round_its_mean() -> None:
    protocol = replace(PROTOCOL, episodes=6, metrics=("fvd",))
    unchanged: Any = lambda videos: videos  # noqa: E731
    random = np.random.default_rng(0)
    measured = [
        trajectory(0, 0, index % 4 == 0, random.normal(5 * (index % 2), 1, (1 + (index % 4 == 0), 2)))
        for index in range(24)
    ]
    found = combine(Scorer(torch.device("cpu"), (), None, unchanged, {}, protocol), measured)
    assert found.fvd is not None and found.fvd.mean == found.by_seed["fvd"].mean
    assert (found.fvd.low + found.fvd.high) / 2 == pytest.approx(found.fvd.mean, abs=1e-3)


@pytest.mark.parametrize(("pixels", "black"), [("signed", -1), ("unit", 0)])
def test_lpips_is_shown_the_range_that_is_asked_for(pixels: Any, black: float) -> None:
    scorer = Scorer(torch.device("cpu"), (), None, None, {}, replace(PROTOCOL, lpips_pixels=pixels))
    shown = scorer._for_lpips(torch.tensor([0, 255], dtype=torch.uint8).expand(1, 1, 3, 2).movedim(2, -1))
    assert shown.unique().tolist() == [black, 1]


class Reader:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[np.ndarray, list[int]]] = []

    def obeyed(self, video: np.ndarray, actions: np.ndarray) -> np.ndarray:
        self.asked.append((video, actions.tolist()))
        return np.zeros(len(actions), np.float32)

    def guessed(self, actions: np.ndarray) -> np.ndarray:
        return np.zeros(len(actions), np.float32)


def test_a_reader_is_asked_for_the_actions_that_led_to_the_frames() -> None:
    reader: Any = Reader()
    scorer = Scorer(torch.device("cpu"), (), None, None, {}, Protocol(context=3, frames=2), ("control",), reader)
    episode = replace(tiny_episode(0, 5), actions=np.arange(5))
    scorer._own_scores(episode, [episode.video[3:]], True)
    for video, actions in reader.asked:
        assert actions == [2, 3] and np.array_equal(video, episode.video[2:])


def test_control_is_the_mean_over_trajectories_and_a_figure_for_each_seed() -> None:
    scorer = Scorer(
        torch.device("cpu"), (), None, None, {}, Protocol(episodes=1, seeds=(0, 2), trajectories=2), ("control",)
    )
    measured = [
        Measured(
            {"control": np.full((len(METHODS) + 2 if not place else 1, 3), value, np.float32)},
            np.zeros((0, 0)),
            3,
            1.0,
            1.0,
            1,
            "",
            "",
        )
        for place, value in enumerate((0.0, 0.2, 1.0, 1.0))
    ]
    found = combine(scorer, measured)
    assert found.by_seed["control"].seeds == (0.1, 1) and found.scores["model"]["control"].episodes == (0.55,)


def test_episodes_without_such_frames_count_for_nothing() -> None:
    rows = {method: np.array([[20.0] * 5, [30.0, *[np.nan] * 4]]) for method in METHODS}
    rows["frames"] = np.array([[5.0] * 5, [7.0, 0, 0, 0, 0]])
    shown, never, *_ = _revisits(rows)
    assert (shown.frames, shown.episodes, shown.scores["model"].mean) == (12, 2, 25)
    assert (never.frames, never.episodes, never.scores["model"].mean) == (5, 1, 20), GROUPS
