"""From a configuration and a folder of data to a trained run."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nextframe.autoencoder import Autoencoder
from nextframe.checkpoint import AUTOENCODER, CHECKPOINTS, CONFIG, WEIGHTS, checkpoints, load_weights
from nextframe.clip_starts import draw_clip_starts, length_range
from nextframe.clips import better_clips, clip_batches, frame_batches, long_enough, videos_kept
from nextframe.config import TokenizerConfig, WorldModelConfig
from nextframe.configfile import RunConfig, read_config, write_config
from nextframe.data.episodes import INDEX as EPISODES
from nextframe.data.episodes import EpisodeDataset
from nextframe.data.latents import INDEX as LATENTS
from nextframe.data.latents import LatentDataset
from nextframe.devices import enough_room, resolve_device
from nextframe.discriminator import Discriminator
from nextframe.errors import UserError
from nextframe.files import TEMPORARY, sha256, write_atomically
from nextframe.flops import training_flops
from nextframe.footprint import Demand
from nextframe.held_out import LOOKED_AT, autoencoder_examination, world_model_examination
from nextframe.journal import Examination, check_wandb, newest_with
from nextframe.layers import VectorEmbedding
from nextframe.learner import Learner, Task
from nextframe.metadata import Metadata, write_metadata
from nextframe.metrics.lpips import Lpips
from nextframe.objective import LENGTHS, Clips, FrameFlowMatching, Inputs
from nextframe.outlook import estimate, foresee
from nextframe.ranks import Share, process_group, rank
from nextframe.reconstruction import AutoencoderWithDiscriminator, Frames, Reconstruction, is_judged
from nextframe.soundness import (
    assumed,
    changed_settings,
    few_episodes,
    latents_off,
    learnt_from,
    note_data,
    other_data,
)
from nextframe.train import Position, fraction_done, sole_trainer, take_steps
from nextframe.transformer import Transformer


@dataclass(frozen=True)
class Prepared:
    """All that a run is made of, before anything of it is written."""

    learner: Learner
    demand: Demand
    data: EpisodeDataset | LatentDataset
    examine: Examination | None
    position: Position
    """Where the run stands."""
    seconds: float | None
    """What a step took when the run last went."""


def train_preset(
    config: RunConfig, data: Path, run: Path, initial: Path | None = None, insist: bool = False
) -> Position:
    """Train what `config` describes on `data` (episodes for an autoencoder, latents for a world model).

    A run that has a checkpoint is gone on with, and must be of the same model; other settings may change, and are
    written anew. `initial`: a run, or a weight file, for a new run to start from. Raises UserError, before anything is
    written, when configuration, data and run do not fit together, or (unless one insists) memory does not suffice.
    """
    with process_group(resolve_device(config.train.device), config.train.patience_minutes), sole_trainer(run):
        ready = prepared(config, data, run, initial)
        goes_on = fraction_done(config.train, ready.position) < 1
        if goes_on:
            foresee(ready.learner, ready.demand, ready.position, ready.seconds, insist)
        if rank() == 0 and goes_on:  # else what is written down is what it was trained with
            if isinstance(ready.data, LatentDataset) and not checkpoints(run):
                keep_autoencoder(ready.data.folder / AUTOENCODER, run / AUTOENCODER)
            write_config(config, run / CONFIG)
            if isinstance(ready.data, LatentDataset) and isinstance(config, WorldModelConfig):
                write_metadata(Metadata.of(ready.data.index, config.model.condition), run)
            note_data(run, learnt_from(config, ready.data))
        return take_steps(ready.learner, run, ready.examine)


def estimate_preset(config: RunConfig, data: Path, run: Path, initial: Path | None = None) -> list[str]:
    """What `train_preset` would take here, in lines; nothing is trained or written. Raises UserError as it does."""
    with process_group(resolve_device(config.train.device), config.train.patience_minutes):
        ready = prepared(config, data, run, initial)
        return estimate(ready.learner, ready.demand, ready.position)


def prepared(config: RunConfig, data: Path, run: Path, initial: Path | None) -> Prepared:
    """Says on stderr what a person should know. Raises UserError when configuration, data and run do not fit."""
    check_wandb(config.train)
    if (run / EPISODES).exists() or (run / LATENTS).exists():
        raise UserError(f"{run} holds what to train on: choose another --out for the run")
    found = checkpoints(run)
    before = read_config(run / CONFIG) if found else None
    if before is not None:
        refuse_another(before, config, run)
    elif (run / WEIGHTS).exists():
        refuse_to_lose(run)
    torch.manual_seed(config.train.seed)
    wanted = config.train.examine_minutes is not None
    if isinstance(config, TokenizerConfig):
        opened = EpisodeDataset.open(data)
        task, demand = autoencoder_task(config, opened), autoencoder_demand(config, opened)
        assert isinstance(task.objective, Reconstruction)
        examine = autoencoder_examination(config, opened, task.objective, run) if wanted else None
    else:
        opened = LatentDataset(data)
        task, demand = world_model_task(config, opened), world_model_demand(config, opened)
        examine = world_model_examination(config, opened, run) if wanted else None
        refuse_another_autoencoder(opened.folder / AUTOENCODER, run / AUTOENCODER, begun=before is not None)
    if initial is not None and before is None:
        if (initial / CONFIG).exists() and type(read_config(initial / CONFIG)) is not type(config):
            raise UserError(f"--initial {initial} is a run of another kind: name one like that which is to be trained")
        load_weights(task.product, initial / WEIGHTS if initial.is_dir() else initial)
        if isinstance(config, TokenizerConfig) and not is_judged(config, 0):
            assert isinstance(task.product, Autoencoder)
            # Its latents will be others, so `encode` measures anew; those of an encoder that is frozen stay.
            task.product.scale.fill_(1)
    if isinstance(opened, LatentDataset) and isinstance(task.product, Transformer) and before is None:
        take_action_range(task.product, opened)
    if rank() == 0:
        if initial is not None and before is not None:
            say([f"{run} goes on from its own weights: --initial is for a new run"])
        say(notes(config, before, opened, run))
        if wanted and examine is None:
            what = f"no long enough episode of the split {' or '.join(LOOKED_AT)}"
            say([f"{data} has {what}: there will be no held-out loss and no samples"])
    last = newest_with("seconds_per_step", run)
    position = Position(int(found[-1].name), last.get("seconds", 0.0)) if found else Position()
    seconds = last.get("seconds_per_step") if found else None
    with enough_room(f"the weights alone do not fit on {config.train.device}: train a smaller model"):
        learner = Learner(task, config.train)
    return Prepared(learner, demand, opened, examine, position, seconds)


def say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def notes(
    config: RunConfig, before: RunConfig | None, data: EpisodeDataset | LatentDataset, run: Path
) -> Iterator[str]:
    """What is not wrong for certain, a line each."""
    episodes = learnt_from(config, data)
    if before is not None and (changed := changed_settings(before, config)):
        yield f"changed since this run last went: {changed}"
    if before is not None and (changed := other_data(run, episodes)):
        yield f"this run goes on with other data: {changed}"
    yield from few_episodes(config, episodes)
    if isinstance(data, LatentDataset):
        assert isinstance(config, WorldModelConfig)
        if short := len(data.episodes("train")) - len(episodes):
            lengths = [episode.frames for episode in data.episodes("train")]
            share = 1 - sum(episode.frames for episode in episodes) / sum(lengths)
            told = f"{short} of {len(lengths)} training episodes, {100 * share:.2g} % of the frames, are shorter than"
            better = better_clips(lengths, config.clip)
            yield f"{told} a clip and not learnt from{better and f': {better} takes more of them'}"
        yield from latents_off(data, data.episodes("train"))
        if before is None:
            yield from assumed(config, data.index)


def refuse_another(before: RunConfig, config: RunConfig, run: Path) -> None:
    """Raises UserError when the checkpoints of a run do not fit the networks of a configuration, or its optimizer."""
    if before.model != config.model:
        differs = changed_settings(before.model, config.model) if type(before) is type(config) else "of another kind"
        raise UserError(f"{run} holds a run of another model ({differs}): use another --out, or those settings")
    algorithms = [one.train.optimizer.algorithm for one in (before, config)]
    if algorithms[0] != algorithms[1]:
        words = f"{run} was begun with {algorithms[0]}, not {algorithms[1]}"
        raise UserError(f"{words}: use another --out, with --initial {run / WEIGHTS}")
    adversarial = [isinstance(one, TokenizerConfig) and one.adversarial_weight > 0 for one in (before, config)]
    if adversarial[0] != adversarial[1]:
        begun_as = "with" if adversarial[0] else "without"
        raise UserError(
            f"{run} was begun {begun_as} a discriminator: use another --out, with --initial {run / WEIGHTS}"
        )


def refuse_to_lose(run: Path) -> None:
    """Of a folder with weights, but no checkpoint. Raises UserError when they are not those of a run that was killed
    while it wrote its first one: a model that was converted or exported, or whose checkpoints somebody has deleted."""
    if not any((run / CHECKPOINTS).glob(f"{TEMPORARY}*")):
        raise UserError(
            f"{run} holds a model that is finished, without a checkpoint to go on from: use another --out, with "
            f"--initial {run} to train it on"
        )
    if rank() == 0:
        say([f"{run} has weights but no checkpoint: it begins anew"])


def autoencoder_task(config: TokenizerConfig, data: EpisodeDataset) -> Task:
    """Raises UserError when the weights of LPIPS are wanted and missing."""
    share = Share.own(config.train.batch, config.train.accumulate)
    batches = frame_batches(data, config, share)
    autoencoder = Autoencoder(config.model)
    network = AutoencoderWithDiscriminator(autoencoder, Discriminator()) if config.adversarial_weight else autoencoder
    objective = Reconstruction(config, perceptual_distance(config))
    return Task(
        network, objective, lambda step: Frames(batches(step), is_judged(config, step), share), product=autoencoder
    )


def autoencoder_demand(config: TokenizerConfig, data: EpisodeDataset) -> Demand:
    size, frames = config.model.frame_size, [episode.frames for episode in data.episodes("train")]
    kept = min(sum(frames), max(frames) * videos_kept(data.episodes("train"), size))

    kinds = {is_judged(config, step) for step in (0, config.train.steps)}

    def hardest(rows: int) -> list[Frames]:
        frames = torch.zeros(rows, size, size, 3, dtype=torch.uint8)
        return [Frames(frames, adversarial) for adversarial in sorted(kinds)]

    return Demand(config.train.batch, hardest, 3 * size**2 * kept)


def perceptual_distance(config: TokenizerConfig) -> Lpips | None:
    """LPIPS where it is wanted, on the device of the training; it is no part of what is trained."""
    if not config.perceptual_weight:
        return None
    try:
        return Lpips.load("vgg").to(resolve_device(config.train.device))
    except UserError as error:
        raise UserError(f"{error}, or train without LPIPS: --perceptual-weight 0") from error


def world_model_task(config: WorldModelConfig, data: LatentDataset) -> Task:
    clips = config.train.batch // config.clip.windows
    if config.clip.interval > 1 and config.model.condition in ("action", "vector"):
        every = config.clip.interval
        left_out = f"with --clip.interval {every} a frame is not told the actions between it and the last"
        raise UserError(f"{left_out}: set --clip.interval 1, or --model.condition none")
    batches = clip_batches(data, config, Share.own(clips, config.train.accumulate, config.clip.windows))
    transformer = Transformer(config.model)

    def flops(inputs: Inputs) -> int:
        return training_flops(config.model, clips, inputs[LENGTHS][0].tolist(), config.resampled_context > 0)

    return Task(transformer, FrameFlowMatching(config), batches, product=transformer, flops=flops)


def take_action_range(transformer: Transformer, data: LatentDataset) -> None:
    """The range of numbers that a new run is told: of its own footage, whatever it starts from."""
    if transformer.config.condition == "vector":
        assert isinstance(transformer.condition, VectorEmbedding)
        transformer.condition.set_range(*data.action_range())


def world_model_demand(config: WorldModelConfig, data: LatentDataset) -> Demand:
    model, rows = config.model, config.train.batch // config.clip.windows
    shortest = min(episode.frames for episode in long_enough(data, config))
    lengths = (length_range(config, config.train.steps)[1] - 1,) * config.clip.windows
    told = {"none": None, "vector": torch.zeros(1, lengths[0], model.action_size)}
    conditions = told.get(model.condition, torch.zeros(1, lengths[0], dtype=torch.int64))

    def hardest(rows: int) -> list[Clips]:
        latents = torch.zeros(rows, lengths[0], *model.latent_shape)
        return [Clips(latents, None if conditions is None else conditions.repeat_interleave(rows, 0), lengths)]

    def flops_at(step: int) -> int:
        # The first that is drawn for a batch are its lengths.
        starts = draw_clip_starts(config, step, shortest, np.random.default_rng((config.train.seed, step)))
        return training_flops(model, rows, starts.lengths, config.resampled_context > 0)

    return Demand(rows, hardest, flops_at=flops_at)


def refuse_another_autoencoder(source: Path, kept: Path, begun: bool) -> None:
    """Raises UserError when the latents of a run are of another autoencoder than before, or of none."""
    if not (source / WEIGHTS).is_file():
        raise UserError(f"{source / WEIGHTS} is missing: encode the data again")
    if not begun:
        read_config(source / CONFIG)
    elif not (kept / WEIGHTS).is_file():
        raise UserError(f"{kept} is missing, of the autoencoder this run was trained with: copy it from {source}")
    elif sha256(source / WEIGHTS) != sha256(kept / WEIGHTS):
        raise UserError(f"{kept.parent} was trained on latents of another autoencoder: use another --out")


def keep_autoencoder(source: Path, kept: Path) -> None:
    """A world model carries the autoencoder its latents were made with, from its first step to its last."""
    for name in (CONFIG, WEIGHTS):
        write_atomically(kept / name, (source / name).read_bytes())
