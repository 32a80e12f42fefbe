"""One page, whole in itself, that says what was found and no more."""

import json
import re
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from tiny import tiny_episode, tiny_episodes, tiny_run

from nextframe.errors import UserError
from nextframe.evaluate import evaluate
from nextframe.journal import read_log
from nextframe.metrics.statistics import Figure
from nextframe.pages.drawing import action_strip, comparison_clip, enlarge, film_strip
from nextframe.pages.report import write_report
from nextframe.pages.scores import interval, tiles, verdict
from nextframe.protocol import Protocol
from nextframe.results import METHODS, Results, TokenCounts, summarise

FRAMES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    tiny_episodes(folder / "data")
    (folder / "run").mkdir()
    records = [{"step": step, "loss": 1 / step} for step in (20, 40, 60, 40)]
    (folder / "run" / "metrics.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    protocol = Protocol(context=5, frames=FRAMES, episodes=3, split="test")
    return evaluate(protocol, tiny_run(folder / "model"), folder / "data", folder / "out", "cpu")


@pytest.fixture(scope="module")
def html(folder: Path, results: Results) -> str:
    runs, stages = {"a run": folder / "run"}, {"predict": 61.0}
    path = folder / "page" / "report.html"
    write_report(path, results, folder / "out", folder / "data", runs, stages, [("Again", "nextframe demo --out a<b")])
    return path.read_text()


def test_the_page_needs_nothing_else(html: str) -> None:
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', html)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"""@import|<script|<link (?!rel="icon" href="data:)|url\((?!#)""", html)


def test_the_page_shows_clips_strips_and_curves(html: str) -> None:
    videos = re.findall(r'src="data:video/mp4;base64,([^"]+)"', html)
    assert len(videos) == 3
    with av.open(BytesIO(b64decode(videos[0])), "r") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert sum(1 for _ in container.decode(stream)) == 5 + FRAMES
    assert html.count("data:image/png") == 3 + 1
    assert html.count("<svg") == 2 + 1
    assert "1m01s" in html


def test_the_page_says_what_was_measured(html: str, results: Results) -> None:
    for method in METHODS:
        assert f"{results.scores[method]['psnr'].early.mean:.2f}" in html
    assert results.model["sha256"] in html
    assert f"{results.tokens.total:,} instead of {results.tokens.uniform:,}" in html


def test_foreign_text_is_not_html(html: str) -> None:
    assert "&lt;b&gt;not HTML&lt;/b&gt;" in html and "<b>not HTML" not in html
    assert "nextframe demo --out a&lt;b" in html


def scored(results: Results, model: float, frames: int = 20, episodes: int = 5) -> Results:
    """The same, as if the model's scores were `model`, and those of the baselines 10 and 20 for certain."""
    values = np.array([model, 10.0, 20.0, 30.0])[:, None]
    random = np.random.default_rng(0)
    noise = {metric: random.normal(0, 0.1, (episodes, len(METHODS), frames)) for metric in results.frame_metrics}
    scores, gains = summarise({metric: values + part for metric, part in noise.items()})
    protocol, names = replace(results.protocol, frames=frames), tuple(f"test_{index}" for index in range(episodes))
    return replace(results, protocol=protocol, episodes=names, scores=scores, gains=gains)


def test_the_verdict_is_honest(results: Results) -> None:
    good, between = scored(results, 23.0), scored(results, 15.0)
    assert "1-16, it beats both" in verdict(good, late=False) and "2.0 times smaller" in verdict(good, late=False)
    assert "17-20, it beats both" in verdict(good, late=True)
    middling = verdict(between, late=False)
    assert "against “repeat the last frame” it is better on PSNR and SSIM" in middling
    assert "against “mean frame of the context” it is worse on PSNR and SSIM" in middling
    assert "neither clearly better nor worse" in verdict(scored(results, 20.0), late=False)
    assert verdict(results, late=True) == ""


@pytest.mark.parametrize(("episodes", "counted"), [(1, "1 episode"), (4, "4 episodes")])
def test_few_episodes_decide_nothing(results: Results, episodes: int, counted: str) -> None:
    said = verdict(scored(results, 23.0, episodes=episodes), late=False)
    assert f"Which is really better {counted} cannot tell" in said and "beats" not in said


def test_missing_files_are_named(results: Results, folder: Path, tmp_path: Path) -> None:
    data = folder / "data"
    with pytest.raises(UserError, match="cannot be read"):
        write_report(tmp_path / "report.html", results, folder / "out", data, {"run": tmp_path})
    with pytest.raises(UserError, match=r"test_\d.npz"):
        write_report(tmp_path / "report.html", results, tmp_path, data)
    other = tiny_episodes(tmp_path / "other", split="train").folder
    with pytest.raises(UserError, match="has no episode test_"):
        write_report(tmp_path / "report.html", results, folder / "out", other)
    assert not (tmp_path / "report.html").exists()


def test_a_resumed_run_counts_once(folder: Path) -> None:
    records = read_log(folder / "run")
    assert [record["step"] for record in records] == [20, 40, 60]


def test_pictures_are_enlarged_not_smoothed() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    large = enlarge(frame, 4)
    assert large.shape == (8, 12, 3) and (large[::4, ::4] == frame).all() and (large[3::4, 3::4] == frame).all()


@pytest.mark.parametrize("size", [64, 84, 300])
def test_drawings_have_room_for_any_frame(size: int) -> None:
    video = np.zeros((3, size, size, 3), np.uint8)
    clip = comparison_clip(video, video[1:], ["noop", "turn_left", "do something"])
    assert clip.shape[0] == 3 and clip.shape[2] > 2 * size
    assert (clip[0] != clip[1]).any()
    strip = film_strip({"truth": video, "prediction": video}, ["+1", "+2", "+4"])
    assert strip.shape[0] > 4 * size and strip.shape[1] > 6 * size
    assert action_strip(video, ["up", "noop", "what"], 7).shape[1] > 6 * size


def test_a_single_episode_has_no_interval() -> None:
    assert interval(Figure(12.6, 12.6, 12.6), "psnr") == "12.60"
    assert interval(Figure(12.6, 12.5, 12.7), "psnr", "+") == "+12.60 (+12.50 to +12.70)"


def test_a_lead_that_may_be_none_beats_nobody(results: Any) -> None:
    good = scored(results, 23.0)
    gains = {
        name: {metric: replace(gain, early=Figure(1.0, -1.0, 3.0)) for metric, gain in by_metric.items()}
        for name, by_metric in good.gains.items()
    }
    said = verdict(replace(good, gains=gains), late=False)
    assert "beats" not in said and said.count("neither clearly better nor worse") == 2


def test_a_tile_says_how_many_fewer_tokens(results: Any) -> None:
    few = replace(results, tokens=TokenCounts(4, 16, 20, 4, 144, 384))
    (tile,) = [tile for tile in tiles(few) if "remember" in tile[0]]
    assert tile[1] == "2.7× fewer" and tile[2].startswith("144 instead of 384 for")


def test_a_clip_shows_the_action_that_led_to_a_frame() -> None:
    video = tiny_episode(0, 2).video
    clips = [comparison_clip(video, video[1:], actions) for actions in (["a", "b"], ["a", "c"], ["c", "b"])]
    assert np.array_equal(clips[0], clips[1]) and not np.array_equal(clips[0][1], clips[2][1])


def test_best_first_whatever_best_means(results: Any) -> None:
    values = np.array([0.3, 0.1, 0.2])[:, None, None] + np.zeros((3, len(METHODS), 4))
    for metric, order in (("psnr", [0, 2, 1]), ("lpips", [1, 2, 0])):
        scores, _ = summarise({metric: values})
        by_seed = {metric: results.by_seed["psnr"]}
        assert replace(results, scores=scores, by_seed=by_seed).best_to_worst() == order
