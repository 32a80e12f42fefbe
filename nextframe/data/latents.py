"""Latents on disk: safetensors shards of many episodes, and one JSON index.

A shard holds `<episode>.latents` (bfloat16 [f, c, h, w], scaled) and `<episode>.actions` (int64 [f], or float32
[f, a] where actions are vectors), and maybe `<episode>.mirrored`: the latents of the frames mirrored left to right.
Clips are read by memory map at the offsets of the header: only the frames of the clip are touched, but the first time
that a process reads of an episode, when the whole of it is read against the checksum in the header.
"""

import dataclasses
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nextframe.data.episodes import ActionKind
from nextframe.data.remote import mirror_of
from nextframe.errors import UserError, reason_of
from nextframe.files import described, inside, plain_name, read_json, write_atomically, write_json

VERSION = 1
INDEX = "latents.json"
SHARD = "latents-{:05d}.safetensors"
EPISODES_PER_SHARD = 64
SUMS = "crc32"
"""In the header of a shard: a JSON text, the checksum of each tensor's bytes."""
SHARDS = 8
"""That are looked at to know how large the numbers of actions are."""
DTYPES = ("BF16", "I64", "F32")


@dataclass(frozen=True)
class LatentEpisode:
    """A line of the index: an episode, and the shard its latents are in."""

    name: str
    split: str
    frames: int
    shard: str
    psnr: float | None
    """Of the autoencoder's reconstruction, in dB; of the error pooled over every 16th frame. None: not known, of
    latents that came without their footage."""
    source: str = ""
    """`EpisodeDataset.digest` of the footage: tells other footage of the same name."""
    label: int | None = None
    """The class of the episode, a place in `LatentIndex.label_names`."""


@dataclass(frozen=True)
class LatentIndex:
    """`latents.json`"""

    autoencoder: str
    """sha256 of the autoencoder's weights."""
    shape: tuple[int, int, int]
    """Channels, rows, columns."""
    action_names: tuple[str, ...]
    fps: float
    episodes: tuple[LatentEpisode, ...] = ()
    shards: dict[str, int] = field(default_factory=dict)
    """Size in bytes of each file: tells one that was cut short."""
    action_kind: ActionKind = "id"
    label_names: tuple[str, ...] = ()
    mirrored: bool = False
    """Whether there are latents of the mirrored frames too."""


def write_shard(
    path: Path, episodes: dict[str, tuple[Tensor, Tensor]], mirrored: dict[str, Tensor] | None = None
) -> None:
    """`episodes`: name -> (latents [f, c, h, w], actions [f] or [f, a]); `mirrored`: name -> latents [f, c, h, w]"""
    tensors: dict[str, Tensor] = {}
    for name, (latents, actions) in episodes.items():
        kept = torch.float32 if actions.is_floating_point() else torch.int64
        tensors[f"{name}.latents"] = latents.to(torch.bfloat16).contiguous()
        tensors[f"{name}.actions"] = actions.to(kept).contiguous()
    for name, latents in (mirrored or {}).items():
        tensors[f"{name}.mirrored"] = latents.to(torch.bfloat16).contiguous()
    sums = {name: _sum_of(tensor) for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, {SUMS: json.dumps(sums)}))


def _sum_of(tensor: Tensor) -> str:
    """Tells bytes that have changed on the disk by themselves; nobody is meant to be kept from changing them."""
    # `contiguous` leaves the strides of a single number as they were, which may be 0; a copy has them anew.
    return f"{zlib.crc32(tensor.flatten().clone().view(torch.uint8).numpy().data):08x}"


def write_index(folder: Path, index: LatentIndex) -> None:
    content = {"version": VERSION, **dataclasses.asdict(index)}
    write_json(folder / INDEX, content, indent=1)


def read_index(folder: Path) -> LatentIndex:
    """Raises UserError when `latents.json` is missing, damaged or of another version."""
    path = folder / INDEX
    try:
        content = read_json(path)
        if content.pop("version") != VERSION:
            raise UserError(f"{path} was written by another version of nextframe: delete it and encode the data again")
        episodes = tuple(_parse_episode(entry) for entry in content.pop("episodes"))
        content["shape"], content["action_names"] = tuple(content["shape"]), tuple(content["action_names"])
        content["label_names"] = tuple(content.get("label_names", ()))
        content["shards"] = dict(content.get("shards", {}))
        named = {*content["shards"], *(episode.shard for episode in episodes)}
        if outside := [name for name in named if not plain_name(name)]:
            raise ValueError(f"{outside[0][:200]!r} is outside its folder")
        index = LatentIndex(**content, episodes=episodes)
        if index.action_kind not in get_args(ActionKind) or not isinstance(index.mirrored, bool):
            raise ValueError(f"action_kind {index.action_kind!r}, mirrored {index.mirrored!r}")
        for episode in episodes:
            if episode.label is not None and not 0 <= episode.label < len(index.label_names):
                raise ValueError(f"label {episode.label} of episode {episode.name}")
        return index
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} holds no latents: it {described(folder)}; latents are made by nextframe encode"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): restore it, or encode into a new folder") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({reason_of(error)}): delete it and encode the data again") from None


def still_there(folder: Path, listed: LatentIndex, now: Mapping[str, tuple[str, str, int | None]]) -> LatentIndex:
    """The index without episodes whose shard is missing or cut short, or that are not what they are `now`.

    `now`: by name, the digest of what they were made from, their split and their label. Others are left alone.
    """
    paths = {shard: folder / shard for shard in listed.shards}
    whole = {shard for shard, path in paths.items() if path.is_file() and path.stat().st_size == listed.shards[shard]}
    episodes = tuple(
        episode
        for episode in listed.episodes
        if episode.shard in whole and now.get(episode.name) in (None, (episode.source, episode.split, episode.label))
    )
    used = {episode.shard for episode in episodes}
    shards = {shard: size for shard, size in listed.shards.items() if shard in used}
    return replace(listed, episodes=episodes, shards=shards)


def new_shards(listed: LatentIndex) -> Iterator[str]:
    """Names for shards; never one that the index on disk still lists."""
    return (name for number in range(10**5) if (name := SHARD.format(number)) not in listed.shards)


def with_shard(folder: Path, index: LatentIndex, entries: Sequence[LatentEpisode]) -> LatentIndex:
    """The index with the episodes of a shard that has been written; it is on disk then."""
    shard = entries[0].shard
    shards = {**index.shards, shard: (folder / shard).stat().st_size}
    index = replace(index, episodes=(*index.episodes, *entries), shards=shards)
    write_index(folder, index)
    return index


def remove_unlisted(folder: Path, listed: LatentIndex, index: LatentIndex) -> None:
    """Delete the shards that were `listed` and are not in the index any more."""
    for shard in listed.shards.keys() - index.shards.keys():
        (folder / shard).unlink(missing_ok=True)


def _parse_episode(entry: dict[str, Any]) -> LatentEpisode:
    episode = LatentEpisode(**entry)
    if not plain_name(episode.name):
        raise ValueError(f"name {str(episode.name)[:200]!r} of an episode")
    if not all(isinstance(text, str) for text in (episode.split, episode.shard, episode.source)):
        raise TypeError(f"names of episode {episode.name}")
    if not isinstance(episode.frames, int) or episode.frames < 1:
        raise TypeError(f"frames of episode {episode.name}")
    if episode.label is not None and type(episode.label) is not int:  # True is an int, and no label
        raise TypeError(f"label of episode {episode.name}")
    return episode


class Shard:
    """One memory-mapped safetensors file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.open("rb").close()  # safetensors says of all that cannot be opened that it is missing
            self._file = safe_open(path, "pt")
            self._names = set(self._file.keys())
            sums = json.loads((self._file.metadata() or {}).get(SUMS, "{}"))  # made by other hands it may have none
            self._unread: dict[str, str] = dict(sums)
        except FileNotFoundError:
            raise UserError(f"{path} is missing: encode the data again") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): encode the data again") from None
        except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self._broken(f"is damaged ({reason_of(error)})") from None

    def read(self, name: str, start: int, stop: int, interval: int = 1) -> Tensor:
        """Rows start, start + interval ... below stop of one tensor. Raises UserError where it is not as written."""
        rows = self._file.get_slice(name) if name in self._names else None
        if rows is None or (rows.get_shape() or [0])[0] < stop:
            raise self._broken(f"holds less of {name} than {INDEX} says")
        if rows.get_dtype() not in DTYPES:
            raise self._broken(f"holds {name} as {rows.get_dtype()!r}")
        if (told := self._unread.get(name)) is not None:
            if _sum_of(self._file.get_tensor(name)) != told:
                raise self._broken(f"is damaged (checksum of {name})")
            self._unread.pop(name, None)  # another thread may have read it too
        return rows[start:stop][::interval].clone()

    def _broken(self, how: str) -> UserError:
        return UserError(f"{self.path} {how}: delete it and encode the data again")


def _bounds(numbers: np.ndarray) -> tuple[float, float]:
    """A range of some width that holds these numbers, but for the rarest."""
    if not len(numbers):
        return -1.0, 1.0
    values, counts = np.unique(numbers, return_counts=True)
    usual = values[counts.argmax()]
    if len(values) == 1:
        margin = max(1.0, 0.001 * abs(usual))  # more than float32 rounds off
        return usual - margin, usual + margin
    if counts.max() <= max(1, len(numbers) / 100):  # none is usual
        usual = np.median(numbers)
    low, high = np.quantile(numbers[numbers != usual], (0.01, 0.99))
    return min(low, usual), max(high, usual)


class LatentDataset:
    """The latent episodes of one folder."""

    def __init__(self, folder: Path) -> None:
        """`folder`: here, or in object storage; then it is fetched, autoencoder and all, as it is read."""
        self._mirror = mirror_of(folder, INDEX)
        self.folder = folder if self._mirror is None else self._mirror.folder
        self.index = read_index(self.folder)
        if self._mirror is not None:
            self._mirror.fetch_folder("autoencoder")
        self._shards: dict[str, Shard] = {}

    def episodes(self, split: str) -> list[LatentEpisode]:
        found = [episode for episode in self.index.episodes if episode.split == split]
        if not found:
            raise UserError(f"{self.folder} has no episodes of the split {split!r}")
        return found

    def action_range(self) -> tuple[Tensor, Tensor]:
        """From where to where each number of the training footage's vectors goes: two float32 [a], the first below.

        But for the rarest: a hundredth at either end of those that are not what the number usually is, so a key that
        is hardly ever pressed counts. Of eight shards, if there are more: they may have to be fetched.
        """
        episodes = self.episodes("train")
        shards = list(dict.fromkeys(episode.shard for episode in episodes))
        looked_at = set(shards[:: -(-len(shards) // SHARDS)])
        told = torch.cat([self.actions(episode) for episode in episodes if episode.shard in looked_at]).numpy()
        bounds = [_bounds(column[np.isfinite(column)].astype(np.float64)) for column in told.T]
        low, high = torch.tensor(bounds, dtype=torch.float32).unbind(dim=1)
        return low, high

    def _shard(self, episode: LatentEpisode) -> Shard:
        if episode.shard not in self._shards:
            if self._mirror is not None:
                self._mirror.fetch(episode.shard)
            try:
                path = inside(self.folder, episode.shard)
            except (ValueError, OSError) as error:
                raise UserError(f"{self.folder / INDEX} {error}") from error
            self._shards[episode.shard] = Shard(path)
        return self._shards[episode.shard]

    def latents(
        self, episode: LatentEpisode, start: int, frames: int, interval: int = 1, mirrored: bool = False
    ) -> Tensor:
        """bfloat16 [frames, c, h, w]: every `interval`-th frame from `start`, or that frame mirrored left to right."""
        stop = start + (frames - 1) * interval + 1
        name = "mirrored" if mirrored else "latents"
        return self._shard(episode).read(f"{episode.name}.{name}", start, stop, interval)

    def actions(self, episode: LatentEpisode) -> Tensor:
        """The action taken at each frame of the whole episode: int64 [f], or float32 [f, a] where they are vectors.

        Raises UserError where the shard holds another kind than the index says.
        """
        shard, vector = self._shard(episode), self.index.action_kind != "id"
        actions = shard.read(f"{episode.name}.actions", 0, episode.frames)
        size = (len(self.index.action_names),) if vector else ()
        if actions.dtype != (torch.float32 if vector else torch.int64) or actions.shape[1:] != size:
            what = f"{episode.name}.actions as {actions.dtype} {list(actions.shape)}, unlike what {INDEX} says"
            raise UserError(f"{shard.path} holds {what}: delete it and encode the data again")
        return actions
