"""Episodes on disk: a folder with `dataset.json` and, per episode, a lossless video and an npz of what goes with it.

Files appear whole or not at all, and `dataset.json` lists only files that are there, so a writer may be killed at any
moment. Everything a reader meets was written by somebody else: it is checked, and never unpickled.
"""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from nextframe.data.arrays import check_room, read_bytes, read_npz
from nextframe.data.remote import Mirror, mirror_of
from nextframe.data.video import VIDEO_ERRORS, decoded, lossless_mp4
from nextframe.errors import UserError, reason_of
from nextframe.files import (
    TEMPORARY,
    can_be_told,
    described,
    inside,
    new_file,
    plain_name,
    read_json,
    state_of,
    write_atomically,
)

ActionKind = Literal["id", "vector", "none"]
"""An action is the number of its name, or a vector of numbers; none: footage without, kept as vectors of no numbers."""
VERSION = 1
INDEX = "dataset.json"
AGAIN = "record or import this episode again"
DELETE = f"delete it, and {AGAIN}"  # what is there is not recorded again


@dataclass(frozen=True)
class DatasetInfo:
    """What all episodes of a dataset share.

    fps: frames per second. size: height and width in pixels. action_names: by action number; of actions that are
    vectors, the names of their numbers. source: how the episodes were made, anything JSON can hold. label_names: the
    classes that an episode may be of, by label. Raises ValueError for an action_kind that there is not, names that do
    not go with it or cannot be printed, and an fps or a size that is not above 0.
    """

    fps: float
    size: int
    action_names: tuple[str, ...]
    source: dict[str, Any]
    action_kind: ActionKind = "id"
    label_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (0 < self.fps < math.inf and self.size > 0):
            raise ValueError(f"fps {self.fps}, size {self.size}: give numbers above 0")
        if self.action_kind not in get_args(ActionKind):
            raise ValueError(f"action_kind {self.action_kind!r}: choose {' or '.join(get_args(ActionKind))}")
        if self.action_kind == "vector" and not self.action_names:
            raise ValueError("action_kind 'vector' needs action_names: one for each number of an action")
        if self.action_kind == "none" and self.action_names:
            raise ValueError("action_kind 'none' has no action_names")
        if strange := [name for name in (*self.action_names, *self.label_names) if not can_be_told(name)]:
            raise ValueError(f"{strange[0][:200]!r} is no name")

    def action_texts(self, actions: np.ndarray) -> list[str]:
        """What is written under each frame: the name of its action, or the numbers of one that is a vector."""
        if self.action_kind == "id":
            return [self.action_names[action] for action in actions]
        return [" ".join(f"{number:.2g}" for number in action) for action in actions]


@dataclass(frozen=True)
class EpisodeInfo:
    """One line of the index. files: role ("video", "data") -> path inside the folder; sha256: role -> digest.

    label: the class of the whole episode, a place in `DatasetInfo.label_names`.
    """

    name: str
    split: str
    frames: int
    files: dict[str, str]
    sha256: dict[str, str]
    meta: dict[str, Any] = field(default_factory=dict)
    label: int | None = None


@dataclass(frozen=True)
class Episode:
    """video: uint8 [f, h, w, 3]. actions: int64 [f], or float32 [f, a] in a dataset of vectors (a is 0 in one without
    actions); actions[t] is taken at frame t and leads to frame t + 1. extras: arrays by name, for instance pose
    float32 [f, 3].
    """

    video: np.ndarray
    actions: np.ndarray
    extras: dict[str, np.ndarray] = field(default_factory=dict)


class EpisodeDataset:
    """A folder of episodes. Make one with `open` or `create`; one at a time may write to a folder."""

    def __init__(self, folder: Path, info: DatasetInfo, episodes: dict[str, EpisodeInfo], mirror: Mirror | None = None):
        self.folder = folder
        self.info = info
        self._episodes = episodes
        self._mirror = mirror
        self._known = {state_of(folder / INDEX)}

    @classmethod
    def open(cls, folder: Path) -> Self:
        """An existing dataset, here or in object storage.

        Raises UserError when `dataset.json` is missing, damaged or of another version.
        """
        mirror = mirror_of(folder, INDEX)
        folder = Path(folder) if mirror is None else mirror.folder
        path = folder / INDEX
        try:
            document = read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            made = "footage is made by nextframe record or import"
            raise UserError(f"{folder} is not a dataset: it {described(folder)}; {made}") from None
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({reason_of(error)}): restore it, or record into a new folder"
            ) from error
        try:
            if document["version"] != VERSION:
                raise UserError(
                    f"{path} has version {str(document['version'])[:20]}, this nextframe reads {VERSION}: update it"
                )
            info = _parse_dataset_info(document)
            episodes = {entry["name"]: parse_episode_info(entry) for entry in document["episodes"]}
            for episode in episodes.values():
                if not _is_label(episode.label, info):
                    raise ValueError(f"label {episode.label} of episode {episode.name}")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{path} is damaged ({repr(error)[:300]}): restore it, or record into a new folder"
            ) from error
        return cls(folder, info, episodes, mirror)

    @classmethod
    def create(cls, folder: Path, info: DatasetInfo) -> Self:
        """A new dataset, or an existing one with the same info, to go on with.

        Raises UserError when the folder holds something else, or was made with other settings.
        """
        folder = Path(folder)
        if (folder / INDEX).exists():
            dataset = cls.open(folder)
            if difference := _difference(asdict(dataset.info), asdict(info)):
                raise UserError(f"{folder} was made with other settings ({difference}): use those, or a new folder")
            return dataset
        # A writer that ended before its first episode may have left a part of the index, and folders for episodes.
        if folder.exists() and (not folder.is_dir() or any(_is_somebodys(path) for path in folder.rglob("*"))):
            raise UserError(f"{folder} is there already and is not a dataset: choose a new folder")
        dataset = cls(folder, info, {})
        dataset.save()
        return dataset

    def episodes(self, split: str | None = None) -> list[EpisodeInfo]:
        """The episodes of one split, or all, by name."""
        return [info for _, info in sorted(self._episodes.items()) if split in (None, info.split)]

    def read(self, info: EpisodeInfo) -> Episode:
        """Load an episode. Raises UserError naming the file that is missing, damaged, or not what the index says."""
        video_path = self._path(info, "video")
        data_path = self._path(info, "data") if "data" in info.files else video_path
        data = read_npz(data_path, AGAIN)
        if video_path.suffix == ".npz":
            video = data if video_path == data_path else read_npz(video_path, AGAIN)
            if "video" not in video:
                raise UserError(f"{video_path} has no array `video`: {DELETE}")
            video = video["video"]
        else:
            video = _read_video(video_path, info.frames, self.info.size)
        if "actions" not in data:
            raise UserError(f"{data_path} has no array `actions`: {DELETE}")
        actions = data.pop("actions")
        data.pop("video", None)
        expected = (info.frames, self.info.size, self.info.size, 3)
        if video.dtype != np.uint8 or video.shape != expected:
            raise UserError(f"{video_path} holds {video.dtype} {video.shape}, not uint8 {expected}: {DELETE}")
        if actions.shape != (shape := _action_shape(self.info, info.frames)):
            raise UserError(f"{data_path} has actions of shape {actions.shape}, not {shape}: {DELETE}")
        return Episode(video, _kept_actions(actions, self.info, data_path), data)

    def verify(self, info: EpisodeInfo) -> None:
        """Compare an episode's files with their digests. Raises UserError naming the first that differs."""
        for role, digest in info.sha256.items():
            path = self._path(info, role)
            if _sha256(path) != digest:
                raise UserError(f"{path} is not the file that was recorded (sha256 differs): {DELETE}")

    def is_there(self, info: EpisodeInfo) -> bool:
        """Whether the files of an episode exist; what is in them is for `verify`."""
        return bool(info.files) and all(self._path(info, role).is_file() for role in info.files)

    def digest(self, info: EpisodeInfo) -> str:
        """sha256 over those of an episode's files: another one means other footage, whatever its name.

        They are taken from the index; a file that has none there is read. Raises UserError where that fails.
        """
        known = {role: info.sha256.get(role) or _sha256(self._path(info, role)) for role in sorted(info.files)}
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def add(
        self, name: str, split: str, episode: Episode, meta: dict[str, Any], label: int | None = None
    ) -> EpisodeInfo:
        """Write an episode and list it; `save` makes the list last. Raises as `write_episode` does."""
        info = write_episode(self.folder, self.info, name, split, episode, meta, label)
        self.register(info)
        return info

    def register(self, info: EpisodeInfo) -> None:
        """List an episode that `write_episode` has written, maybe in another process."""
        self._episodes[info.name] = info

    def remove(self, infos: list[EpisodeInfo]) -> None:
        """Take episodes off the list, then delete their files. Raises UserError as `save` does."""
        if infos:
            for info in infos:
                del self._episodes[info.name]
            self.save()
        for path in [self._path(info, role) for info in infos for role in info.files]:
            path.unlink(missing_ok=True)

    def save(self) -> None:
        """Write `dataset.json`; who is interrupted may do so again. Raises UserError when the disk is full, or somebody
        else has written it meanwhile; the old one is then still there."""
        index = self.folder / INDEX
        if (now := state_of(index)) not in self._known:
            raise UserError(f"{index} was written by another meanwhile: give every writer its own folder")
        document = {"version": VERSION, **asdict(self.info), "episodes": [asdict(info) for info in self.episodes()]}
        with new_file(index) as temporary:
            temporary.write_bytes(json.dumps(document, indent=1).encode())
            self._known = {now, state_of(temporary)}

    def _path(self, info: EpisodeInfo, role: str) -> Path:
        if role not in info.files:
            raise UserError(f"{self.folder / INDEX} names no {role} file for {info.name}: record it again")
        try:
            path = inside(self.folder, info.files[role])
        except (ValueError, OSError) as error:
            raise UserError(f"{self.folder / INDEX} {error}") from error
        if self._mirror is not None:
            self._mirror.fetch(info.files[role], info.sha256.get(role))
        return path


def holds_dataset(folder: Path) -> bool:
    """Whether a dataset of ours lies in a folder here; a file of that name may be somebody else's."""
    try:
        document = read_json(folder / INDEX)
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and {"version", "fps", "size", "action_names", "episodes"} <= document.keys()


def _is_somebodys(path: Path) -> bool:
    return not path.is_dir() and not path.name.startswith(TEMPORARY)


def _parse_dataset_info(document: dict[str, Any]) -> DatasetInfo:
    # Two may be left out: without them actions are ids, and there are no labels.
    actions, labels = document["action_names"], document.get("label_names", [])
    for key, names in (("action_names", actions), ("label_names", labels)):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError(key)
    fps, size, kind = float(document["fps"]), int(document["size"]), document.get("action_kind", "id")
    return DatasetInfo(fps, size, tuple(actions), dict(document["source"]), kind, tuple(labels))


def parse_episode_info(entry: dict[str, Any]) -> EpisodeInfo:
    """Undo `asdict`. Raises KeyError, TypeError or ValueError when a field is missing, unknown or of a wrong type."""
    info = EpisodeInfo(**entry)
    if not plain_name(info.name) or not plain_name(info.split):  # files are called after them
        raise ValueError(f"name {str(info.name)[:200]!r} or split {str(info.split)[:200]!r} of an episode")
    if not isinstance(info.frames, int) or info.frames < 1:
        raise TypeError(f"frames of episode {info.name}")
    if not all(isinstance(part, dict) for part in (info.files, info.sha256, info.meta)):
        raise TypeError(f"files, sha256 or meta of episode {info.name}")
    if not all(isinstance(text, str) for text in (*info.files.values(), *info.sha256.values())):
        raise TypeError(f"names of episode {info.name}")
    if info.label is not None and type(info.label) is not int:  # True is an int, and no label
        raise TypeError(f"label of episode {info.name}")
    return info


def write_episode(
    folder: Path,
    dataset: DatasetInfo,
    name: str,
    split: str,
    episode: Episode,
    meta: dict[str, Any],
    label: int | None = None,
) -> EpisodeInfo:
    """Write the two files of an episode; a dataset has it once it is registered and saved.

    Raises ValueError when the arrays do not fit the dataset, UserError when it has no such actions or label,
    would take too much memory, its folder leads elsewhere, or the disk is full.
    """
    frames = len(episode.video)
    if not frames:
        raise ValueError(f"{name} has no frames")
    check_room(folder / name, frames, dataset.size)
    if not all(re.fullmatch(r"\w[\w.-]*", word) for word in (name, split)):
        raise ValueError(f"not usable as file names: {name!r}, {split!r}")
    if episode.video.dtype != np.uint8 or episode.video.shape != (frames, dataset.size, dataset.size, 3):
        raise ValueError(f"video of {name} is {episode.video.dtype} {episode.video.shape}, size is {dataset.size}")
    if episode.actions.shape != (shape := _action_shape(dataset, frames)):
        raise ValueError(f"{name} has {frames} frames and actions of shape {episode.actions.shape}, not {shape}")
    actions = _kept_actions(episode.actions, dataset, folder / name)
    if not _is_label(label, dataset):
        names = ", ".join(dataset.label_names) or "none"
        raise UserError(f"{folder / name} has label {label}, the dataset has {names}: choose one by its place there")
    files = {"video": f"{split}/{name}.mp4", "data": f"{split}/{name}.npz"}
    try:
        paths = {role: inside(folder, file) for role, file in files.items()}
    except (ValueError, OSError):
        raise UserError(f"{folder / split} leads out of its folder: make it a folder, or use another --out") from None
    arrays: dict[str, Any] = {"actions": actions, **episode.extras}
    np.savez_compressed(data := BytesIO(), **arrays)
    contents = {"video": lossless_mp4(episode.video, dataset.fps), "data": data.getvalue()}
    try:
        for role, content in contents.items():
            write_atomically(paths[role], content)
    except BaseException:
        for path in filter(Path.is_file, paths.values()):
            path.unlink()
        raise
    digests = {role: hashlib.sha256(content).hexdigest() for role, content in contents.items()}
    return EpisodeInfo(name, split, frames, files, digests, meta, None if label is None else int(label))


def _read_video(path: Path, frames: int, size: int) -> np.ndarray:
    """uint8 [frames, size, size, 3]; UserError unless there are exactly that many frames of that size."""
    check_room(path, frames, size)
    count, video = 0, np.empty((frames, size, size, 3), np.uint8)
    try:
        for count, picture in enumerate(decoded(BytesIO(read_bytes(path, AGAIN))), start=1):
            if picture.shape[:2] != (size, size):
                raise ValueError(f"frames are {picture.shape[1]} x {picture.shape[0]}, not {size} x {size}")
            if count > frames:
                break
            video[count - 1] = picture
    except VIDEO_ERRORS as error:
        raise UserError(f"{path} cannot be decoded ({reason_of(error)}): {DELETE}") from error
    if count != frames:
        found = f"more than {frames}" if count > frames else count
        raise UserError(f"{path} has {found} frames, the index says {frames}: {DELETE}")
    return video


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path, AGAIN)).hexdigest()


def _is_label(label: int | None, dataset: DatasetInfo) -> bool:
    return label is None or 0 <= label < len(dataset.label_names)


def _action_shape(dataset: DatasetInfo, frames: int) -> tuple[int, ...]:
    return (frames,) if dataset.action_kind == "id" else (frames, len(dataset.action_names))


def _kept_actions(actions: np.ndarray, dataset: DatasetInfo, path: Path) -> np.ndarray:
    """Actions of the right shape as int64 or float32. Raises UserError when the dataset has no such actions."""
    names, vector = ", ".join(dataset.action_names) or "none", dataset.action_kind != "id"
    if actions.dtype.kind not in ("biuf" if vector else "biu"):
        way_out = "give numbers" if vector else "give integers, or make a dataset whose action_kind is vector"
        raise UserError(f"{path} has actions of type {actions.dtype}: {way_out}")
    if vector:
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused
            vectors = actions.astype(np.float32)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise UserError(f"{path} has actions that are not finite, first at frame {finite.argmin()}: give {names}")
        return vectors
    ids = actions.astype(np.int64)
    if len(ids) and (ids.min() < 0 or ids.max() >= len(dataset.action_names)):
        raise UserError(f"{path} has actions {ids.min()} to {ids.max()}, the dataset has {names}")
    return ids


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What differs between two infos, for a person; "" when nothing does. Compared as JSON, where tuples are lists."""
    old, new = json.loads(json.dumps(old)), json.loads(json.dumps(new))
    old, new = {**old.pop("source"), **old}, {**new.pop("source"), **new}
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key} {old.get(key)}, now {new.get(key)}" for key in changed)
