"""What a run can do so far, on footage it does not learn from: its loss, always at the same noise, and clips to watch.

Looked at with the averaged weights in a network of their own, on the first process alone: nothing of the training is
touched, not even the state of a random generator.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nextframe.autoencoder import Autoencoder, decode_video, encode_video, pixels_from_video
from nextframe.checkpoint import AUTOENCODER
from nextframe.clips import clip_batches, frame_batches
from nextframe.config import ClipConfig, TokenizerConfig, WorldModelConfig
from nextframe.data.episodes import EpisodeDataset
from nextframe.data.latents import LatentDataset
from nextframe.devices import matrix_precision, resolve_device, resolve_precision
from nextframe.files import sweep, write_atomically
from nextframe.journal import Examination, Record
from nextframe.objective import LENGTHS, Clips, FrameFlowMatching
from nextframe.pages.drawing import CONTEXT_COLOUR, PREDICTION_COLOUR, TRUTH_COLOUR, enlarge, mp4_bytes, panel_factor
from nextframe.reconstruction import Reconstruction
from nextframe.runs import load_autoencoder
from nextframe.session import predicted
from nextframe.transformer import Transformer

LOOKED_AT = ("validation", "test")
"""What is held out: the first of these that there is."""
BATCHES, CLIPS = 4, 2
"""Of the loss of a world model; the batches differ in length where the clips of training do."""
FRAMES = 32
"""Of the loss of an autoencoder."""
SHOWN = 3
"""Clips to watch."""
PREDICTED, SEEN = 16, 32
"""Their frames, at most, and those that they go on from."""
SEED = 0
SAMPLES = "samples"
BORDER = 4


def held_out_split(splits: Iterable[str]) -> str | None:
    found = set(splits)
    return next((split for split in LOOKED_AT if split in found), None)


def world_model_examination(config: WorldModelConfig, data: LatentDataset, run: Path) -> Examination | None:
    """None where no held-out episode is as long as a training clip."""
    split = held_out_split(episode.split for episode in data.index.episodes if episode.frames >= config.clip.span)
    if split is None:
        return None
    device = resolve_device(config.train.device)
    precision = resolve_precision(config.train.precision, device)
    # The longest clips from the first batch on: the loss must not depend on how far the run is.
    fixed = replace(config.train, batch=CLIPS * config.clip.windows, seed=SEED)
    scored = clip_batches(data, replace(config, clip=replace(config.clip, ramp=0.0), train=fixed), split=split)
    watched, context = watched_clips(config)
    unrecorded = replace(config.sample, graphs="off")  # a few frames, beside threads that send the next steps' inputs
    shown = clip_batches(data, watched, split=split)

    def examine(weights: dict[str, Tensor], step: int) -> Record:
        with torch.device("meta"):  # nothing is drawn for weights that are replaced
            network = Transformer(config.model)
        network.load_state_dict(weights, assign=True)
        network.to(device).eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad(), matrix_precision(precision, device):
            loss = held_out_loss(FrameFlowMatching(config), network, map(scored, range(BATCHES)), device)
            clips = shown(0)
            given, frames = clips.latents[:, :context].float(), clips.latents.shape[1] - context
            seeds = [config.sample.seed + number for number in range(len(given))]
            made = predicted(network, given, clips.conditions, frames, unrecorded, seeds)
            autoencoder = load_autoencoder(run / AUTOENCODER, device)
            ours = torch.cat([given.to(device), made], dim=1)
            for number, pair in enumerate(zip(clips.latents.float(), ours, strict=True)):
                sides = [decode_video(autoencoder, latents).numpy() for latents in pair]
                write_clip(run, step, number, sides, context, data.index.fps / config.clip.interval)
        return {"held_out_loss": loss}

    return examine


def watched_clips(config: WorldModelConfig) -> tuple[WorldModelConfig, int]:
    """The configuration whose batches are the clips to watch, no longer than those of training, and their context."""
    frames = min(config.clip.longest, SEEN + PREDICTED)
    made = frames if config.model.attention == "full" else min(PREDICTED, frames // 2)
    clip = ClipConfig(frames, config.clip.interval)
    return replace(config, clip=clip, train=replace(config.train, batch=SHOWN, seed=SEED)), frames - made


def held_out_loss(
    objective: FrameFlowMatching, network: nn.Module, batches: Iterable[Clips], device: torch.device
) -> float:
    """The mean over batches, each with the noise and the times that are its own."""
    losses = []
    for number, batch in enumerate(batches):
        inputs = objective.prepare(batch, torch.Generator().manual_seed(number))
        sent = {name: x if name == LENGTHS else x.to(device) for name, x in inputs.items()}
        losses.append(objective.score(network, sent).loss)
    return torch.stack(losses).mean().item()


def autoencoder_examination(
    config: TokenizerConfig, data: EpisodeDataset, objective: Reconstruction, run: Path
) -> Examination | None:
    """None where nothing is held out. The loss is that of reconstruction, without noise on the latents."""
    split = held_out_split(episode.split for episode in data.episodes())
    if split is None:
        return None
    device = resolve_device(config.train.device)
    precision = resolve_precision(config.train.precision, device)
    fixed = replace(config, train=replace(config.train, batch=FRAMES, seed=SEED))

    def examine(weights: dict[str, Tensor], step: int) -> Record:
        with torch.device("meta"):
            autoencoder = Autoencoder(config.model)
        autoencoder.load_state_dict(weights, assign=True)
        autoencoder.to(device).eval()
        with torch.no_grad(), matrix_precision(precision, device):
            pixels = pixels_from_video(frame_batches(data, fixed, split=split)(0).to(device))
            loss = objective.distance(autoencoder.decode(autoencoder.encode(pixels)).float(), pixels)[0].item()
            for number, info in enumerate(data.episodes(split)[:SHOWN]):
                video = data.read(info).video[: SEEN + PREDICTED]
                ours = decode_video(autoencoder, encode_video(autoencoder, torch.from_numpy(video))).numpy()
                write_clip(run, step, number, [video, ours], 0, data.info.fps)
        return {"held_out_loss": loss}

    return examine


def write_clip(run: Path, step: int, number: int, sides: Sequence[np.ndarray], context: int, fps: float) -> None:
    """Two videos beside each other, the truth and ours, whose border has another colour round what it was given."""
    truth, ours = sides
    colours = [CONTEXT_COLOUR] * context + [PREDICTION_COLOUR] * (len(ours) - context)
    both = [_bordered(truth, [TRUTH_COLOUR] * len(truth)), _bordered(ours, colours)]
    path = run / SAMPLES / f"{step:08d}-{number}.mp4"
    sweep(path.parent)
    write_atomically(path, mp4_bytes(np.concatenate(both, axis=2), fps))


def _bordered(video: np.ndarray, colours: list[tuple[int, int, int]]) -> np.ndarray:
    """Enlarged, each frame in a border of its colour: uint8 [f, h, w, 3]."""
    large = enlarge(video, panel_factor(video.shape[1]))
    height, width = (side + 2 * BORDER for side in large.shape[1:3])
    canvas = np.broadcast_to(np.array(colours, np.uint8)[:, None, None], (len(video), height, width, 3)).copy()
    canvas[:, BORDER:-BORDER, BORDER:-BORDER] = large
    return canvas
