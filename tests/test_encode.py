"""Latents: of this footage by this autoencoder, or encoded again; whatever was lost or changed meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import ACTIONS, SIZE, TOKENIZER, eventually, tiny_episode, tiny_episodes, tiny_run

from nextframe import encode as module
from nextframe.autoencoder import Autoencoder, encode_video, pixels_from_video, video_from_pixels
from nextframe.checkpoint import CONFIG
from nextframe.config import TokenizerConfig
from nextframe.configfile import read_config
from nextframe.data.episodes import DatasetInfo, EpisodeDataset
from nextframe.data.latents import LatentDataset, read_index, write_index
from nextframe.encode import encode
from nextframe.errors import Stopped, UserError
from nextframe.files import TEMPORARY, sole_writer
from nextframe.metrics.image import pooled_psnr
from nextframe.recipes import train_preset
from nextframe.runs import load_autoencoder

EPISODES = 5


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("run")) / "autoencoder"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny_episodes(tmp_path / "data", EPISODES).folder


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EPISODES_PER_SHARD", 2)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the episodes that were read, in this order."""
    names: list[str] = []
    original = EpisodeDataset.read

    def noted(dataset, info):
        names.append(info.name)
        return original(dataset, info)

    monkeypatch.setattr(EpisodeDataset, "read", noted)
    return names


def assert_right(out: Path, data: Path) -> None:
    """Every episode is there once, and its latents are those of its footage; no shard is left over."""
    dataset, latents, network = EpisodeDataset.open(data), LatentDataset(out), load_autoencoder(out / "autoencoder")
    assert sorted(episode.name for episode in latents.index.episodes) == [info.name for info in dataset.episodes()]
    infos = {info.name: info for info in dataset.episodes()}
    for episode in latents.index.episodes:
        footage = dataset.read(infos[episode.name])
        expected = encode_video(network, torch.from_numpy(footage.video))
        torch.testing.assert_close(latents.latents(episode, 0, episode.frames).float(), expected, atol=0.05, rtol=0.05)
        assert latents.actions(episode).tolist() == footage.actions.tolist()
        assert (episode.split, episode.label) == (infos[episode.name].split, infos[episode.name].label)
        if latents.index.mirrored:
            expected = encode_video(network, torch.from_numpy(footage.video[:, :, ::-1].copy()))
            read = latents.latents(episode, 0, episode.frames, mirrored=True)
            torch.testing.assert_close(read.float(), expected, atol=0.05, rtol=0.05)
    assert {path.name for path in out.glob("*.safetensors")} == set(latents.index.shards)


@pytest.fixture
def labelled(tmp_path: Path) -> EpisodeDataset:
    """Labelled footage under actions of two numbers."""
    info = DatasetInfo(10.0, SIZE, ("turn", "speed"), {}, "vector", ("cat", "dog"))
    dataset = EpisodeDataset.create(tmp_path / "labelled", info)
    for index, label in enumerate((0, 1, None)):
        episode = tiny_episode(index, 6)
        vectors = np.stack([episode.actions - 1, episode.actions / 7], axis=1)
        dataset.add(f"train_{index}", "train", replace(episode, actions=vectors), {}, label)
    dataset.save()
    return dataset


def test_labels_vectors_and_mirrored_frames_are_encoded(
    autoencoder: Path, labelled: EpisodeDataset, tmp_path: Path, encoded: list[str]
) -> None:
    out = tmp_path / "latents"
    index = encode(autoencoder, labelled.folder, out, "cpu", mirrored=True)
    assert (index.action_kind, index.action_names, index.label_names) == ("vector", ("turn", "speed"), ("cat", "dog"))
    assert index.mirrored and [episode.label for episode in index.episodes] == [0, 1, None]
    assert_right(out, labelled.folder)
    (out / "latents-00000.safetensors").unlink()
    encoded.clear()
    encode(autoencoder, labelled.folder, out, "cpu", mirrored=True)
    assert encoded == ["train_0", "train_1"]
    assert_right(out, labelled.folder)


def test_a_scale_is_measured_once(autoencoder: Path, data: Path, tmp_path: Path) -> None:
    """A published autoencoder has the scale that its transformers were trained with, and keeps it."""
    latents = encode(autoencoder, data, tmp_path / "latents", "cpu")
    assert latents.episodes
    kept = load_autoencoder(tmp_path / "latents" / "autoencoder")
    assert load_autoencoder(autoencoder).scale == 1 != kept.scale
    other = tiny_episodes(tmp_path / "other", 1, frames=5).folder
    encode(tmp_path / "latents" / "autoencoder", other, tmp_path / "again", "cpu")
    assert load_autoencoder(tmp_path / "again" / "autoencoder").scale == kept.scale


@pytest.mark.parametrize("frozen", [False, True])
def test_an_autoencoder_that_is_trained_on_is_measured_anew(
    autoencoder: Path, data: Path, tmp_path: Path, frozen: bool
) -> None:
    """But not one whose encoder stays as it is: there are latents of it."""
    encode(autoencoder, data, tmp_path / "latents", "cpu")
    measured = tmp_path / "latents" / "autoencoder"
    config = read_config(measured / CONFIG)
    assert isinstance(config, TokenizerConfig)
    settings = replace(config.train, steps=1, batch=2, minutes=None, examine_minutes=None, device="cpu")
    judged = {"adversarial_weight": 0.1, "adversarial_start": 0.0} if frozen else {}
    footage = tiny_episodes(tmp_path / "footage", 2, split="train").folder
    train_preset(replace(config, train=settings, **judged), footage, tmp_path / "run", initial=measured)
    scale = load_autoencoder(tmp_path / "run").scale
    assert scale == (load_autoencoder(measured).scale if frozen else 1)


def test_an_episode_with_another_label_is_encoded_again(
    autoencoder: Path, labelled: EpisodeDataset, tmp_path: Path, encoded: list[str]
) -> None:
    out = tmp_path / "latents"
    encode(autoencoder, labelled.folder, out, "cpu")
    labelled.register(replace(labelled.episodes()[2], label=1))
    labelled.save()
    encoded.clear()
    encode(autoencoder, labelled.folder, out, "cpu")
    assert encoded == ["train_2"]
    assert_right(out, labelled.folder)


@pytest.mark.parametrize(
    ("mirrored", "way_out"), [(False, "without --mirrored: leave it"), (True, "with --mirrored: add")]
)
def test_latents_are_mirrored_all_or_none(
    autoencoder: Path, data: Path, tmp_path: Path, mirrored: bool, way_out: str
) -> None:
    out = tmp_path / "latents"
    encode(autoencoder, data, out, "cpu", mirrored)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with pytest.raises(UserError, match=rf"latents was made {way_out} .*, or use another --out"):
        encode(autoencoder, data, out, "cpu", not mirrored)
    encode(autoencoder, data, out, "cpu", mirrored)
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_the_same_footage_is_the_same_latents_mirrored_or_not(autoencoder: Path, data: Path, tmp_path: Path) -> None:
    shards = []
    for mirrored in (False, True):
        encode(autoencoder, data, tmp_path / f"{mirrored}", "cpu", mirrored)
        paths = sorted((tmp_path / f"{mirrored}").glob("*.safetensors"))
        shards.append({name: tensor for path in paths for name, tensor in load_file(path).items()})
    assert all(torch.equal(shards[1][name], tensor) for name, tensor in shards[0].items())
    assert shards[1].keys() - shards[0].keys() == {f"test_{index}.mirrored" for index in range(EPISODES)}


def test_latents_from_before_there_were_labels_are_gone_on_with(
    autoencoder: Path, data: Path, tmp_path: Path, encoded: list[str]
) -> None:
    out, path = tmp_path / "latents", tmp_path / "latents" / "latents.json"
    encode(autoencoder, data, out, "cpu")
    content = json.loads(path.read_text())
    for key in ("action_kind", "label_names", "mirrored"):
        del content[key]
    for entry in content["episodes"]:
        del entry["label"]
    path.write_text(json.dumps(content))
    encoded.clear()
    encode(autoencoder, data, out, "cpu")
    assert not encoded
    assert_right(out, data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("damage", [Path.unlink, cut])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_lost_shard_is_encoded_again(
    autoencoder: Path, data: Path, tmp_path: Path, encoded: list[str], damage, number: int
) -> None:
    out = tmp_path / "latents"
    encode(autoencoder, data, out, "cpu")
    shard = out / f"latents-{number:05d}.safetensors"
    lost = [episode.name for episode in read_index(out).episodes if episode.shard == shard.name]
    damage(shard)
    with pytest.raises(UserError, match="encode the data again"):
        latents = LatentDataset(out)
        for episode in latents.index.episodes:
            latents.actions(episode)
    encoded.clear()
    encode(autoencoder, data, out, "cpu")
    assert encoded == lost
    assert_right(out, data)


def test_footage_recorded_again_is_encoded_again(
    autoencoder: Path, data: Path, tmp_path: Path, encoded: list[str]
) -> None:
    out = tmp_path / "latents"
    encode(autoencoder, data, out, "cpu")
    dataset = EpisodeDataset.open(data)
    dataset.add("test_1", "test", tiny_episode(77, 12), {})
    dataset.add("train_0", "train", tiny_episode(78, 10), {})
    dataset.save()
    encoded.clear()
    encode(autoencoder, data, out, "cpu")
    assert encoded == ["test_1", "train_0"]
    assert_right(out, data)


def test_latents_of_something_else_are_refused(autoencoder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    encode(autoencoder, data, out, "cpu")
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    other = EpisodeDataset.create(tmp_path / "other", DatasetInfo(10.0, SIZE, ACTIONS, {}))
    other.add("test_0", "test", tiny_episode(99, 10), {})
    other.save()
    with pytest.raises(UserError, match=r"latents of other footage than that now in .*other: use another --out"):
        encode(autoencoder, other.folder, out, "cpu")
    others = {
        "fps 10.0, now 20.0": DatasetInfo(20.0, SIZE, ACTIONS, {}),
        "action_names ": DatasetInfo(10.0, SIZE, ACTIONS[::-1], {}),
        r"label_names \(\), now \('cat',\)": DatasetInfo(10.0, SIZE, ACTIONS, {}, label_names=("cat",)),
        "action_kind id, now vector": DatasetInfo(10.0, SIZE, ACTIONS, {}, "vector"),
    }
    for number, (difference, info) in enumerate(others.items()):
        unlike, episode = EpisodeDataset.create(tmp_path / f"unlike{number}", info), tiny_episode(0, 10)
        vector = info.action_kind == "vector"
        unlike.add("test_0", "test", replace(episode, actions=np.zeros((10, 3))) if vector else episode, {})
        unlike.save()
        with pytest.raises(UserError, match=rf"of footage unlike .*{difference}.*: use another --out"):
            encode(autoencoder, unlike.folder, out, "cpu")
    with pytest.raises(UserError, match="latents of other weights"):
        encode(tiny_run(tmp_path / "run", seed=1) / "autoencoder", data, out, "cpu")
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_an_interrupted_encoding_goes_on(
    autoencoder: Path, data: Path, tmp_path: Path, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "latents", 0

    def interrupted(folder, index):
        nonlocal calls
        calls += 1
        if calls == 2:  # the first shard, and the second: after its file, before its entry
            raise KeyboardInterrupt
        write_index(folder, index)

    monkeypatch.setattr("nextframe.data.latents.write_index", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(autoencoder, data, out, "cpu")
    (out / f"{TEMPORARY}1-latents-00002.safetensors").touch()
    encoded.clear()
    encode(autoencoder, data, out, "cpu")
    assert encoded == ["test_2", "test_3", "test_4"]
    assert_right(out, data)
    assert not list(out.glob(f"{TEMPORARY}*"))


@pytest.mark.parametrize(("asked", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped)])
def test_who_is_asked_to_stop_keeps_what_is_encoded(
    autoencoder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int, raised: type
) -> None:
    """In the middle of the third of five episodes, of which two fit into a shard."""
    out, calls = tmp_path / "latents", []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), asked)
        return pooled_psnr(*arguments)

    monkeypatch.setattr(module, "pooled_psnr", interrupted)
    with pytest.raises(raised):
        encode(autoencoder, data, out, "cpu")
    assert [episode.name for episode in read_index(out).episodes] == ["test_0", "test_1", "test_2"]
    encode(autoencoder, data, out, "cpu")
    assert len(calls) == EPISODES
    assert_right(out, data)


def test_a_shard_is_written_after_a_while(
    autoencoder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is stopped has lost no more than that."""
    whole = encode(autoencoder, data, tmp_path / "whole", "cpu")
    monkeypatch.setattr(module, "SHARD_SECONDS", 0.0)
    pieces = encode(autoencoder, data, tmp_path / "pieces", "cpu")
    assert (len(whole.shards), len(pieces.shards)) == (3, EPISODES)
    assert [episode.name for episode in whole.episodes] == [episode.name for episode in pieces.episodes]


def test_several_devices_share_the_work(autoencoder: Path, data: Path, tmp_path: Path) -> None:
    """The shards come in any order; what is in them is the same."""
    one = encode(autoencoder, data, tmp_path / "one", "cpu")
    two = encode(autoencoder, data, tmp_path / "two", "cpu,cpu")
    assert_right(tmp_path / "two", data)
    assert len(one.shards) == len(two.shards) == 3
    assert {episode.name: episode.psnr for episode in one.episodes} == {e.name: e.psnr for e in two.episodes}


@pytest.mark.parametrize(("seconds", "shards"), [(60.0, 2), (0.0, EPISODES)])
def test_few_episodes_are_shared_too_and_in_pieces(
    autoencoder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, shards: int
) -> None:
    monkeypatch.setattr(module, "EPISODES_PER_SHARD", 64)
    monkeypatch.setattr(module, "SHARD_SECONDS", seconds)
    assert len(encode(autoencoder, data, tmp_path / "latents", "cpu,cpu").shards) == shards
    assert_right(tmp_path / "latents", data)


def test_a_process_that_is_killed_is_reported(autoencoder: Path, data: Path, tmp_path: Path) -> None:
    """As the kernel does when there is no memory left.

    Both have to be there: while it starts one, the pool of the standard library does not bear the death of another.
    """

    def kill() -> None:
        assert eventually(lambda: len(active_children()) == 2, 60)
        time.sleep(0.3)  # the pool knows both, and they still import torch
        os.kill(active_children()[0].pid or 0, signal.SIGKILL)

    killer = Thread(target=kill)
    killer.start()
    with pytest.raises(UserError, match="a process that was encoding ended early: see above, and run it again"):
        encode(autoencoder, data, tmp_path / "latents", "cpu,cpu")
    killer.join()
    assert eventually(lambda: not active_children())
    encode(autoencoder, data, tmp_path / "latents", "cpu")
    assert_right(tmp_path / "latents", data)


def test_what_cannot_be_encoded_is_one_line(autoencoder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    empty = EpisodeDataset.create(tmp_path / "empty", DatasetInfo(10.0, SIZE, ACTIONS, {}))
    with pytest.raises(UserError, match="empty has no episodes yet"):
        encode(autoencoder, empty.folder, out, "cpu")
    large = EpisodeDataset.create(tmp_path / "large", DatasetInfo(10.0, 64, ACTIONS, {}))
    with pytest.raises(UserError, match="holds footage: choose another --out"):
        encode(autoencoder, data, data)
    with pytest.raises(UserError, match=r"64 pixels a side, the autoencoder in .* takes 32"):
        encode(autoencoder, large.folder, out, "cpu")
    assert not out.exists()
    with sole_writer(out), pytest.raises(UserError, match="another process is writing"):
        encode(autoencoder, data, out, "cpu")
    assert not out.exists()
    out.mkdir()
    (out / "autoencoder").touch()  # where a folder has to be
    with pytest.raises(UserError, match="cannot be written"):
        encode(autoencoder, data, out, "cpu")


def test_an_index_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="holds no latents"):
        read_index(tmp_path / "file")
    (tmp_path / "latents.json").mkdir()
    with pytest.raises(UserError, match=r"latents\.json cannot be read"):
        read_index(tmp_path)


def test_an_index_of_files_elsewhere_is_refused(autoencoder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    encode(autoencoder, data, out, "cpu")
    index = json.loads((out / "latents.json").read_text())
    (out / "latents.json").write_text(json.dumps({**index, "shards": {"../precious": 1}}))
    with pytest.raises(UserError, match=r"latents\.json is damaged \('\.\./precious' is outside"):
        encode(autoencoder, data, out, "cpu")


def test_a_shard_that_holds_less_than_the_index_says_is_named(autoencoder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    encode(autoencoder, data, out, "cpu")
    shutil.copyfile(out / "latents-00000.safetensors", out / "latents-00001.safetensors")
    latents = LatentDataset(out)
    episode = next(episode for episode in latents.index.episodes if episode.shard == "latents-00001.safetensors")
    with pytest.raises(UserError, match=r"00001\.safetensors holds less of test_2\.actions than latents\.json says"):
        latents.actions(episode)
    index = json.loads((out / "latents.json").read_text())
    assert index["shards"].keys() == {path.name for path in out.glob("*.safetensors")}


@pytest.mark.parametrize(("parent", "ends"), [("os.getppid()", False), ("os.getpid()", True)])
def test_a_worker_whose_recorder_has_gone_before_it_could_be_told_ends(parent: str, ends: bool) -> None:
    script = f"import os; from nextframe.workers import end_with_parent; end_with_parent({parent}); print('goes on')"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    said = "the process that started this one has ended\n" if ends else ""
    assert (ran.returncode, ran.stdout, ran.stderr) == (int(ends), "" if ends else "goes on\n", said)


def test_a_pixel_is_rounded_to_the_nearest_level() -> None:
    video = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 1, 3)
    for off in (-0.4, 0.0, 0.4):
        assert torch.equal(video_from_pixels(pixels_from_video(video) + off / 127.5), video)


def test_the_scale_is_of_episodes_from_all_over(
    tmp_path: Path, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCALE_EPISODES", 2)
    dataset = tiny_episodes(tmp_path / "data", count=6, split="train")
    module.measured_scale(Autoencoder(TOKENIZER).eval(), dataset)
    assert encoded == ["train_0", "train_3"]
