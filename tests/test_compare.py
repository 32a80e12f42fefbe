"""Evaluations beside each other: the figures are those of their results, and pairs are pairs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_episodes, tiny_run

from nextframe.compare import _predicted, compare
from nextframe.config import SampleConfig
from nextframe.errors import UserError
from nextframe.evaluate import evaluate
from nextframe.protocol import Protocol
from nextframe.results import RESULTS

PROTOCOL = Protocol(context=5, frames=3, episodes=6, split="test", metrics=("psnr", "ssim", "drift"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`first` and `second` predict the same frames, with other noise; `shorter` fewer of them."""
    folder = tmp_path_factory.mktemp("compare")
    run, data = tiny_run(folder), tiny_episodes(folder / "data", 6).folder
    for name, seed, frames in (("first", 0, 3), ("second", 9, 3), ("shorter", 0, 2)):
        evaluate(replace(PROTOCOL, frames=frames), run, data, folder / name, "cpu", 8, SampleConfig(steps=2, seed=seed))
    return folder


def results(folder: Path) -> dict:
    return json.loads((folder / RESULTS).read_text())


def edit(folder: Path, **changes: object) -> Path:
    (folder / RESULTS).write_text(json.dumps({**results(folder), **changes}))
    return folder


def test_every_evaluation_has_a_row_and_settings_that_differ_are_named(folder: Path) -> None:
    lines = compare([folder / "first", folder / "second"])
    score = results(folder / "second")["scores"]["model"]
    assert lines[0].split() == ["PSNR", "1-16", "later", "SSIM", "1-16", "later", "drift"]
    drift = results(folder / "second")["by_seed"]["drift"]["mean"]
    psnr, ssim = (score[metric]["early"]["mean"] for metric in ("psnr", "ssim"))
    assert lines[2].split() == [str(folder / "second"), f"{psnr:.2f}", "-", f"{ssim:.3f}", "-", f"{drift:.2f}"]
    assert [line.split() for line in lines[lines.index("what differs:") + 2 :]] == [["sample.seed", "0", "9"]]
    assert compare([folder / "first", folder / "first"])[-1] == "made alike: no setting differs"


@pytest.mark.parametrize(("more", "said"), [(1.0, "better"), (-1.0, "worse"), (0.0, "not told apart")])
def test_pairs_are_of_the_same_episodes(folder: Path, tmp_path: Path, more: float, said: str) -> None:
    """Episodes are far apart, and yet a difference that all have is told."""
    found = results(folder / "first")
    psnr = found["scores"]["model"]["psnr"]
    psnr["episodes"] = (10 * np.arange(6.0)).tolist()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / RESULTS).write_text(json.dumps(found))
    psnr["episodes"] = (10 * np.arange(6.0) + more + 0.1 * np.array([1, -1, 1, -1, 1, -1])).tolist()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / RESULTS).write_text(json.dumps(found))
    (line,) = [line for line in compare([tmp_path / "a", tmp_path / "b"]) if line.split()[1:2] == ["PSNR"]]
    assert f"{more:+.3f}" in line and line.endswith(said)


def test_what_has_not_predicted_the_same_is_not_compared_in_pairs(folder: Path) -> None:
    lines = compare([folder / "first", folder / "shorter"])
    assert any("has predicted other episodes or frames" in line for line in lines)
    assert not any(line.endswith(("better", "worse")) for line in lines)


def test_what_is_no_evaluation_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no evaluation"):
        compare([folder / "first", tmp_path])
    (tmp_path / RESULTS).write_text("[1, 2")
    with pytest.raises(UserError, match="cannot be read"):
        compare([folder / "first", tmp_path])
    (tmp_path / RESULTS).write_text("[]")
    with pytest.raises(UserError, match="holds no results"):
        compare([folder / "first", tmp_path])
    (tmp_path / RESULTS).write_text(json.dumps(results(folder / "first")))
    for wrong in ({"by_seed": 3}, {"scores": {}}, {"model": None}):
        with pytest.raises(UserError, match="another version"):
            compare([folder / "first", edit(tmp_path, **wrong)])
        (tmp_path / RESULTS).write_text(json.dumps(results(folder / "first")))


def test_frames_after_another_context_are_not_compared_in_pairs(tmp_path: Path) -> None:
    one = {"episodes": ["a"], "data": {"folder": "d"}, "protocol": {"context": 5, "frames": 3}}
    assert _predicted(one) != _predicted({**one, "protocol": {"context": 4, "frames": 3}})
