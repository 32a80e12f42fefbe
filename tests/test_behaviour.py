"""Drift, revisits and control: metrics of a world that is walked through; estimates; the published script's choices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_episode, tiny_episodes, tiny_run

from nextframe.data.episodes import Episode, EpisodeDataset
from nextframe.errors import UserError
from nextframe.evaluate import evaluate, prepare
from nextframe.metrics.compression import through_mp4
from nextframe.metrics.control import ActionReader
from nextframe.metrics.drift import drift, frame_statistics, overall
from nextframe.metrics.fvd import frechet_distance
from nextframe.metrics.revisit import by_age, frames_since_shown, groups
from nextframe.metrics.statistics import jackknife
from nextframe.pages.report import write_report
from nextframe.presets import PROTOCOLS, as_published
from nextframe.protocol import Protocol

WORLD = Protocol(context=5, frames=3, episodes=3, metrics=("psnr", "drift", "revisit", "control"))


def test_drift_is_in_units_of_the_truth() -> None:
    random = np.random.default_rng(0)
    true = random.normal(100, 5, (400, 20, 4))
    assert drift(true[:, None] + 10, true).early.mean == pytest.approx(2, abs=0.05)
    assert drift(true[:, None], true).early.mean == 0
    other = drift(random.normal(100, 5, (400, 1, 20, 4)), true)
    assert other.late is not None and other.late.mean < 0.05  # what differs by chance cancels
    samples = np.stack([true + 10, true - 10], axis=1)
    assert drift(samples, true).early.mean == pytest.approx(2, abs=0.05)  # what two samples do, does not
    assert overall(samples, true) == pytest.approx(2, abs=0.05)


def test_each_statistic_sees_its_own_change() -> None:
    video = np.random.default_rng(0).integers(60, 190, (1, 32, 32, 3), dtype=np.uint8)
    usual = frame_statistics(video)[0]
    brighter, grey = video + 20, np.repeat(video.mean(-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    blurred = video.copy()
    blurred[:, 1:] = video[:, 1:] // 2 + video[:, :-1] // 2
    assert frame_statistics(brighter)[0, 0] == pytest.approx(usual[0] + 20) and frame_statistics(grey)[0, 2] < 1
    assert frame_statistics(blurred)[0, 3] < 0.9 * usual[3]


def test_a_view_counts_as_shown_from_the_same_place_facing_the_same_way() -> None:
    poses = np.array(
        [[0, 0, 0], [32, 0, 0], [64, 0, 0], [64, 0, 350], [64, 0, 0], [40, 0, 0], [64, 0, 354], [96, 0, 0]]
    )
    # 4: stood there 2 frames ago; 5: half a step from frame 1; 6: nearest to frame 3; 7: never.
    assert frames_since_shown(poses.astype(np.float32), 4).tolist() == [2, 4, 3, 0]
    members = groups(np.array([2, 16, 17, 64, 65, 0]))
    assert members.sum(1).tolist() == [5, 1, 2, 2, 1]
    means = by_age(np.array([[1.0, 2, 3, 4, 5, 9]]), np.array([2, 16, 17, 64, 65, 0]))
    assert means.tolist() == [[3, 9, 1.5, 3.5, 5]]
    assert np.isnan(by_age(np.array([[1.0]]), np.array([0]))[0, 0])


def test_actions_are_read_off_pictures_and_the_reader_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextframe.metrics.control.STEPS", 100)
    dataset = tiny_episodes(tmp_path / "data", count=8, frames=60, split="train")
    reader, digest = ActionReader.learned(dataset, tmp_path)
    episode = tiny_episode(99, 40)
    taken = episode.actions[:-1]
    assert reader.obeyed(episode.video, taken).mean() > 0.8 > reader.guessed(taken).mean()
    assert reader.obeyed(episode.video, (taken + 1) % 3).mean() < 0.2
    (path,) = tmp_path.glob("control-*.safetensors")
    again, same = ActionReader.learned(dataset, tmp_path)
    assert same == digest and (again.obeyed(episode.video, taken) == reader.obeyed(episode.video, taken)).all()
    path.write_bytes(b"half")
    with pytest.raises(UserError, match="is damaged"):
        ActionReader.learned(dataset, tmp_path)


def test_what_cannot_be_computed_is_missing_by_name(tmp_path: Path) -> None:
    data = tiny_episodes(tmp_path / "data").folder
    results = evaluate(WORLD, tiny_run(tmp_path / "run"), data, tmp_path / "out", "cpu")
    assert set(results.missing) == {"revisit", "control"} and "no poses" in results.missing["revisit"]
    assert "split 'train'" in results.missing["control"] and "drift" in results.scores["reconstruction"]


def test_a_world_is_scored_by_all_of_them_and_again_without_predicting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextframe.metrics.control.STEPS", 10)
    dataset = EpisodeDataset.create(tmp_path / "data", tiny_episodes(tmp_path / "other").info)
    for split, count, frames in (("test", 3, 10), ("train", 4, 60)):
        for index in range(count):
            made = tiny_episode(index, frames)
            pose = np.zeros((frames, 3), np.float32)
            pose[:, 2] = np.cumsum(np.array([0, -9, 9])[made.actions]) % 360
            dataset.add(f"{split}_{index}", split, Episode(made.video, made.actions, {"pose": pose}), {})
    dataset.save()
    run, out = tiny_run(tmp_path / "run"), tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.delattr(ActionReader, "learn")  # to estimate it is not worth the time
        estimated = prepare(WORLD, run, dataset.folder, out, "cpu", 8, None, keep=False).estimated()
        more = prepare(
            replace(WORLD, episodes=30, seeds=(0, 1)), run, dataset.folder, out, "cpu", 8, None, keep=False
        ).estimated()
    assert more.rollouts == 60 and "has 3 of these episodes: the other 27" in capsys.readouterr().err
    assert estimated.rollouts == 3 and estimated.seconds > 0 and estimated.disk_bytes > 0 and not out.exists()
    first = evaluate(replace(WORLD, metrics=("psnr",)), run, dataset.folder, out, "cpu")
    assert "3 rollouts of 3 frames: about" in capsys.readouterr().err
    results = evaluate(WORLD, run, dataset.folder, out, "cpu")
    assert "rollouts" not in capsys.readouterr().err  # nothing is predicted again
    assert results.scores["model"]["psnr"] == first.scores["model"]["psnr"] and not results.missing
    assert set(results.how) == set(WORLD.metrics) and set(results.control) == {"truth", "guess"}
    shown, never = results.revisit[:2]
    assert shown.frames + never.frames == 9 and shown.frames == sum(one.frames for one in results.revisit[2:])
    page = write_report(tmp_path / "report.html", results, out, dataset.folder).read_text()
    assert "Does it remember places?" in page and "Does it stay itself? Does it obey?" in page


def test_published_choices_are_another_measurement_of_the_same_predictions() -> None:
    assert as_published("ucf101-prediction").every == 10
    for name in PROTOCOLS:
        protocol = as_published(name)
        assert (protocol.fvd_frames, protocol.scored, protocol.lpips_pixels) == ("all", "mp4", "unit")


def test_an_mp4_loses_something_on_either_side() -> None:
    one, other = tiny_episode(0, 4).video, tiny_episode(1, 4).video
    for before, after in zip((one, other), through_mp4(one, other), strict=True):
        difference = np.abs(before.astype(float) - after)
        assert before.shape == after.shape and 0 < difference.mean() < 60


def test_the_interval_of_a_distance_holds_what_other_episodes_give() -> None:
    """Of the distance at so many episodes, which is larger than that of infinitely many."""
    random = np.random.default_rng(0)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        return random.normal(size=(60, 4)), random.normal(0.5, 1, (60, 4))

    usual = np.mean([frechet_distance(*draw()) for _ in range(100)])
    held = 0
    for _ in range(40):
        one, other = draw()
        reach = jackknife(lambda kept, one=one, other=other: frechet_distance(one[kept], other[kept]), 60)
        assert reach is not None
        held += abs(frechet_distance(one, other) - usual) <= reach
    assert held >= 33
    assert jackknife(lambda kept: 0.0, 4) is None


def test_sharpness_counts_both_ways_and_contrast_is_a_frames_own() -> None:
    stripes = np.zeros((2, 32, 32, 3), np.uint8)
    stripes[0, ::2] = 200
    stripes[1, :, ::2] = 200
    across, along = frame_statistics(stripes)
    assert across.tolist() == pytest.approx(along.tolist()) and across[3] == 100
    both = np.concatenate([np.full((1, 32, 32, 3), 90, np.uint8), stripes[:1]])
    assert frame_statistics(both)[:, 1].tolist() == [0, 100]


def test_a_guess_is_the_commonest_action(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextframe.metrics.control.STEPS", 2)
    dataset = tiny_episodes(tmp_path / "data", count=8, frames=60, split="train")
    reader, _ = ActionReader.learned(dataset, tmp_path)
    taken = np.concatenate([dataset.read(info).actions[:-1] for info in dataset.episodes("train")])
    assert reader.commonest.item() == np.bincount(taken).argmax()
    assert reader.guessed(np.arange(3)).tolist() == (np.arange(3) == np.bincount(taken).argmax()).tolist()


def test_a_reader_of_other_footage_is_learned_anew(tmp_path: Path) -> None:
    one = tiny_episodes(tmp_path / "one", count=4, frames=60, split="train")
    other = EpisodeDataset.create(tmp_path / "other", one.info)
    for number, info in enumerate(one.episodes()):
        other.add(info.name, "train", tiny_episode(100 + number, 60), {})
    assert ActionReader.learned(one, None)[1] != ActionReader.learned(other, None)[1]


def test_a_view_is_as_old_as_when_it_was_last_shown() -> None:
    poses = np.array([[0, 0, 0], [32, 0, 0], [0, 0, 0], [32, 0, 20], [32, 0, 0], [0, 0, 0]], np.float32)
    assert frames_since_shown(poses, 4).tolist() == [3, 3]
