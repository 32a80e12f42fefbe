"""Footage to latents: once, before a world model is trained on them."""

import math
import shutil
from pathlib import Path

import torch
from torch import Tensor

from nextframe.autoencoder import Autoencoder, decode_video, encode_video
from nextframe.checkpoint import AUTOENCODER, CONFIG, WEIGHTS, write_weights
from nextframe.data.episodes import EpisodeDataset, EpisodeInfo
from nextframe.data.latents import (
    EPISODES_PER_SHARD,
    INDEX,
    LatentEpisode,
    LatentIndex,
    read_index,
    write_index,
    write_shard,
)
from nextframe.errors import UserError
from nextframe.files import sha256
from nextframe.parallel import matrix_precision, resolve_device, resolve_precision
from nextframe.progress import progress
from nextframe.runs import load_autoencoder

SCALE_EPISODES = 32
"""Training episodes whose latents say what unit variance is."""


def encode(run: Path, data: Path, out: Path, device: str = "auto") -> LatentIndex:
    """Encode every episode of `data` with the autoencoder in `run`; goes on where an earlier call stopped.

    The latents are scaled to unit variance. `out` gets a copy of the autoencoder with that scale: what the latents
    mean is never apart from them.
    """
    dataset, target = EpisodeDataset.open(data), resolve_device(device)
    autoencoder = load_autoencoder(run, target).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = autoencoder.config
    if dataset.info.size != config.frame_size:
        raise UserError(
            f"{data} has {dataset.info.size} pixels a side, the autoencoder in {run} takes {config.frame_size}"
        )
    with matrix_precision(resolve_precision("auto", target), target):
        digest = sha256(run / WEIGHTS)
        if not (out / INDEX).exists():
            autoencoder.scale.fill_(measured_scale(autoencoder, dataset))
            keep_autoencoder(autoencoder, run, out)
            shape = (config.latent_channels, config.latent_size, config.latent_size)
            write_index(out, LatentIndex(digest, shape, dataset.info.action_names, dataset.info.fps))
        elif read_index(out).autoencoder != digest:
            raise UserError(f"{out} holds latents of other weights than those now in {run}: use another --out")
        return encode_missing(load_autoencoder(out / AUTOENCODER, target), dataset, out)


def keep_autoencoder(autoencoder: Autoencoder, run: Path, out: Path) -> None:
    (out / AUTOENCODER).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / CONFIG, out / AUTOENCODER / CONFIG)
    write_weights(out / AUTOENCODER / WEIGHTS, autoencoder.state_dict())


def measured_scale(autoencoder: Autoencoder, dataset: EpisodeDataset) -> float:
    """1 / standard deviation of the unscaled latents, over a sample of the training episodes."""
    infos = dataset.episodes("train") or dataset.episodes()
    sample = infos[:: max(1, len(infos) // SCALE_EPISODES)]
    latents = [encode_video(autoencoder, torch.from_numpy(dataset.read(info).video[::8])) for info in sample]
    return float(autoencoder.scale / torch.cat(latents).std())


def encode_missing(autoencoder: Autoencoder, dataset: EpisodeDataset, out: Path) -> LatentIndex:
    """Encode, shard by shard, the episodes that the index in `out` does not list yet."""
    index = read_index(out)
    done = {episode.name for episode in index.episodes}
    missing = [info for info in dataset.episodes() if info.name not in done]
    number = len({episode.shard for episode in index.episodes})
    with progress(f"encoding {dataset.folder.name}", len(done) + len(missing), len(done)) as advance:
        for first in range(0, len(missing), EPISODES_PER_SHARD):
            name = f"latents-{number:05d}.safetensors"
            encoded, entries = {}, []
            for info in missing[first : first + EPISODES_PER_SHARD]:
                latents, actions, psnr = encode_episode(autoencoder, dataset, info)
                encoded[info.name] = (latents, actions)
                entries.append(LatentEpisode(info.name, info.split, info.frames, name, round(psnr, 2)))
                advance(1, f"{psnr:.1f} dB")
            write_shard(out / name, encoded)
            index = LatentIndex(
                index.autoencoder, index.shape, index.action_names, index.fps, (*index.episodes, *entries)
            )
            write_index(out, index)
            number += 1
    return index


def encode_episode(
    autoencoder: Autoencoder, dataset: EpisodeDataset, info: EpisodeInfo
) -> tuple[Tensor, Tensor, float]:
    """Latents, actions, and the PSNR in dB of every 16th frame's reconstruction."""
    episode = dataset.read(info)
    video = torch.from_numpy(episode.video)
    latents = encode_video(autoencoder, video)
    error = (decode_video(autoencoder, latents[::16]).float() - video[::16].float()).square().mean()
    return latents.cpu(), torch.from_numpy(episode.actions), 10 * math.log10(255**2 / max(float(error), 1e-4))
