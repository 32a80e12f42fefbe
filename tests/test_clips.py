"""Training clips: what each frame is told, and mirrored ones; nothing moves for those who ask for none of it."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from conftest import LONG
from tiny import SIZE, TOKENIZER, tiny_episodes, tiny_latents
from torch import Tensor

from nextframe.architecture import TransformerConfig
from nextframe.clips import DECODED_BYTES, better_clips, clip_batches, frame_batches, options_for, videos_kept
from nextframe.config import ClipConfig, TokenizerConfig, TrainConfig, WorldModelConfig
from nextframe.data.episodes import DatasetInfo, Episode, EpisodeDataset, EpisodeInfo
from nextframe.data.latents import LatentDataset, write_index
from nextframe.data.order import batch_indices
from nextframe.errors import UserError
from nextframe.objective import FrameFlowMatching
from nextframe.presets import FOOTAGE
from nextframe.transformer import Transformer

TRAIN = TrainConfig(steps=20, batch=4)
ACTION = WorldModelConfig(model=LONG, clip=ClipConfig(9, interval=2, min_frames=4, ramp=0.5), train=TRAIN)
NONE = replace(ACTION, model=replace(LONG, condition="none", classes=0))
LABEL = replace(ACTION, model=replace(LONG, condition="label"))
VECTOR = replace(ACTION, model=replace(LONG, condition="vector", classes=0, action_size=2))
# Of the batches that clip_batches made before there were labels, vectors and mirrored clips.
ACTION_DIGEST = "e0cc05635cf4b1283f6a4243ab3d6e42e8b155f19433b24f0a958607a7e0d0f5"
NONE_DIGEST = "b7a0931b3aa53ede115598cedd801ea8128df1b87b73a2d1b5812a0015df22d0"


def digest(dataset: LatentDataset, config: WorldModelConfig) -> str:
    batches, hashed = clip_batches(dataset, config), hashlib.sha256()
    for step in (0, 7, 19):
        clips = batches(step)
        hashed.update(clips.latents.contiguous().view(torch.int16).numpy().tobytes())
        if clips.conditions is not None:
            hashed.update(clips.conditions.numpy().tobytes())
    return hashed.hexdigest()


def test_batches_of_older_runs_are_the_same_to_the_bit(tmp_path: Path) -> None:
    plain = tiny_latents(tmp_path / "plain")
    assert digest(plain, ACTION) == ACTION_DIGEST and digest(plain, NONE) == NONE_DIGEST
    # Latents that could be mirrored, and have labels, change nothing for a model that wants neither.
    assert digest(tiny_latents(tmp_path / "rich", labels=2, mirrored=True), NONE) == NONE_DIGEST


def mirror(config: WorldModelConfig) -> WorldModelConfig:
    return replace(config, clip=replace(config.clip, mirror=True))


@pytest.mark.parametrize("config", [NONE, LABEL])
def test_half_of_the_clips_are_mirrored_and_none_is_moved(tmp_path: Path, config: WorldModelConfig) -> None:
    dataset = tiny_latents(tmp_path, labels=3, mirrored=True)
    config = replace(config, train=replace(TRAIN, batch=8))
    plain, mirrored = clip_batches(dataset, config), clip_batches(dataset, mirror(config))
    patterns = []
    for step in range(60):
        before, after = plain(step), mirrored(step)
        turned = [not torch.equal(*pair) for pair in zip(before.latents, after.latents, strict=True)]
        signs = torch.tensor([-1 if turn else 1 for turn in turned]).view(-1, 1, 1, 1, 1)
        assert torch.equal(after.latents, before.latents * signs)  # a whole clip, and the same one
        if before.conditions is not None and after.conditions is not None:
            assert torch.equal(before.conditions, after.conditions)
        patterns.append(tuple(turned))
    assert 200 < sum(map(sum, patterns)) < 280  # of 480
    assert len(set(patterns)) > 40  # each clip has a coin of its own, tossed anew at every step
    again = clip_batches(dataset, mirror(config))
    assert torch.equal(again(7).latents, mirrored(7).latents)


def test_a_label_is_told_to_every_frame_of_its_clip(tmp_path: Path) -> None:
    batches = clip_batches(tiny_latents(tmp_path, labels=3), LABEL)
    for step in range(6):
        clips = batches(step)
        assert clips.conditions is not None and clips.conditions.dtype == torch.int64
        assert clips.conditions.shape == clips.latents.shape[:2]
        expected = [index % 3 for index in batch_indices(0, step, TRAIN.batch, 5)]
        assert clips.conditions.tolist() == [[label] * clips.latents.shape[1] for label in expected]


def place(dataset: LatentDataset, clip: Tensor, interval: int) -> tuple[int, int]:
    """The episode and the first frame of a clip."""
    span = (len(clip) - 1) * interval + 1
    for number, episode in enumerate(dataset.index.episodes):
        for start in range(episode.frames - span + 1):
            if torch.equal(dataset.latents(episode, start, len(clip), interval), clip):
                return number, start
    raise AssertionError("a clip of nowhere")


@pytest.mark.parametrize(("action_of", "late"), [("arrival", 1), ("departure", 0)])
def test_each_frame_is_told_the_vector_of_its_action(tmp_path: Path, action_of, late: int) -> None:
    dataset, interval = tiny_latents(tmp_path, vectors=True), 2
    config = replace(VECTOR, model=replace(VECTOR.model, action_of=action_of), clip=ClipConfig(10, interval))
    batches, first_frames = clip_batches(dataset, config), 0
    for step in range(8):
        clips = batches(step)
        assert clips.conditions is not None and clips.conditions.dtype == torch.float32
        assert clips.conditions.shape == (4, 10, 2)
        for latents, conditions in zip(clips.latents, clips.conditions, strict=True):
            number, start = place(dataset, latents, interval)
            expected = [[start + interval * frame - late, number] for frame in range(10)]
            if start < late:  # no action led to the first frame of an episode
                assert all(map(math.isnan, conditions[0].tolist()))
                conditions, expected, first_frames = conditions[1:], expected[1:], first_frames + 1
            assert conditions.tolist() == expected
    assert bool(first_frames) == bool(late)


@pytest.mark.parametrize(
    ("latents", "config", "message"),
    [
        ({}, LABEL, r"has no class labels: set --model\.condition none"),
        ({"labels": 4}, LABEL, r"has 4 classes, the preset 3: set --model\.classes"),
        (
            {"vectors": True},
            ACTION,
            r"vectors, the preset wants ids: set --model\.condition vector --model\.action-size 2",
        ),
        ({}, VECTOR, r"ids, the preset wants vectors: set --model\.condition action --model\.classes 3"),
        (
            {"vectors": True},
            replace(VECTOR, model=replace(VECTOR.model, action_size=3)),
            r"is 2 numbers, of the preset 3: set --model\.action-size 2",
        ),
        ({}, replace(ACTION, model=replace(LONG, classes=2)), r"has 3 actions, the preset 2: set --model\.classes"),
        ({"mirrored": True}, mirror(ACTION), r"the actions would be wrong .*: set --clip\.no-mirror"),
        ({"mirrored": True, "vectors": True}, mirror(VECTOR), r"the actions would be wrong .*: set --clip\.no-mirror"),
        ({}, mirror(NONE), r"the latents are not mirrored: encode with --mirrored"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, latents: dict, config: WorldModelConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        clip_batches(tiny_latents(tmp_path, **latents), config)


def test_an_episode_without_a_label_is_named(tmp_path: Path) -> None:
    dataset = tiny_latents(tmp_path, labels=3)
    first, second, *others = dataset.index.episodes
    write_index(tmp_path, replace(dataset.index, episodes=(first, replace(second, label=None), *others)))
    with pytest.raises(UserError, match="train_1 of the split train has no class label: give it one, and encode"):
        clip_batches(LatentDataset(tmp_path), LABEL)


def test_fewer_labels_and_actions_than_the_model_has_will_do(tmp_path: Path) -> None:
    dataset = tiny_latents(tmp_path, labels=2)
    wide: TransformerConfig = replace(LONG, classes=9)
    for condition in ("label", "action"):
        assert (
            clip_batches(dataset, replace(ACTION, model=replace(wide, condition=condition)))(0).conditions is not None
        )


@pytest.mark.parametrize("config", [LABEL, mirror(LABEL), VECTOR], ids=["label", "mirrored", "vector"])
def test_such_clips_can_be_learned_from(tmp_path: Path, config: WorldModelConfig) -> None:
    vectors = config.model.condition == "vector"
    dataset = tiny_latents(tmp_path, vectors, labels=0 if vectors else 3, mirrored=True)
    objective, network = FrameFlowMatching(config), Transformer(config.model)
    inputs = objective.prepare(clip_batches(dataset, config)(3), torch.Generator().manual_seed(0))
    assert objective.score(network, inputs).loss.isfinite()


@pytest.mark.parametrize(
    ("lengths", "options"),
    [
        ([300, 120] * 5, "--clip.frames 121"),  # the rest of each video would be lost
        ([300] * 9 + [120], ""),
        ([61, 60, 59, 20], "--clip.frames 60"),
        ([127, 127], ""),
        ([], ""),
    ],
)
def test_clips_are_as_long_as_nearly_all_the_footage_allows(lengths: list[int], options: str) -> None:
    assert FOOTAGE.clip.span == 127
    assert better_clips(lengths, FOOTAGE.clip) == options


@pytest.mark.parametrize("kind", ["ids", "many", "vectors", "labels", "nothing"])
def test_what_is_to_be_set_is_enough_to_learn(kind: str, tmp_path: Path) -> None:
    """What is proposed for latents of five short episodes is what `clip_batches` takes."""
    index = tiny_latents(tmp_path, vectors=kind == "vectors", labels=2 if kind == "labels" else 0).index
    if kind == "many":
        index = replace(index, action_names=tuple(map(str, range(40))))
    if kind in ("labels", "nothing"):
        index = replace(index, action_kind="none", action_names=())
    write_index(tmp_path, index)
    options = options_for(index, FOOTAGE)
    train = tyro.cli(WorldModelConfig, args=options, default=FOOTAGE)
    batch = clip_batches(LatentDataset(tmp_path), train)(0)
    assert batch.latents.shape[0] == train.train.batch // train.clip.windows


def test_a_batch_need_be_no_multiple_of_frames_of_an_episode(tmp_path: Path) -> None:
    data = tiny_episodes(tmp_path / "data", split="train")
    config = TokenizerConfig(model=TOKENIZER, train=replace(TRAIN, batch=6))
    assert frame_batches(data, config)(0).shape == (6, SIZE, SIZE, 3)


def test_frames_of_an_episode_are_other_frames(tmp_path: Path) -> None:
    data = EpisodeDataset.create(tmp_path / "data", DatasetInfo(10.0, SIZE, ("stay",), {}))
    video = np.arange(8, dtype=np.uint8)[:, None, None, None] + np.zeros((1, SIZE, SIZE, 3), np.uint8)
    data.add("a", "train", Episode(video, np.zeros(8, np.int64)), {})
    batches = frame_batches(data, TokenizerConfig(model=TOKENIZER, train=replace(TRAIN, batch=4)))
    for step in range(10):
        assert len(batches(step)[:, 0, 0, 0].unique()) == 4


def test_decoded_footage_is_kept_within_its_bytes() -> None:
    episodes = [EpisodeInfo("a", "train", frames, {}, {}) for frames in (10, 300)]
    assert 0 <= DECODED_BYTES - videos_kept(episodes, 64) * 300 * 64 * 64 * 3 < 300 * 64 * 64 * 3
