"""`nextframe import`: anybody's videos and actions become episodes; nothing disappears, nothing is half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import tiny_episodes, tiny_run

from nextframe.data import cutting
from nextframe.data.actions import read_actions, vocabulary
from nextframe.data.cutting import Cut
from nextframe.data.episodes import EpisodeDataset
from nextframe.data.latents import LatentDataset
from nextframe.data.sources import divided, find_sources, name_of
from nextframe.data.tensors import tensors_of
from nextframe.data.video import VIDEO_ERRORS, decoded, fitted, lossless_mp4, upright, video_facts
from nextframe.errors import UserError
from nextframe.import_footage import import_footage
from nextframe.import_latents import import_latents
from nextframe.imported import Imported, summary
from nextframe.inspection import alignment

SAMPLES = Path(__file__).parent / "samples"
UCF = SAMPLES / "ucf101_v_CliffDiving_g08_c03.mp4"
DMLAB = SAMPLES / "dmlab_episode.npz"
SIZE = 16


def write_video(path: Path, frames: int, seed: int = 0, side: int = SIZE) -> np.ndarray:
    """A lossless video of noise; returns its frames, uint8 [f, h, w, 3]."""
    video = np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lossless_mp4(video, 10.0))
    return video


def imported(place: Path, out: Path, **options: object) -> Imported:
    """At the size of the test's own videos, in one worker."""
    settings = {"size": SIZE, "cut": Cut(least_frames=2), "workers": 1, **options}
    return import_footage(place, out, **settings)  # type: ignore[arg-type]


def test_a_real_dmlab_episode(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(DMLAB, tmp_path / "in")
    (tmp_path / "dmlab_train.json").write_text(json.dumps([{"video_path": "in/dmlab_episode.npz"}]))
    for place in (tmp_path / "in", tmp_path / "dmlab_train.json"):  # a folder of npz, and the published list
        dataset = import_footage(place, tmp_path / f"out_{place.stem}", action_names=("left", "right", "go")).dataset
        (info,) = dataset.episodes("train")
        episode, true = dataset.read(info), np.load(DMLAB)
        np.testing.assert_array_equal(episode.video, true["video"])
        np.testing.assert_array_equal(episode.actions, true["actions"])
        assert dataset.info.action_names == ("left", "right", "go") and "are on time" in alignment(dataset)


def test_a_real_ucf101_clip(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES, tmp_path / "UCF-101/CliffDiving", ignore=lambda _, names: [n for n in names if "UCF" in n])
    (tmp_path / "UCF-101/CliffDiving" / DMLAB.name).unlink()
    dataset = import_footage(tmp_path / "UCF-101", tmp_path / "out", labelled=True).dataset
    (info,) = dataset.episodes()
    assert (info.frames, info.label, dataset.info.fps, dataset.info.label_names) == (78, 0, 25.0, ("CliffDiving",))
    assert dataset.info.action_kind == "none" and dataset.read(info).actions.shape == (78, 0)
    video = dataset.read(info).video
    assert video.shape == (78, 64, 64, 3) and 40 < video.mean() < 200 and video[0].std() > 10


def test_frames_are_resized_as_the_paper_does() -> None:
    """Shorter side to the size, antialiased; the middle of the longer one. As torchvision, to a rounded level."""
    frame = np.zeros((240, 320, 3), np.uint8)
    frame[:, 160:] = 200
    square = fitted(frame, 64)
    assert square.shape == (64, 64, 3) and (square[:, :30] == 0).all() and (square[:, 34:] == 200).all()
    stripes = np.zeros((240, 240, 3), np.uint8)
    stripes[::2] = 255  # finer than a pixel of the result: grey, not aliased
    assert abs(fitted(stripes, 60)[2:-2].astype(int) - 128).max() < 12
    assert fitted(np.zeros((3, 1000, 3), np.uint8), 8).shape == (8, 8, 3)
    with UCF.open("rb") as file:
        picture = next(decoded(file))
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(pixels, (64, 85), mode="bilinear", antialias=True)[0]
    expected = resized[:, :, 10:74].round().permute(1, 2, 0).numpy()  # 85 - 64 = 21 columns too many
    assert np.abs(fitted(picture, 64) - expected).max() <= 1
    squeezed = fitted(frame, 64, "squeeze")
    assert (squeezed[:, :31] == 0).all() and (squeezed[:, 33:] == 200).all()


@pytest.mark.parametrize(
    ("suffix", "content", "kind", "names", "actions"),
    [
        (".csv", "left\nright\nleft\n", "id", ("left", "right"), [0, 1, 0]),
        (".csv", "frame,action\n0,2\n1,0\n2,1\n", "id", ("0", "1", "2"), [2, 0, 1]),
        (".csv", "t,dx,dy\n0,1,0\n0.1,0.5,2\n0.2,0,-1e-1\n", "vector", ("dx", "dy"), [[1, 0], [0.5, 2], [0, -0.1]]),
        (".csv", "1,0\n0,1\n1,1\n", "vector", ("0", "1"), [[1, 0], [0, 1], [1, 1]]),
        (".csv", "frame,action,note\n0,go,a\n1,stay,b\n2,go,\n", "id", ("go", "stay"), [0, 1, 0]),
        (".csv", "jump,duck\nTrue,false\nFalse,1\nTRUE,0\n", "vector", ("jump", "duck"), [[1, 0], [0, 1], [1, 0]]),
        (".csv", "steer\n-1.0\n0.5\n1\n", "vector", ("steer",), [[-1], [0.5], [1]]),
        (".jsonl", '0\n1\n1\n', "id", ("0", "1"), [0, 1, 1]),
        (".jsonl", '{"action": "go"}\n{"action": "stop"}\n{"action": "go"}\n', "id", ("go", "stop"), [0, 1, 0]),
        (".jsonl", '{"w": true, "a": 0}\n' * 3, "vector", ("w", "a"), [[1, 0], [1, 0], [1, 0]]),
        (".jsonl", "[0.5]\n[1]\n[-2]\n", "vector", ("0",), [[0.5], [1], [-2]]),
    ],
)  # fmt: skip
def test_actions_as_people_keep_them(
    tmp_path: Path, suffix: str, content: str, kind: str, names: tuple[str, ...], actions: list[Any]
) -> None:
    write_video(tmp_path / "in/walk.mp4", 3)
    (tmp_path / f"in/walk{suffix}").write_text(content)
    dataset = imported(tmp_path / "in", tmp_path / "out").dataset
    assert (dataset.info.action_kind, dataset.info.action_names) == (kind, names)
    np.testing.assert_allclose(dataset.read(dataset.episodes()[0]).actions, actions, rtol=1e-6)


def test_actions_in_arrays(tmp_path: Path) -> None:
    video = write_video(tmp_path / "in/a.mp4", 4)
    np.save(tmp_path / "in/a.npy", np.array([0, 1, 2, 1]))
    np.savez(tmp_path / "in/b.npz", video=video[::-1], actions=np.array([2, 2, 0, 0], np.int32))
    np.savez(tmp_path / "in/c.npz", actions=np.zeros(4, int))  # belongs to nothing: no video
    dataset = imported(tmp_path / "in", tmp_path / "out").dataset
    assert [dataset.read(info).actions.tolist() for info in dataset.episodes()] == [[0, 1, 2, 1], [2, 2, 0, 0]]
    named = read_actions(_saved(tmp_path / "d.npz", actions=np.eye(2), action_names=np.array(["x", "y"])))
    assert vocabulary([named]).names == ("x", "y") and vocabulary([named], ("up", "on")).names == ("up", "on")


def test_a_text_with_a_letter_that_is_none_is_damage(tmp_path: Path) -> None:
    """Python cannot make a message of it, not even one that says what is wrong."""
    for order in "<>":
        names = np.array([0x78, 0x110000], f"{order}u4").view(f"{order}U1")
        with pytest.raises(
            UserError, match=r"d\.npz is no table of actions \(the text of 'action_names' in it is damaged"
        ):
            read_actions(_saved(tmp_path / "d.npz", actions=np.eye(2), action_names=names))


def test_names_that_tell_a_terminal_what_to_do_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "walk.csv"
    path.write_text("action\n\x1b[2Jclear\nstay\n")
    with pytest.raises(
        UserError, match=r"walk.csv calls an action '\\x1b\[2Jclear', which cannot be printed: rename it"
    ):
        vocabulary([read_actions(path)])
    path.write_text("action\n0\n1\n")
    with pytest.raises(UserError, match=r"--action-names has '.x07', which cannot be printed: choose another"):
        vocabulary([read_actions(path)], ("stay", "\x07"))


def test_a_picture_too_narrow_is_refused_before_memory_is_taken_for_it(tmp_path: Path) -> None:
    """A gif of 463 bytes would be scaled to gigabytes, of which the middle is kept."""
    place = tmp_path / "in"
    place.mkdir()
    Image.new("L", (65500, 1)).save(place / "wide.gif")
    with pytest.raises(UserError, match=r"wide.gif is 65500 x 1, too narrow to keep the middle of it: "):
        imported(place, tmp_path / "out", size=64, cut=Cut(least_frames=2))
    assert fitted(np.zeros((1, 65500, 3), np.uint8), 8, "squeeze").shape == (8, 8, 3)


def test_frames_have_so_many_pixels_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    content = lossless_mp4(np.zeros((1, 16, 32, 3), np.uint8), 10.0)
    monkeypatch.setattr("nextframe.data.video.MOST_PIXELS", 16 * 32)
    assert len(list(decoded(BytesIO(content)))) == 1
    monkeypatch.setattr("nextframe.data.video.MOST_PIXELS", 16 * 32 - 1)
    with pytest.raises(ValueError, match="32 x 16 pixels are too many"):
        list(decoded(BytesIO(content)))


def test_a_video_larger_than_memory_should_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "walk.mp4", 12)
    monkeypatch.setattr("nextframe.data.arrays.MOST_BYTES", 11 * SIZE * SIZE * 3)
    frames = cutting._frames(tmp_path / "walk.mp4", SIZE, None, cut := Cut(frames=0), cutting.Clock())
    with pytest.raises(UserError, match=r"walk.mp4 would take 0 MiB of memory"):
        list(cutting._parts(frames, tmp_path / "walk.mp4", cut))


@pytest.mark.timeout(20)
def test_containers_that_hold_one_another_are_entered_once(tmp_path: Path) -> None:
    doubled: list[Any] = [torch.ones(2)]
    for _ in range(40):
        doubled = [doubled, doubled]
    itself: list[Any] = [torch.ones(3)]
    itself.append(itself)
    for content in (doubled, itself):
        torch.save(content, tmp_path / "content.pt")
        assert isinstance(tensors_of(tmp_path / "content.pt"), list)
    torch.save([torch.ones(4)] * 100_000, tmp_path / "content.pt")
    with pytest.raises(ValueError, match="its tensors are larger than the file"):
        tensors_of(tmp_path / "content.pt")


def _saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_cut_thinned_and_shifted(tmp_path: Path) -> None:
    """Every kept frame has the action of its row, whatever is left out."""
    video = write_video(tmp_path / "in/walk.mp4", 47)
    (tmp_path / "in/walk.csv").write_text("\n".join(str(t) for t in range(47)))
    cut = Cut(frames=10, least_frames=4, every=2, offset=3)
    dataset = imported(tmp_path / "in", tmp_path / "out", cut=cut).dataset
    infos = dataset.episodes()
    assert [info.name for info in infos] == ["walk", "walk.0001"] and [info.frames for info in infos] == [10, 10]
    frames = np.concatenate([dataset.read(info).video for info in infos])
    rows = np.concatenate([dataset.read(info).actions for info in infos])
    np.testing.assert_array_equal(frames, video[0:40:2])  # rows end at frame 43; two frames are no episode
    np.testing.assert_array_equal(rows, np.arange(0, 40, 2) + 3)
    assert dataset.info.fps == 5.0 and dataset.info.source["offset"] == 3
    whole = imported(tmp_path / "in", tmp_path / "whole", cut=Cut(frames=0)).dataset
    assert [info.frames for info in whole.episodes()] == [47]
    early = imported(tmp_path / "in", tmp_path / "early", cut=Cut(offset=-5)).dataset
    np.testing.assert_array_equal(early.read(early.episodes()[0]).video, video[5:])


def test_one_action_for_each_step_between_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "in/walk.mp4", 4)
    (tmp_path / "in/walk.csv").write_text("1\n0\n1\n")
    dataset = imported(tmp_path / "in", tmp_path / "out").dataset
    assert dataset.read(dataset.episodes()[0]).actions.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("walk.csv", "1\n0\n", "has 2 rows, walk.mp4 has 4 frames"),
        ("walk.csv", "1\n0\n1\n0\n0\n", "has 5 rows"),
        ("walk.csv", "frame,action\n0,1\n2,1\n3,0\n4,0\n", "goes from 0 to 2 at row 1"),
        ("walk.csv", "frame,action\n7,1\n8,1\n9,0\n10,0\n", "begins at 7"),
        ("walk.csv", "1\n-2\n1\n0\n", r"number actions from 0, or write amounts as -1\.0"),
        ("walk.csv", "x,note\n1,a\n1,b\n1,a\n0,b\n", "column 'note' is not of numbers .the first line has the names"),
        ("walk.csv", "a,b\n1,2\n1\n1,2\n1,2\n", "row 1 has 1 cells"),
        ("walk.csv", "x\nnan\n1\n1\n0.5\n", "no table of actions"),
        ("walk.csv", "", "it is empty"),
        ("walk.csv", "key\ngo\nstay\ngo\n", "its first line, 'key', does not come again: if it is a header"),
        ("walk.csv", "dx;dy\n0;1\n0;1\n1;1\n", "separated by ';'"),
        ("walk.csv", "1\n\n1\n0\n", "line 2 is blank"),
        ("walk.csv", "go\n  \ngo\ngo\n", "row 1 of column '0' is blank"),
        ("walk.jsonl", "1\n\n1\n0\n", "line 2 is blank"),
        ("walk.csv", ",action\n0,1\n2,1\n3,0\n4,0\n", "goes from 0 to 2 at row 1"),
        ("walk.jsonl", "1\n{]\n", "no table of actions"),
        ("walk.jsonl", '1\n"go"\n[1]\n0\n', "rows are of several kinds"),
        ("walk.jsonl", "[[1, 2], [3, 4]]\n" * 4, "rows are of several kinds"),
        ("walk.jsonl", '{"a": 1}\n{"b": 1}\n', "not every line has the same names"),
        ("walk.npz", "no archive", "no table of actions"),
    ],
)  # fmt: skip
def test_actions_that_are_wrong(tmp_path: Path, name: str, content: str, said: str) -> None:
    write_video(tmp_path / "in/walk.mp4", 4)
    (tmp_path / "in" / name).write_text(content)
    with pytest.raises(UserError, match=said) as refused:
        imported(tmp_path / "in", tmp_path / "out")
    assert "--skip-bad" in str(refused.value) and name in str(refused.value) and "\n" not in str(refused.value)


def test_actions_are_found_and_told(tmp_path: Path) -> None:
    """An index without a name is none of them, an ending may be in capitals, and a list need not name the file."""
    write_video(tmp_path / "in/WALK.MP4", 3)
    (tmp_path / "in/WALK.CSV").write_text(",action\n0,go\n1,stay\n2,go\n\n")
    (tmp_path / "list.json").write_text(json.dumps([{"video_path": "in/WALK.MP4"}]))
    for place in (tmp_path / "in", tmp_path / "list.json"):
        found = imported(place, tmp_path / f"out_{place.stem}")
        assert found.dataset.read(found.dataset.episodes()[0]).actions.tolist() == [0, 1, 0]
        assert "2 actions: go, stay" in summary(found)


def test_footage_without_actions_is_imported_again(tmp_path: Path) -> None:
    write_video(tmp_path / "in/walk.mp4", 4)
    first = imported(tmp_path / "in", tmp_path / "out").dataset
    again = imported(first.folder, tmp_path / "again")
    assert again.dataset.info.action_kind == "none" and "no actions" in summary(again)


def test_a_name_that_a_part_would_have_is_refused(tmp_path: Path) -> None:
    for name in ("cam", "cam.0001"):
        write_video(tmp_path / f"in/{name}.mp4", 4)
    with pytest.raises(UserError, match=r"cam\.0001\.mp4 is called as a part of .*cam\.mp4 would be"):
        imported(tmp_path / "in", tmp_path / "out")


def test_linked_folders_are_followed_once_and_long_names_cut(tmp_path: Path) -> None:
    write_video(tmp_path / "real/walk.mp4", 4)
    (tmp_path / "in" / ("é" * 100)).mkdir(parents=True)
    write_video(tmp_path / "in" / ("é" * 100) / f"{'x' * 100}.mp4", 4, seed=1)
    (tmp_path / "in/link").symlink_to(tmp_path / "real")
    (tmp_path / "in/round").symlink_to(tmp_path / "in")
    names = [info.name for info in imported(tmp_path / "in", tmp_path / "out").dataset.episodes()]
    assert len(names) == 2 and "link__walk" in names and max(len(name.encode()) for name in names) <= 200


def test_nothing_is_kept_of_a_video_that_has_lost_its_actions(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_video(tmp_path / f"in/{name}.mp4", 3)
        (tmp_path / f"in/{name}.csv").write_text("0\n1\n0\n")
    assert len(imported(tmp_path / "in", tmp_path / "out").dataset.episodes()) == 2
    (tmp_path / "in/b.csv").unlink()
    found = imported(tmp_path / "in", tmp_path / "out", skip_bad=True)
    assert [info.name for info in found.dataset.episodes()] == ["a"] and set(found.skipped) == {"b"}


def test_tables_that_do_not_go_together(tmp_path: Path) -> None:
    for name, content in (("a", "1\n0\n"), ("b", "go\ngo\n")):
        write_video(tmp_path / f"in/{name}.mp4", 2)
        (tmp_path / f"in/{name}.csv").write_text(content)
    with pytest.raises(UserError, match="different kinds"):
        imported(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in/b.csv").write_text("0\n2\n")
    with pytest.raises(UserError, match="actions 0 to 2, and 2 names"):
        imported(tmp_path / "in", tmp_path / "out", action_names=("left", "right"))
    (tmp_path / "in/b.csv").unlink()
    with pytest.raises(UserError, match=r"b\.mp4 has no file of actions"):
        imported(tmp_path / "in", tmp_path / "out")
    assert imported(tmp_path / "in", tmp_path / "out", use_actions=False).dataset.info.action_kind == "none"


def test_a_bad_video_never_disappears(tmp_path: Path) -> None:
    write_video(tmp_path / "in/good.mp4", 30)
    whole = (tmp_path / "in/good.mp4").read_bytes()
    (tmp_path / "in/text.avi").write_text("this is no video")
    (tmp_path / "in/short.mp4").write_bytes(whole[: len(whole) // 2])
    write_video(tmp_path / "in/brief.mp4", 5, seed=1)
    cut = Cut(frames=10, least_frames=8)
    with pytest.raises(UserError, match=r"(text|short|brief)\.(avi|mp4)"):
        imported(tmp_path / "in", tmp_path / "out", cut=cut)
    found = imported(tmp_path / "in", tmp_path / "out", cut=cut, skip_bad=True)
    assert (
        set(found.skipped) == {"text", "short", "brief"} == set(json.loads((tmp_path / "out/skipped.json").read_text()))
    )
    assert "5 frames" in found.skipped["brief"] and "--skip-bad" not in "".join(found.skipped.values())
    assert sum(line.startswith("skipped: ") for line in summary(found)) == 3
    assert {info.meta["source"] for info in found.dataset.episodes()} == {"good"}
    (tmp_path / "in/good.mp4").unlink()
    with pytest.raises(UserError, match="none of the 3 videos"):
        imported(tmp_path / "in", tmp_path / "nothing", cut=cut, skip_bad=True)


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    write_video(tmp_path / "in/a.mp4", 5)
    (tmp_path / "in/a.csv").write_text("0\n" * 5)
    for name in ("b.wmv", "c.WMV", "b.csv", "README"):
        (tmp_path / "in" / name).write_text("")
    said = summary(imported(tmp_path / "in", tmp_path / "in/out"))
    assert said[-1] == "passed over, as no videos by their endings: 1 .csv, 2 .wmv, 1 readme"


@pytest.mark.parametrize(("beside", "heeded"), [("train/b.mp4", True), ("b.mp4", False), ("more/b.mp4", False)])
def test_folders_that_hold_no_split_are_named(tmp_path: Path, beside: str, heeded: bool) -> None:
    """Or what was meant to be held out would be learnt from in silence."""
    for name in ("test/a.mp4", beside):
        write_video(tmp_path / "in" / name, 5)
    found = imported(tmp_path / "in", tmp_path / "out")
    assert {info.split for info in found.dataset.episodes()} == ({"train", "test"} if heeded else {"train"})
    assert any("test is not taken as a split" in line for line in summary(found)) is not heeded
    assert not imported(tmp_path / "in", tmp_path / "out", split="test").unheeded


def test_a_list_of_other_files_is_no_video(tmp_path: Path) -> None:
    """What reads it must not open what it names."""
    Path("other.mp4").write_bytes(lossless_mp4(np.zeros((3, 32, 32, 3), np.uint8), 10.0))
    path = tmp_path / "walk.mp4"
    path.write_text("ffconcat version 1.0\nfile 'other.mp4'\n")
    with path.open("rb") as file, pytest.raises(VIDEO_ERRORS):
        list(decoded(file))
    with pytest.raises(VIDEO_ERRORS):
        video_facts(path)


def test_part_of_a_video_that_ends_badly_is_taken_back(tmp_path: Path) -> None:
    """Its first episodes had been written before the actions turned out to be too few."""
    write_video(tmp_path / "in/good.mp4", 20)
    write_video(tmp_path / "in/long.mp4", 40, seed=1)
    (tmp_path / "in/good.csv").write_text("0\n" * 20)
    (tmp_path / "in/long.csv").write_text("0\n" * 30)
    found = imported(tmp_path / "in", tmp_path / "out", cut=Cut(10, 2), skip_bad=True)
    assert [info.name for info in found.dataset.episodes()] == ["good", "good.0001"] and set(found.skipped) == {"long"}
    assert not list((tmp_path / "out").rglob("long*"))


def test_still_and_repeated_videos_are_reported(tmp_path: Path) -> None:
    video = write_video(tmp_path / "in/a.mp4", 5)
    shutil.copy(tmp_path / "in/a.mp4", tmp_path / "in/b.mp4")
    (tmp_path / "in/c.mp4").write_bytes(lossless_mp4(np.repeat(video[:1], 5, axis=0), 10.0))
    found = imported(tmp_path / "in", tmp_path / "out")
    assert found.still == ("c",) and found.duplicates == (("a", "b"),)
    assert "warning: nothing moves in 1: c" in summary(found) and "warning: the same pictures: a, b" in summary(found)
    split = summary(imported(tmp_path / "in", tmp_path / "split", test_share=0.67))
    assert "warning: the same pictures: a (train), b (test)" in split


def test_a_single_video_is_trained_on_whatever_share_is_held_out(tmp_path: Path) -> None:
    write_video(tmp_path / "in/a.mp4", 3)
    found = imported(tmp_path / "in", tmp_path / "out", test_share=0.9)
    assert [info.split for info in found.dataset.episodes()] == ["train"]
    assert "nothing is held out to evaluate on: import more, or this one in two files" in summary(found)
    assert imported(tmp_path / "in", tmp_path / "all", test_share=1.0).dataset.episodes("test")


def test_what_has_changed_in_the_folder_is_said(tmp_path: Path) -> None:
    for name in "abc":
        write_video(tmp_path / f"in/{name}.mp4", 3, ord(name))
    lines = summary(imported(tmp_path / "in", tmp_path / "out"))
    assert not any("anew" in line or "any more" in line for line in lines)
    (tmp_path / "in/a.mp4").unlink()
    write_video(tmp_path / "in/b.mp4", 5, 1)
    (tmp_path / "in/c.mp4").write_bytes(b"no video")
    lines = summary(imported(tmp_path / "in", tmp_path / "out", skip_bad=True))
    assert "imported anew: b" in lines and "imported before, not in this folder, and kept: a" in lines


def test_rates_that_differ_or_change_are_reported(tmp_path: Path) -> None:
    video = np.random.default_rng(0).integers(0, 256, (24, SIZE, SIZE, 3), dtype=np.uint8)
    for name, fps in (("slow", 10.0), ("slower", 10.0), ("fast", 30.0)):
        write_bytes(tmp_path / f"in/{name}.mp4", lossless_mp4(video, fps))
    lines = summary(imported(tmp_path / "in", tmp_path / "out"))
    assert any("frames a second differ, 10 in most, fast at 30: import each" in line for line in lines)
    assert not any("the time between frames varies" in line for line in lines)
    said = summary(imported(tmp_path / "in", tmp_path / "said", fps=10.0, split="train"))
    assert not any("frames a second differ" in line or "nothing is held out" in line for line in said)
    times = np.cumsum([1 if number % 3 else 7 for number in range(len(video))])
    write_bytes(tmp_path / "uneven/screen.mp4", mp4_shown_at(video, times))
    lines = summary(imported(tmp_path / "uneven", tmp_path / "other"))
    assert any("the time between frames varies in screen: make it constant" in line for line in lines)


def write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def mp4_shown_at(video: np.ndarray, times: np.ndarray) -> bytes:
    """An mp4 of frames that are shown at these thirtieths of a second."""
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width = video.shape[1:3]
        stream.codec_context.time_base = Fraction(1, 30)
        for frame, time_shown in zip(video, times.tolist(), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = time_shown, Fraction(1, 30)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


def test_a_list_says_of_which_split_it_is(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 3)
    for number, (name, split) in enumerate({"trainval": "train", "train03": "train", "bair_val": "validation"}.items()):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"video_path": "a.mp4", "label": number}]))
        found = imported(tmp_path / f"{name}.json", tmp_path / name)
        assert {info.split for info in found.dataset.episodes()} == {split}
        lines = summary(found)
        assert f"no actions, {number + 1} classes" in lines
        hint = "nothing is held out to evaluate on: import the list or folder of the others into the same --out"
        assert (hint in lines) == (split == "train")


def test_another_share_moves_nothing_and_says_so(tmp_path: Path) -> None:
    for name in "abc":
        write_video(tmp_path / f"in/{name}.mp4", 3, ord(name))
    lines = summary(imported(tmp_path / "in", tmp_path / "out"))
    assert not any("keeps the side" in line for line in lines)
    assert "nothing is held out to evaluate on: import them into a new --out, with --test-share 0.34" in lines
    again = imported(tmp_path / "in", tmp_path / "out", test_share=0.34)
    assert {info.split for info in again.dataset.episodes()} == {"train"}
    assert (
        "1 video keeps the side it was first given, train or test: another --test-share wants a new --out"
        in summary(again)
    )


def test_our_own_footage_keeps_the_names_of_its_actions(tmp_path: Path) -> None:
    data = tiny_episodes(tmp_path / "data")
    again = imported(data.folder, tmp_path / "again", size=data.info.size)
    assert again.dataset.info.action_names == data.info.action_names
    for name in ("cat/a", "dog/b", "cat/c"):
        write_video(tmp_path / f"videos/{name}.mp4", 3, ord(name[-1]))
    imported(tmp_path / "videos", tmp_path / "labelled", labelled=True, test_share=0.0)
    kept = imported(tmp_path / "labelled", tmp_path / "kept").dataset
    assert kept.info.label_names == ("cat", "dog") and [info.label for info in kept.episodes()] == [0, 0, 1]
    (data.folder / "dataset.json").write_text('["somebody else\'s"]')
    other = imported(data.folder, tmp_path / "other", size=data.info.size)
    assert other.dataset.info.action_names == tuple(map(str, range(len(other.dataset.info.action_names))))


def test_splits(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "val/c", "Test/d"):
        write_video(tmp_path / f"in/{name}.mp4", 3)
    dataset = imported(tmp_path / "in", tmp_path / "out").dataset
    assert {info.name: info.split for info in dataset.episodes()} == {
        "train__a": "train", "train__b": "train", "val__c": "validation", "Test__d": "test",
    }  # fmt: skip
    assert all(
        info.split == "test" for info in imported(tmp_path / "in", tmp_path / "all", split="test").dataset.episodes()
    )
    for number in range(20):
        write_video(tmp_path / f"many/{number}.mp4", 2)
    sources = find_sources(tmp_path / "many")
    first = {source.name: source.split for source in divided(sources, 0.2, {})}
    assert sum(split == "test" for split in first.values()) == 4
    # What is added later moves nothing that is there.
    known = {name: split for name, split in first.items() if split is not None}
    assert all(known[source.name] == source.split for source in divided(sources, 0.5, known))


def test_published_lists(tmp_path: Path) -> None:
    """Paths from the folder the published code runs in; labels by number, named after their folders."""
    for label, name in ((1, "Biking"), (0, "Archery"), (1, "Biking")):
        number = len(list(tmp_path.rglob("*.mp4")))
        write_video(tmp_path / f"datasets/ucf/{name}/v{number}.mp4", 3, seed=label)
    videos = sorted(tmp_path.rglob("*.mp4"))
    entries = [
        {"video_path": str(path.relative_to(tmp_path)), "label": int(path.parent.name == "Biking")} for path in videos
    ]
    (tmp_path / "datasets/lists").mkdir()
    path = tmp_path / "datasets/lists/ucf101_test.json"
    path.write_text(json.dumps(entries))
    dataset = imported(path, tmp_path / "out").dataset
    assert dataset.info.label_names == ("Archery", "Biking")
    assert [(info.split, info.label) for info in dataset.episodes()] == [("test", 0), ("test", 1), ("test", 1)]
    path.write_text(json.dumps([*entries, {"video_path": "datasets/ucf/Archery/gone.mp4", "label": 0}]))
    with pytest.raises(UserError, match=r"gone\.mp4 is missing"):
        imported(path, tmp_path / "out")
    for content, said in (("[", "cannot be read"), ('{"a": 1}', "no list"), ('[{"label": 1}]', "no `video_path`")):
        path.write_text(content)
        with pytest.raises(UserError, match=said):
            imported(path, tmp_path / "out")


def test_going_on_changes_nothing(tmp_path: Path) -> None:
    for number in range(4):
        write_video(tmp_path / f"in/{number}.mp4", 12, seed=number)
    first = imported(tmp_path / "in", tmp_path / "out", cut=Cut(frames=5, least_frames=2)).dataset
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mp4")}
    assert len(files) == 12
    lost = next(iter(files))
    lost.unlink()
    again = imported(tmp_path / "in", tmp_path / "out", cut=Cut(frames=5, least_frames=2)).dataset
    assert again.episodes() == first.episodes() and lost.is_file()
    changed = [path for path, at in files.items() if path.stat().st_mtime_ns != at]
    assert len(changed) == 3  # the parts of that one video
    write_video(tmp_path / "in/0.mp4", 14, seed=9)  # another video of the same name, in the same place
    newer = imported(tmp_path / "in", tmp_path / "out", cut=Cut(frames=5, least_frames=2)).dataset
    assert sum(info.frames for info in newer.episodes() if info.meta["source"] == "0") == 14
    write_video(tmp_path / "other/0.mp4", 13, seed=8)
    with pytest.raises(UserError, match="has another 0, from in"):
        imported(tmp_path / "other", tmp_path / "out", cut=Cut(frames=5, least_frames=2))
    with pytest.raises(UserError, match="made with other settings"):
        imported(tmp_path / "in", tmp_path / "out", cut=Cut(frames=6, least_frames=2))


def test_killed_and_gone_on(tmp_path: Path) -> None:
    for number in range(6):
        write_video(tmp_path / f"in/{number}.mp4", 40, seed=number, side=96)
    command = [sys.executable, "-m", "nextframe", "import", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    command += ["--size", "96", "--frames", "20"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").rglob("*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    dataset = EpisodeDataset.open(tmp_path / "out")
    assert sum(info.frames for info in dataset.episodes()) == 240
    for info in dataset.episodes():
        dataset.verify(info)
    assert not list((tmp_path / "out").rglob(".nextframe*"))


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, said in ((tmp_path / "gone", "neither a folder"), (tmp_path / "empty", "has no videos")):
        with pytest.raises(UserError, match=said):
            imported(place, tmp_path / "out")
    write_video(tmp_path / "in/a b.mp4", 3)
    with pytest.raises(UserError, match="a single video: name the folder it lies in"):
        imported(tmp_path / "in/a b.mp4", tmp_path / "out")
    write_video(tmp_path / "in/a_b.mp4", 3)
    with pytest.raises(UserError, match="would have one name"):
        imported(tmp_path / "in", tmp_path / "out")
    for wrong in ({"cut": Cut(frames=4)}, {"cut": Cut(every=0)}, {"size": 2}, {"fps": 0.0}, {"test_share": 2.0}):
        with pytest.raises(UserError, match="--"):
            imported(tmp_path / "in", tmp_path / "out", **{"cut": Cut(), **wrong})
    assert not (tmp_path / "out").exists()
    assert name_of(Path("/data/../my walks/größe 1.mp4")) == "data__my_walks__größe_1"


def write_latents(folder: Path, count: int = 3) -> Path:
    """A published list of latents and actions, of `tiny.TOKENIZER`'s shape."""
    folder.mkdir()
    entries = []
    for number in range(count):
        latents = torch.randn(20, 4, 4, 4, generator=torch.Generator().manual_seed(number)) * 3
        torch.save(latents, folder / f"{number}.pt")
        np.savez(folder / f"{number}.npz", actions=np.arange(20) % 3)
        entries.append({"latent_path": f"{folder.name}/{number}.pt", "action_path": f"{folder.name}/{number}.npz"})
    path = folder.parent / "dmlab_train.json"
    path.write_text(json.dumps(entries))
    return path


def test_published_latents(tmp_path: Path) -> None:
    """One .pt per video, not scaled, become shards of unit variance with the autoencoder beside them."""
    run, path = tiny_run(tmp_path / "run") / "autoencoder", write_latents(tmp_path / "latents")
    index = import_latents(path, run, tmp_path / "out")
    data = LatentDataset(tmp_path / "out")
    assert [episode.split for episode in index.episodes] == ["train"] * 3 and index.action_names == ("0", "1", "2")
    scale = float(load_file(tmp_path / "out/autoencoder/weights.safetensors")["scale"])
    assert 0.3 < scale < 0.37
    for number, episode in enumerate(data.episodes("train")):
        true = torch.load(tmp_path / f"latents/{number}.pt") * scale
        torch.testing.assert_close(data.latents(episode, 0, 20).float(), true, atol=0.02, rtol=0.01)
        assert data.actions(episode).tolist() == [t % 3 for t in range(20)]
    assert import_latents(path, run, tmp_path / "out") == index
    # What is other than it was, lost, or wanted elsewhere is taken again.
    changed = torch.load(tmp_path / "latents/1.pt") / 2
    torch.save(changed, tmp_path / "latents/1.pt")
    import_latents(path, run, tmp_path / "out")
    data = LatentDataset(tmp_path / "out")
    for number, episode in enumerate(sorted(data.episodes("train"), key=lambda episode: episode.name)):
        true = (changed if number == 1 else torch.load(tmp_path / f"latents/{number}.pt")) * scale
        torch.testing.assert_close(data.latents(episode, 0, 20).float(), true, atol=0.02, rtol=0.01)
    for shard in data.index.shards:
        (tmp_path / "out" / shard).unlink()
    again = import_latents(path, run, tmp_path / "out", split="test")
    assert [episode.split for episode in again.episodes] == ["test"] * 3
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors")} == set(again.shards)
    assert import_latents(path, run, tmp_path / "out") == again  # they keep the side they were given
    with pytest.raises(UserError, match="give --autoencoder"):
        import_footage(path, tmp_path / "footage")


def test_published_latents_that_are_wrong(tmp_path: Path) -> None:
    run, path = tiny_run(tmp_path / "run") / "autoencoder", write_latents(tmp_path / "latents")
    cases = [
        (lambda file: torch.save(torch.zeros(20, 4, 8, 8), file), r"holds \[20, 4, 8, 8\]"),
        (lambda file: torch.save({"a": 1}, file), "holds dict"),
        (lambda file: torch.save(torch.full((20, 4, 4, 4), torch.nan), file), "not finite"),
        (lambda file: torch.save(torch.zeros(7, 4, 4, 4), file), "20 rows, .* 7 frames"),
        (lambda file: file.write_bytes(b"no tensor"), "cannot be read as latents"),
        (lambda file: torch.save(Path("a pickle of more than tensors"), file), "cannot be read as latents"),
        (lambda file: file.unlink(), "cannot be read as latents"),
    ]
    for number, (damage, said) in enumerate(cases):
        damage(tmp_path / "latents/1.pt")
        with pytest.raises(UserError, match=said) as refused:
            import_latents(path, run, tmp_path / f"out{number}")
        assert "1.pt" in str(refused.value) and "\n" not in str(refused.value)


def test_numbered_labels_in_folders_with_other_numbers(tmp_path: Path) -> None:
    for label, folder in ((0, "1"), (1, "2")):
        write_video(tmp_path / folder / f"clip{label}.mp4", 4, seed=label)
    entries = [{"video_path": f"{folder}/clip{label}.mp4", "label": label} for label, folder in ((0, "1"), (1, "2"))]
    (tmp_path / "list_train.json").write_text(json.dumps(entries))
    dataset = imported(tmp_path / "list_train.json", tmp_path / "out").dataset
    assert dataset.info.label_names == ("1", "2")
    assert [info.label for info in dataset.episodes()] == [0, 1]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"video_path": "b" * 300 + ".mp4"}, "which cannot be"),
        ({"video_path": "walk.mp4", "label": "9" * 5000}, "there is a label '9+"),
        ({"video_path": "walk.mp4", "label": 70000}, "there is a label '70000'"),
    ],
)
def test_lists_that_are_strange(tmp_path: Path, entry: dict[str, Any], said: str) -> None:
    write_video(tmp_path / "walk.mp4", 4)
    (tmp_path / "list.json").write_text(json.dumps([entry]))
    with pytest.raises(UserError, match=said) as refused:
        imported(tmp_path / "list.json", tmp_path / "out")
    assert len(str(refused.value)) < 1000


def test_a_table_of_no_numbers_and_one_of_two(tmp_path: Path) -> None:
    for name, numbers in (("a", 0), ("b", 2)):
        write_video(tmp_path / f"in/{name}.mp4", 4)
        np.savez(tmp_path / f"in/{name}.npz", actions=np.zeros((4, numbers), np.float32))
    with pytest.raises(UserError, match="make them alike"):
        imported(tmp_path / "in", tmp_path / "out")


def test_what_was_imported_is_not_imported_again(tmp_path: Path) -> None:
    write_video(tmp_path / "walk.mp4", 4)
    (tmp_path / "walk.csv").write_text("action\n0\n1\n0\n1\n")
    for out in ("out", "out", "another"):
        assert [info.name for info in imported(tmp_path, tmp_path / out).dataset.episodes()] == ["walk"]


def test_mended_actions_and_another_split_are_imported_again(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "walk.mp4", 4)
    for content, split in (("0\n1\n0\n1\n", None), ("1\n1\n0\n0\n", None), ("1\n1\n0\n0\n", "test")):
        (tmp_path / "in" / "walk.csv").write_text("action\n" + content)
        dataset = imported(tmp_path / "in", tmp_path / "out", split=split).dataset
        (info,) = dataset.episodes()
        assert info.split == (split or "train")
        assert dataset.read(info).actions.tolist() == [int(one) for one in content.split()]


def test_after_a_failed_import_other_settings_are_welcome(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "walk.mp4", 4)
    with pytest.raises(UserError, match="least-frames"):
        imported(tmp_path / "in", tmp_path / "out", cut=Cut(least_frames=5))
    (tmp_path / "list.json").write_text(json.dumps([{"video_path": "in/walk.mp4"}, {"video_path": "gone.mp4"}]))
    with pytest.raises(UserError, match=r"gone\.mp4 is missing"):
        imported(tmp_path / "list.json", tmp_path / "out", size=16)
    assert len(imported(tmp_path / "in", tmp_path / "out").dataset.episodes()) == 1


@pytest.mark.parametrize(
    ("content", "names", "actions"),
    [
        ("frame,action\n1,2\n2,0\n3,1\n", ("0", "1", "2"), [2, 0, 1]),
        ("right\nleft\nright\n", ("left", "right"), [1, 0, 1]),
    ],
    ids=["a column that counts", "words without a header"],
)
def test_tables_without_a_header_and_with_a_column_that_counts(
    tmp_path: Path, content: str, names: Any, actions: Any
) -> None:
    write_video(tmp_path / "in/walk.mp4", 3)
    (tmp_path / "in/walk.csv").write_text(content)
    dataset = imported(tmp_path / "in", tmp_path / "out").dataset
    assert dataset.info.action_names == names
    assert dataset.read(dataset.episodes()[0]).actions.tolist() == actions


def test_times_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "in/walk.mp4", 4)
    (tmp_path / "in/walk.csv").write_text("t,dx\n0,1\nnan,1\n1,0\n2,0\n")
    with pytest.raises(UserError, match="goes from 0 to nan"):
        imported(tmp_path / "in", tmp_path / "out")


def test_what_hardly_differs_is_still(tmp_path: Path) -> None:
    for name, more in (("still", 2), ("moving", 3)):
        video = np.full((5, SIZE, SIZE, 3), 90, np.uint8)
        video[2, 0, 0] += more
        write_bytes(tmp_path / f"in/{name}.mp4", lossless_mp4(video, 10.0))
    assert imported(tmp_path / "in", tmp_path / "out").still == ("still",)


def test_the_rate_that_is_given_is_that_of_the_episodes(tmp_path: Path) -> None:
    write_video(tmp_path / "in/walk.mp4", 8)
    cut = Cut(least_frames=2, every=2)
    rates = [imported(tmp_path / "in", tmp_path / f"{fps}", cut=cut, fps=fps).dataset.info.fps for fps in (None, 7.0)]
    assert rates == [5, 7]


def test_a_video_whose_end_is_missing_is_imported_again(tmp_path: Path) -> None:
    write_video(tmp_path / "in/walk.mp4", 10)
    cut = Cut(frames=4, least_frames=2)
    dataset = imported(tmp_path / "in", tmp_path / "out", cut=cut).dataset
    dataset.remove(dataset.episodes()[2:])  # as if killed before it was written
    again = imported(tmp_path / "in", tmp_path / "out", cut=cut)
    assert [info.frames for info in again.dataset.episodes()] == [4, 4, 2] and again.anew == ["walk"]


def test_a_frame_or_two_may_be_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "walk.mp4", 5)
    said = cutting.video_facts(tmp_path / "walk.mp4")
    for hidden, says in ((2, nullcontext()), (3, pytest.raises(UserError, match="cut short: 5 of 8 frames"))):
        promised = replace(said, frames=5 + hidden)
        monkeypatch.setattr(cutting, "video_facts", lambda path, promised=promised: promised)
        with says:
            assert len(list(cutting._pictures(tmp_path / "walk.mp4", cutting.Clock()))) == 5


def test_another_video_of_the_same_name_replaces_none(tmp_path: Path) -> None:
    """Arrays of one length are files of one length, and folders of one name are not one folder."""
    for folder, value in (("a/walks", 10), ("b/walks", 90)):
        (tmp_path / folder).mkdir(parents=True)
        np.savez(tmp_path / folder / "n.npz", video=np.full((4, SIZE, SIZE, 3), value, np.uint8))
    imported(tmp_path / "a/walks", tmp_path / "out")
    with pytest.raises(UserError, match=r"has another n, from walks: rename one"):
        imported(tmp_path / "b/walks", tmp_path / "out")
    shutil.copy(tmp_path / "b/walks/n.npz", tmp_path / "a/walks/n.npz")
    again = imported(tmp_path / "a/walks", tmp_path / "out")  # but a file that changed in its place does
    assert again.anew == ["n"] and again.dataset.read(again.dataset.episodes()[0]).video[0, 0, 0, 0] == 90


def test_a_part_is_not_replaced_by_a_video_of_its_name(tmp_path: Path) -> None:
    write_video(tmp_path / "in/clip.mp4", 6)
    write_video(tmp_path / "more/clip.0001.mp4", 3, seed=1)
    cut = Cut(frames=3, least_frames=2)
    imported(tmp_path / "in", tmp_path / "out", cut=cut)
    with pytest.raises(UserError, match=r"clip\.0001 is called as a part of clip would be"):
        imported(tmp_path / "more", tmp_path / "out", cut=cut)


@pytest.mark.parametrize("across", [-1, 1])
@pytest.mark.parametrize("down", [-1, 1])
@pytest.mark.parametrize("turned", [False, True])
def test_a_phone_turns_and_mirrors_by_a_matrix(across: int, down: int, turned: bool) -> None:
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    matrix = np.array(
        [[0, down, 0], [across, 0, 0], [0, 0, 1]] if turned else [[across, 0, 0], [0, down, 0], [0, 0, 1]]
    )
    shown = upright(picture, (matrix << 16).astype(np.int32).tobytes())
    for y, x in np.ndindex(2, 3):
        to_x, to_y = (across * y, down * x) if turned else (across * x, down * y)  # counted back from the far edge
        np.testing.assert_array_equal(shown[to_y - (down < 0), to_x - (across < 0)], picture[y, x])


def test_a_file_of_a_phone_is_decoded_upright() -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32] = 255
    content = bytearray(lossless_mp4(picture[None].repeat(3, 0), 10.0))
    matrix = content.index(b"tkhd") + 44  # after version, times, number, duration, layer and volume
    content[matrix : matrix + 36] = (np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 2**14]]) << 16).astype(">i4").tobytes()
    frames = list(decoded(BytesIO(content)))
    assert len(frames) == 3
    for frame in frames:
        np.testing.assert_array_equal(frame, picture.swapaxes(0, 1)[:, ::-1])


def test_hidden_folders_broken_links_and_the_order_of_links(tmp_path: Path) -> None:
    write_video(tmp_path / "in/z/walk.mp4", 4)
    write_video(tmp_path / "in/.Trash/old.mp4", 4, seed=1)
    (tmp_path / "in/b").mkdir()
    (tmp_path / "in/b/link").symlink_to(tmp_path / "in/z")
    assert [info.name for info in imported(tmp_path / "in", tmp_path / "out").dataset.episodes()] == ["z__walk"]
    (tmp_path / "in/gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    with pytest.raises(UserError, match=r"gone\.mp4 is missing"):
        imported(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "walk.jsonl",
            '{"frame": 0, "action": 1}\n{"frame": 2, "action": 1}\n{"frame": 1, "action": 0}\n',
            "goes from 0",
        ),
        ("walk.jsonl", '{"key": "go"}\n' * 3, "call it `action`"),
        ("walk.csv", "frame,action\n1,0\n2,1\n", "counts 2 rows from 1"),
        ("walk.csv", "time,action\nnoon,0\none,1\ntwo,1\n", "'time' is not of numbers"),
        ("walk.csv", "dx;dy\n0,5;1\n0,5;1\n0,5;1\n", "separated by ';'"),
    ],
)
def test_actions_that_would_be_taken_wrongly(tmp_path: Path, name: str, content: str, said: str) -> None:
    write_video(tmp_path / "in/walk.mp4", 3)
    (tmp_path / "in" / name).write_text(content)
    with pytest.raises(UserError, match=said):
        imported(tmp_path / "in", tmp_path / "out")


def test_counters_of_any_name_blanks_and_commas_at_the_end(tmp_path: Path) -> None:
    for name, line in (("a", '{0}, "go",'), ("b", '{0}, "stop",')):
        write_video(tmp_path / f"in/{name}.mp4", 16, seed=ord(name))
        rows = [line.format(row) for row in range(16)]
        (tmp_path / f"in/{name}.csv").write_text("\n".join(["step, action,", *rows, ""]))
    assert imported(tmp_path / "in", tmp_path / "out").dataset.info.action_names == ("go", "stop")


def test_folders_that_are_numbers_are_names_of_classes(tmp_path: Path) -> None:
    for name in ("10", "9", "2024"):
        write_video(tmp_path / f"in/{name}/a.mp4", 4, seed=int(name))
    dataset = imported(tmp_path / "in", tmp_path / "out", labelled=True).dataset
    assert dataset.info.label_names == ("9", "10", "2024")


def test_after_all_was_skipped_the_folder_is_free(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").write_bytes(b"none")
    with pytest.raises(UserError, match="none of the 1 videos"):
        imported(tmp_path / "in", tmp_path / "out", skip_bad=True)
    write_video(tmp_path / "in/a.mp4", 4)
    assert len(imported(tmp_path / "in", tmp_path / "out").dataset.episodes()) == 1


def test_a_pause_and_tables_beside_nothing_are_reported(tmp_path: Path) -> None:
    video = np.random.default_rng(0).integers(0, 256, (24, SIZE, SIZE, 3), dtype=np.uint8)
    times = np.arange(24) + 3000 * (np.arange(24) > 11)
    write_bytes(tmp_path / "in/screen.mp4", mp4_shown_at(video, times))
    (tmp_path / "in/Screen.csv").write_text("0\n" * 24)
    lines = summary(imported(tmp_path / "in", tmp_path / "out"))
    assert any("the time between frames varies in screen" in line for line in lines)
    assert any("1 .csv beside no video of the same name, so there are no actions" in line for line in lines)
