"""A world and a model small enough for a test: a panorama that an action turns, and random weights."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from conftest import LONG
from safetensors import safe_open

from nextframe.architecture import AutoencoderConfig, TransformerConfig
from nextframe.autoencoder import Autoencoder
from nextframe.checkpoint import AUTOENCODER, CONFIG, WEIGHTS, write_weights
from nextframe.config import ClipConfig, SampleConfig, TokenizerConfig, WorldModelConfig
from nextframe.configfile import write_config
from nextframe.data.episodes import DatasetInfo, Episode, EpisodeDataset
from nextframe.data.latents import LatentDataset, LatentEpisode, LatentIndex, write_index, write_shard
from nextframe.files import sha256
from nextframe.metrics.weights import STANDARD
from nextframe.pieces import Position, newest_checkpoint
from nextframe.transformer import Transformer

SIZE = 32
ACTIONS = ("noop", "turn_left", "turn_right")
TURN = 3
"""Pixels."""
MODEL = replace(LONG, latent_channels=4, layers=1, classes=5)
TOKENIZER = AutoencoderConfig(
    frame_size=SIZE,
    latent_channels=4,
    encoder_channels=(8, 8, 8, 8),
    encoder_layers=(0, 1, 1, 1),
    decoder_channels=(8, 8, 8, 8),
    decoder_layers=(0, 1, 1, 1),
    attention_stages=0,
    decoder_norm="rms_norm",
    decoder_activation="silu",
)


def tiny_run(run: Path, seed: int = 0, model: TransformerConfig = MODEL, interval: int = 1) -> Path:
    """A run folder of a world model with random weights, none of them zero."""
    torch.manual_seed(seed)
    transformer, autoencoder = Transformer(model), Autoencoder(TOKENIZER)
    with torch.no_grad():
        for weight in transformer.parameters():
            weight.normal_(0, 0.2)
    clean = 0.0 if model.attention == "full" else 0.1
    config = WorldModelConfig(model, ClipConfig(interval=interval), clean, sample=SampleConfig(steps=2))
    write_config(config, run / CONFIG)
    write_weights(run / WEIGHTS, transformer.state_dict())
    write_config(TokenizerConfig(model=TOKENIZER), run / AUTOENCODER / CONFIG)
    write_weights(run / AUTOENCODER / WEIGHTS, autoencoder.state_dict())
    return run


def random_autoencoder(latents: Path, model: AutoencoderConfig) -> None:
    """Beside latents, what is to have made them, with random weights."""
    folder = latents / AUTOENCODER
    write_config(TokenizerConfig(model=model), folder / CONFIG)
    write_weights(folder / WEIGHTS, Autoencoder(model).state_dict())


@dataclass(frozen=True)
class Kept:
    """What a checkpoint holds, whole."""

    position: Position
    weights: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]


def kept(path: Path) -> Kept:
    """A checkpoint, put together with nothing but safetensors."""
    pieces: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for file in path.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            places = json.loads(opened.metadata()["DCP_SHARDING_INFO"])
            for name in opened.keys():  # noqa: SIM118
                offsets = places[name]["saved_offsets"]
                assert not any(offsets[1:])
                pieces.setdefault(name, []).append((sum(offsets), opened.get_tensor(name)))
    parts: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "average": {}, "optimizer": {}}
    for full_name, found in pieces.items():
        part, name = full_name.split("/", 1)
        tensors = [tensor for _, tensor in sorted(found, key=lambda piece: piece[0])]
        parts[part][name] = torch.cat(tensors) if len(tensors) > 1 else tensors[0].clone()  # not a view of the file
    return Kept(Position(**json.loads((path / "state.json").read_text())), **parts)


def newest(run: Path) -> Kept | None:
    """What the newest whole checkpoint of a run holds."""
    found = newest_checkpoint(run)
    return found and kept(found.path)


def tiny_episode(seed: int, frames: int, late: int = 0) -> Episode:
    """A camera turning on the spot; `late`: frames by which the actions are recorded too late."""
    random = np.random.default_rng(seed)
    panorama = random.integers(0, 256, (SIZE, 4 * SIZE, 3), dtype=np.uint8)
    panorama[:, 1:] = (panorama[:, 1:] // 2) + panorama[:, :-1] // 2
    actions = random.integers(0, len(ACTIONS), frames)
    turns = np.array([0, -TURN, TURN])[actions]
    places = np.concatenate([[0], np.cumsum(turns)[:-1]])
    video = np.stack([np.roll(panorama, -place, axis=1)[:, :SIZE] for place in places])
    return Episode(video, np.roll(actions, late))


def tiny_episodes(folder: Path, count: int = 3, frames: int = 10, split: str = "test", late: int = 0) -> EpisodeDataset:
    info = DatasetInfo(10.0, SIZE, ACTIONS, {"world": "panorama", "note": "<b>not HTML</b>"})
    dataset = EpisodeDataset.create(folder, info)
    for index in range(count):
        dataset.add(f"{split}_{index}", split, tiny_episode(index, frames, late), {})
    dataset.save()
    return dataset


def noise_footage(folder: Path, *splits: str) -> Path:
    """6 random 16 x 16 frames an episode, an episode for each of these splits."""
    dataset = EpisodeDataset.create(folder, DatasetInfo(10.0, 16, ("stay",), {}))
    random = np.random.default_rng(0)
    for number, split in enumerate(splits):
        video = random.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
        dataset.add(f"{split}_{number}", split, Episode(video, np.zeros(6, np.int64)), {})
    dataset.save()
    return folder


def tiny_latents(folder: Path, vectors: bool = False, labels: int = 0, mirrored: bool = False) -> LatentDataset:
    """5 episodes of 20 to 24 frames for `conftest.LONG`: three actions, or vectors of two numbers.

    Latents are random eighths, which bfloat16 holds exactly, and the mirrored ones their negatives. A vector is the
    number of its frame and of its episode; an episode's label is its number, modulo `labels`.
    """
    random = np.random.default_rng(7)
    shard, entries, others, file = {}, [], {}, "latents-00000.safetensors"
    for number in range(5):
        name, frames = f"train_{number}", 20 + number
        latents = torch.from_numpy(random.integers(-16, 17, (frames, 3, 4, 4)) / 8)
        actions = torch.from_numpy(random.integers(0, 3, frames))
        if vectors:
            actions = torch.stack([torch.arange(frames), torch.full((frames,), number)], dim=1).float()
        shard[name] = (latents, actions)
        others[name] = -latents
        label = number % labels if labels else None
        entries.append(LatentEpisode(name, "train", frames, file, 30.0, label=label))
    write_shard(folder / file, shard, others if mirrored else None)
    index = LatentIndex(
        autoencoder="0" * 64,
        shape=(3, 4, 4),
        action_names=("frame", "episode") if vectors else ("a", "b", "c"),
        fps=10.0,
        episodes=tuple(entries),
        action_kind="vector" if vectors else "id",
        label_names=tuple(f"class {label}" for label in range(labels)),
        mirrored=mirrored,
    )
    write_index(folder, index)
    return LatentDataset(folder)


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it comes true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


class Activities(torch.nn.Module):
    """Stands for I3D, and is called as it is: 6 features of a video, by its colours and how they change."""

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert x.dim() == 5 and x.size(1) == 3 and not rescale and resize and return_features
        change = (x[:, :, 1:] - x[:, :, :-1]).abs()
        features = torch.cat([x.mean((2, 3, 4)), change.mean((2, 3, 4))], dim=1)
        return features @ torch.eye(6, device=x.device)  # nothing, unless somebody's autocast rounds it


def tiny_i3d(folder: Path) -> Path:
    """A folder for $NEXTFRAME_WEIGHTS, with that in the place of I3D."""
    folder.mkdir(exist_ok=True)
    path = folder / STANDARD["i3d"].file
    torch.jit.script(Activities()).save(path)
    STANDARD["i3d"] = STANDARD["i3d"]._replace(sha256=sha256(path))  # no other is run
    return folder
