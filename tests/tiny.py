"""A world and a model small enough for a test: a panorama that an action turns, and random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from conftest import LONG

from nextframe.autoencoder import Autoencoder
from nextframe.checkpoint import AUTOENCODER, CONFIG, WEIGHTS, write_weights
from nextframe.config import AutoencoderConfig, SampleConfig, TokenizerConfig, WorldModelConfig
from nextframe.configfile import write_config
from nextframe.data.episodes import DatasetInfo, Episode, EpisodeDataset
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


def tiny_run(run: Path, seed: int = 0) -> Path:
    """A run folder of a world model with random weights, none of them zero."""
    torch.manual_seed(seed)
    transformer, autoencoder = Transformer(MODEL), Autoencoder(TOKENIZER)
    with torch.no_grad():
        for weight in transformer.parameters():
            weight.normal_(0, 0.2)
    write_config(WorldModelConfig(model=MODEL, sample=SampleConfig(steps=2)), run / CONFIG)
    write_weights(run / WEIGHTS, transformer.state_dict())
    write_config(TokenizerConfig(model=TOKENIZER), run / AUTOENCODER / CONFIG)
    write_weights(run / AUTOENCODER / WEIGHTS, autoencoder.state_dict())
    return run


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
