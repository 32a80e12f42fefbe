"""Footage to latents: once, before a world model is trained on them."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

import torch

from nextframe.autoencoder import Autoencoder, decode_video, encode_video
from nextframe.checkpoint import AUTOENCODER, CONFIG, WEIGHTS, write_weights
from nextframe.data.episodes import DatasetInfo, EpisodeDataset, EpisodeInfo
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
    write_index,
    write_shard,
)
from nextframe.devices import matrix_precision, resolve_devices, resolve_precision
from nextframe.errors import UserError
from nextframe.files import refuse_taken, sha256, sole_writer, sweep, write_atomically
from nextframe.metrics.image import pooled_psnr
from nextframe.progress import Advance, progress, silent
from nextframe.runs import load_autoencoder
from nextframe.stopping import interruptions, stop_as
from nextframe.workers import end_with_parent

SCALE_EPISODES = 32
"""Training episodes whose latents say what unit variance is."""
SHARD_SECONDS = 60.0
"""After so long a shard is written, full or not: whoever is stopped has lost no more."""
SHARED = ("fps", "action_kind", "action_names", "label_names")
"""What `DatasetInfo` and `LatentIndex` say alike."""


def encode(run: Path, data: Path, out: Path, device: str = "auto", mirrored: bool = False) -> LatentIndex:
    """Encode every episode of `data` with the autoencoder in `run`; goes on where an earlier call stopped.

    The latents are scaled to unit variance, or by the scale that the autoencoder has already. `out` gets a copy of the
    autoencoder with that scale: what the latents mean is never apart from them. Episodes whose latents were lost, or
    whose footage has changed, are encoded again. `device`: several share the work, a process each, `cuda:0,cuda:1`;
    `auto` is every GPU.
    `mirrored`: encode every frame mirrored left to right too, for `ClipConfig.mirror`; a mirrored latent is not the
    latent of the mirrored frame. Raises UserError when footage and autoencoder do not fit together, or `out` holds
    latents of others, or was made with another `mirrored`.
    """
    if not (out / INDEX).exists():
        refuse_taken(out, "latents")
    dataset, devices = EpisodeDataset.open(data), resolve_devices(device)
    target = devices[0]
    autoencoder = load_autoencoder(run, target)
    if dataset.info.size != autoencoder.config.frame_size:
        side = autoencoder.config.frame_size
        raise UserError(f"{data} has {dataset.info.size} pixels a side, the autoencoder in {run} takes {side}")
    if not dataset.episodes():
        raise UserError(f"{data} has no episodes yet: record or import some")
    with sole_writer(out), matrix_precision(resolve_precision("auto", target), target):
        if not (out / INDEX).exists():
            if autoencoder.scale == 1:  # not measured; a published one has that its transformers were trained with
                autoencoder.scale.fill_(measured_scale(autoencoder, dataset))
            begin(autoencoder, run, dataset.info, out, mirrored)
        _check(read_index(out), run, dataset, out, mirrored)
        for folder in (out, out / AUTOENCODER):
            sweep(folder)
        return encode_missing(dataset, out, devices)


def begin(autoencoder: Autoencoder, run: Path, info: DatasetInfo, out: Path, mirrored: bool) -> None:
    """Write the autoencoder, with its scale, and an empty index."""
    write_atomically(out / AUTOENCODER / CONFIG, (run / CONFIG).read_bytes())
    write_weights(out / AUTOENCODER / WEIGHTS, autoencoder.state_dict())
    index = LatentIndex(
        autoencoder=sha256(run / WEIGHTS),
        shape=autoencoder.config.latent_shape,
        mirrored=mirrored,
        **{name: getattr(info, name) for name in SHARED},
    )
    write_index(out, index)


def _check(index: LatentIndex, run: Path, dataset: EpisodeDataset, out: Path, mirrored: bool) -> None:
    """Raises UserError when the latents in `out` are not of this autoencoder and this footage, `mirrored` or not."""
    check_weights(index, run, out)
    pairs = {name: (getattr(index, name), getattr(dataset.info, name)) for name in SHARED}
    if changed := [f"{name} {was}, now {now}" for name, (was, now) in pairs.items() if was != now]:
        unlike = f"{out} holds latents of footage unlike {dataset.folder} ({', '.join(changed)})"
        raise UserError(f"{unlike}: use another --out")
    if index.mirrored != mirrored:
        made, way_out = ("with", "add it") if index.mirrored else ("without", "leave it out")
        raise UserError(f"{out} was made {made} --mirrored: {way_out}, or use another --out")
    sources = {episode.name: episode.source for episode in index.episodes}
    shared = [info for info in dataset.episodes() if info.name in sources]
    # One changed episode has been recorded again; when all have changed, this is other footage, or another folder.
    if shared and all(sources[info.name] != dataset.digest(info) for info in shared):
        raise UserError(f"{out} holds latents of other footage than that now in {dataset.folder}: use another --out")


def check_weights(index: LatentIndex, run: Path, out: Path) -> None:
    """Raises UserError when the latents in `out` are not of the autoencoder in `run`."""
    if index.autoencoder != sha256(run / WEIGHTS):
        raise UserError(f"{out} holds latents of other weights than those now in {run}: use another --out")


def measured_scale(autoencoder: Autoencoder, dataset: EpisodeDataset) -> float:
    """1 / standard deviation of the unscaled latents, over a sample of the training episodes."""
    infos = dataset.episodes("train") or dataset.episodes()
    sample = infos[:: max(1, len(infos) // SCALE_EPISODES)]
    latents = []
    with progress("measuring how far latents vary", len(sample)) as advance:
        for info in sample:
            latents.append(encode_video(autoencoder, torch.from_numpy(dataset.read(info).video[::8])))
            advance()
    return float(autoencoder.scale / torch.cat(latents).std())


def encode_missing(dataset: EpisodeDataset, out: Path, devices: Sequence[torch.device]) -> LatentIndex:
    """Encode, shard by shard, the episodes of which the index in `out` lists no usable latents."""
    listed = read_index(out)
    now = {info.name: (dataset.digest(info), info.split, info.label) for info in dataset.episodes()}
    index, names = still_there(out, listed, now), new_shards(listed)
    done = {episode.name for episode in index.episodes}
    missing = [info for info in dataset.episodes() if info.name not in done]
    with progress(f"encoding {dataset.folder.name}", len(done) + len(missing), len(done)) as advance:
        if len(devices) == 1:
            autoencoder = load_autoencoder(out / AUTOENCODER, devices[0])
            made = _encode_in_turn(autoencoder, dataset, missing, out, names, listed.mirrored, advance)
        else:
            made = _encode_side_by_side(dataset, missing, out, names, listed.mirrored, devices, advance)
        for entries in made:
            index = with_shard(out, index, entries)
    remove_unlisted(out, listed, index)
    return index


def _encode_in_turn(
    autoencoder: Autoencoder,
    dataset: EpisodeDataset,
    missing: Sequence[EpisodeInfo],
    out: Path,
    names: Iterator[str],
    mirrored: bool,
    advance: Advance,
) -> Iterator[list[LatentEpisode]]:
    """A shard at a time. Who is asked to stop finishes the episode, and keeps what there is."""
    left = list(missing)
    with interruptions() as interrupted:
        while left:
            shard, path = left[:EPISODES_PER_SHARD], out / next(names)
            entries = encode_shard(autoencoder, dataset, shard, path, mirrored, advance, SHARD_SECONDS, interrupted)
            left = left[len(entries) :]
            yield entries
            if stop := interrupted():
                raise stop_as(stop)


def encode_shard(
    autoencoder: Autoencoder,
    dataset: EpisodeDataset,
    infos: Sequence[EpisodeInfo],
    path: Path,
    with_mirrored: bool,
    advance: Advance,
    seconds: float,
    interrupted: Callable[[], object] = lambda: False,
) -> list[LatentEpisode]:
    """Encode episodes into a file, all or as many as `seconds` and interruptions leave time for, one at least.

    Returns their lines for the index.
    """
    until = time.monotonic() + seconds
    encoded, mirrored, entries = {}, {}, []
    for info in infos:
        episode = dataset.read(info)
        video = torch.from_numpy(episode.video)
        latents = encode_video(autoencoder, video)
        encoded[info.name] = (latents.cpu(), torch.from_numpy(episode.actions))
        if with_mirrored:
            mirrored[info.name] = encode_video(autoencoder, video.flip(2)).cpu()
        psnr = round(pooled_psnr(decode_video(autoencoder, latents[::16]).numpy(), episode.video[::16]), 2)
        source = dataset.digest(info)
        entries.append(LatentEpisode(info.name, info.split, info.frames, path.name, psnr, source, info.label))
        advance(1, f"{psnr:.1f} dB")
        if interrupted() or time.monotonic() > until:
            break
    write_shard(path, encoded, mirrored)
    return entries


def _encode_side_by_side(
    dataset: EpisodeDataset,
    missing: Sequence[EpisodeInfo],
    out: Path,
    names: Iterator[str],
    mirrored: bool,
    devices: Sequence[torch.device],
    advance: Advance,
) -> Iterator[list[LatentEpisode]]:
    """A process for each device, a shard at a time; in the order in which they are done."""
    size = max(1, min(EPISODES_PER_SHARD, -(-len(missing) // len(devices))))  # few are shared too
    work = [missing[first : first + size] for first in range(0, len(missing), size)]
    context, others = get_context("spawn"), active_children()
    free: Any = context.Queue()
    for device in devices:
        free.put(str(device))
    with ProcessPoolExecutor(len(devices), context, _begin_worker, (free, dataset, out)) as pool:
        try:

            def begun(infos: Sequence[EpisodeInfo]) -> Future[list[LatentEpisode]]:
                return pool.submit(_encode_in_worker, infos, out / next(names), mirrored, SHARD_SECONDS)

            at_work = {begun(infos): infos for infos in work}
            while at_work:
                done, _ = wait(at_work, return_when=FIRST_COMPLETED)
                for future in done:
                    infos, entries = at_work.pop(future), future.result()
                    if left := infos[len(entries) :]:
                        at_work[begun(left)] = left
                    advance(len(entries), f"{entries[-1].psnr:.1f} dB")
                    yield entries
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                if process not in others:
                    process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise UserError("a process that was encoding ended early: see above, and run it again") from error
            raise


_worker: dict[str, Any] = {}
"""In a process of `_encode_side_by_side`: what it keeps from shard to shard."""


def _begin_worker(free: Any, dataset: EpisodeDataset, out: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started it
    recorder = parent_process()
    assert recorder is not None and recorder.pid is not None  # this is a worker
    end_with_parent(recorder.pid)
    device = torch.device(free.get())
    _worker.update(autoencoder=load_autoencoder(out / AUTOENCODER, device), dataset=dataset)


def _encode_in_worker(infos: Sequence[EpisodeInfo], path: Path, mirrored: bool, seconds: float) -> list[LatentEpisode]:
    autoencoder: Autoencoder = _worker["autoencoder"]
    device = next(autoencoder.parameters()).device
    with matrix_precision(resolve_precision("auto", device), device):
        return encode_shard(autoencoder, _worker["dataset"], infos, path, mirrored, silent, seconds)
