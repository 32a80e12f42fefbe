"""Both demos, from nothing to the report; and nothing is done twice."""

import re
import time
from functools import partial
from pathlib import Path

import pytest

from nextframe import demo
from nextframe.errors import UserError
from nextframe.files import sha256
from nextframe.pieces import newest_checkpoint
from nextframe.presets import PRETRAINED
from nextframe.protocol import Protocol
from nextframe.runs import load


@pytest.fixture(autouse=True)
def _short_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PROTOCOL", Protocol(context=144, frames=4, episodes=2, split="demo"))
    monkeypatch.setattr(demo, "SHORT_PROTOCOL", Protocol(context=20, frames=4, episodes=2, split="demo"))
    monkeypatch.setattr(demo, "FEWEST_EPISODES", 4)


def test_the_shipped_model_makes_a_report(tmp_path: Path) -> None:
    report = demo.demo(tmp_path / "demo", episodes=2, device="cpu")
    text = report.read_text()
    assert text.count("data:video/mp4") >= 2
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)  # nothing is loaded from elsewhere
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*.npz")}
    demo.demo(tmp_path / "demo", episodes=2, device="cpu")
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*.npz")}


def test_a_run_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    for show in (partial(demo.demo, tmp_path, 2, "cpu"), partial(demo.demo_train, tmp_path, 60, 2, "cpu")):
        with pytest.raises(UserError, match="holds a run: choose another --out for a demo"):
            show()
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_the_shipped_model_is_small() -> None:
    files = list(PRETRAINED.rglob("*.safetensors"))
    assert len(files) == 2 and sum(path.stat().st_size for path in files) <= 20e6
    model = load(PRETRAINED)
    assert model.config.model.coarse_patch is not None and model.config.model.action_of == "arrival"


def test_the_whole_loop_in_half_a_minute(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    report = demo.demo_train(out, 30, episodes=2, device="cpu")
    assert "their running median" in report.read_text()  # of the losses
    state = newest_checkpoint(out / "world")
    assert state is not None and state.position.step >= 1
    weights = sha256(out / "world" / "weights.safetensors")
    started = time.monotonic()
    demo.demo_train(out, 30, episodes=2, device="cpu")
    assert time.monotonic() - started < 60  # nothing is recorded, trained, encoded or predicted again
    assert sha256(out / "world" / "weights.safetensors") == weights
    with pytest.raises(UserError, match=r"was begun with --budget 30s"):
        demo.demo_train(out, 60, episodes=2, device="cpu")
