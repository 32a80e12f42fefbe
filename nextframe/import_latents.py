"""Latents that somebody has made already, one file per video, become shards to train on.

The published code's way of training on DMLab and Minecraft: lists of `latent_path` (a tensor [f, c, h, w], as the
autoencoder gives it, not scaled) and `action_path`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nextframe.checkpoint import AUTOENCODER, WEIGHTS, read_weights
from nextframe.data.actions import Vocabulary, read_actions, vocabulary, without_way_out
from nextframe.data.episodes import DatasetInfo
from nextframe.data.latents import (
    EPISODES_PER_SHARD,
    INDEX,
    LatentEpisode,
    LatentIndex,
    new_shards,
    read_index,
    remove_unlisted,
    still_there,
    with_shard,
    write_shard,
)
from nextframe.data.sources import Source, classes, divided, find_sources, tables_of
from nextframe.data.tensors import tensors_of
from nextframe.encode import SCALE_EPISODES, begin, check_weights
from nextframe.errors import UserError, reason_of
from nextframe.files import refuse_taken, sha256, sole_writer, sweep
from nextframe.import_footage import USUAL_FPS, check_fps_and_share
from nextframe.progress import progress
from nextframe.runs import load_autoencoder

WAY_OUT = "mend it, or take it out of the list"


def import_latents(
    place: Path,
    run: Path,
    out: Path,
    fps: float | None = None,
    split: str | None = None,
    test_share: float = 0.1,
    use_actions: bool = True,
    action_names: tuple[str, ...] = (),
) -> LatentIndex:
    """Import the latents that the list `place` names, made by the autoencoder in `run`, into the folder `out`.

    They are scaled as `encode` scales its own, and `out` gets a copy of the autoencoder with that scale. Goes on where
    an earlier call stopped, and takes latents again that have changed since. `split`, `test_share`, `use_actions`,
    `action_names`: as in `import_footage`. Raises UserError when a file is missing, damaged, or not of this
    autoencoder's shape, or has not an action a frame.
    """
    check_fps_and_share(fps, test_share)
    if not (out / INDEX).exists():
        refuse_taken(out, "latents")
    sources, words = _listed(place, use_actions, action_names)
    autoencoder = load_autoencoder(run, torch.device("cpu"))
    shape = autoencoder.config.latent_shape
    labels, numbers = classes(sources, numbered=True)
    info = DatasetInfo(fps or USUAL_FPS, autoencoder.config.frame_size, words.names, {}, words.kind, labels)
    with sole_writer(out):
        if not (out / INDEX).exists():
            if autoencoder.scale == 1:
                autoencoder.scale.fill_(_measured_scale(sources, shape))
            begin(autoencoder, run, info, out, mirrored=False)
        index = read_index(out)
        check_weights(index, run, out)
        if (index.action_names, index.action_kind, index.label_names) != (words.names, words.kind, labels):
            raise UserError(f"{out} holds latents of other actions or labels: use another --out")
        if fps not in (None, index.fps):
            raise UserError(
                f"{out} holds latents of {index.fps:g} frames a second: leave out --fps, or use another --out"
            )
        sweep(out)
        scale = read_weights(out / AUTOENCODER / WEIGHTS)["scale"]
        listed, known = index, {episode.name: episode.split for episode in index.episodes}
        sources = [
            replace(source, split=split or known.get(source.name) or source.split)  # it keeps the side it was given
            for source in divided(sources, test_share, known)
        ]
        now = {source.name: _now(source, numbers) for source in sources if source.name in known}
        index = still_there(out, listed, now)
        done, names = {episode.name for episode in index.episodes}, new_shards(listed)
        missing = [source for source in sources if source.name not in done]
        with progress(f"import {place.name}", len(sources), len(sources) - len(missing)) as advance:
            for first in range(0, len(missing), EPISODES_PER_SHARD):
                shard = next(names)
                content: dict[str, tuple[Tensor, Tensor]] = {}
                entries = []
                for source in missing[first : first + EPISODES_PER_SHARD]:
                    latents = _read(source, shape).float() * scale
                    content[source.name] = (latents, _actions(source, words, len(latents)))
                    digest, among, label = _now(source, numbers)
                    entries.append(LatentEpisode(source.name, among, len(latents), shard, None, digest, label))
                    advance()
                write_shard(out / shard, content)
                index = with_shard(out, index, entries)
        remove_unlisted(out, listed, index)
    return index


def _listed(place: Path, use_actions: bool, action_names: tuple[str, ...]) -> tuple[list[Source], Vocabulary]:
    """What the list names, and what its actions have in common. Raises UserError where it is no list of latents."""
    sources = find_sources(place)
    if without := [source for source in sources if source.latents is None]:
        raise UserError(f"{place} names no `latent_path` of {without[0].name}: leave out --autoencoder")
    try:
        words = vocabulary(tables_of(sources), action_names) if use_actions else Vocabulary()
    except UserError as error:
        raise UserError(f"{without_way_out(error)}: {WAY_OUT}") from error
    if words.kind != "none" and (bare := [source.name for source in sources if source.actions is None]):
        raise UserError(f"{place} names no `action_path` of {bare[0]}, others have one: add it, or give --no-actions")
    return sources, words


def _measured_scale(sources: Sequence[Source], shape: tuple[int, int, int]) -> float:
    """1 / standard deviation of the latents, over a sample of them."""
    sample = sources[:: max(1, len(sources) // SCALE_EPISODES)]
    return float(1 / torch.cat([_read(source, shape)[::8].flatten() for source in sample]).std())


def _now(source: Source, numbers: Mapping[str | None, int | None]) -> tuple[str, str, int | None]:
    """The digest, the split and the label of a source. Raises UserError when its latents are not there."""
    assert source.split is not None and source.latents is not None
    try:
        return sha256(source.latents), source.split, numbers[source.label]
    except OSError as error:
        raise UserError(f"{source.latents} cannot be read ({reason_of(error)}): {WAY_OUT}") from error


def _read(source: Source, shape: tuple[int, int, int]) -> Tensor:
    """[f, c, h, w], as it was saved; nothing but tensors is ever unpickled."""
    path = source.latents
    assert path is not None
    try:
        latents = tensors_of(path)
    except ValueError as error:
        raise UserError(f"{path} cannot be read as latents ({error}): {WAY_OUT}") from error
    if not isinstance(latents, Tensor) or not latents.is_floating_point() or tuple(latents.shape[1:]) != shape:
        found = list(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise UserError(
            f"{path} holds {found}, the autoencoder makes [frames, {shape[0]}, {shape[1]}, {shape[2]}]: {WAY_OUT}"
        )
    if not len(latents) or not latents.isfinite().all():
        raise UserError(f"{path} holds {'no frames' if not len(latents) else 'numbers that are not finite'}: {WAY_OUT}")
    return latents


def _actions(source: Source, words: Vocabulary, frames: int) -> Tensor:
    table = read_actions(source.actions) if words.kind != "none" and source.actions is not None else None
    if table is not None and len(table) != frames:
        raise UserError(f"{table.path} has {len(table)} rows, {source.latents} has {frames} frames: {WAY_OUT}")
    return torch.from_numpy(words.actions(table, np.arange(frames)))
