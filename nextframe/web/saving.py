"""A walk as a file: a video, lossless frames, or an episode to train on."""

import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from nextframe.data.episodes import DatasetInfo, Episode, EpisodeDataset
from nextframe.errors import UserError
from nextframe.files import writing
from nextframe.pages.drawing import mp4_bytes
from nextframe.web.game import Game
from nextframe.web.history import Step
from nextframe.worlds.maze.map import logged_poses

FORMATS = {"mp4": "mp4", "npz": "npz", "episode": "zip"}
"""Format -> how the name of its file ends."""
MOST_BYTES = 2**30
"""Of the pixels of a walk that is saved: they are in memory at once."""


def save(game: Game, path: Sequence[Step], info: DatasetInfo, format: str, folder: Path) -> IO[bytes]:
    """The frames of `path` as an open file on the disk of `folder`, without a name. `info`: of a dataset of such walks.

    Raises UserError for a walk that is too long, or (an episode) in which nobody has acted, and where there is no room.
    """
    most = MOST_BYTES // (3 * game.film.size**2)
    if len(path) > most:
        raise UserError(f"{len(path):,} frames are too many to save at once: stand at frame {most - 1:,} or before")
    video = np.stack([game.film.read(step.place) for step in path])
    with writing(folder), ExitStack() as held:
        file = held.enter_context(tempfile.TemporaryFile(dir=folder))
        if format == "mp4":
            file.write(mp4_bytes(video, info.fps))
        elif format == "npz":
            arrays: dict[str, Any] = {"video": video, "context": _given(game, path)}
            if any(step.truth_place is not None for step in path):
                truths = [game.truth(step) for step in path]
                arrays["truth"] = np.stack([np.zeros_like(video[0]) if truth is None else truth for truth in truths])
            np.savez_compressed(file, actions=_actions(path, info), **arrays)
        else:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                _write_episode(Path(place), game, path, video, info)
                with zipfile.ZipFile(file, "w") as archive:
                    for part in sorted(part for part in Path(place).rglob("*") if part.is_file()):
                        archive.write(part, part.relative_to(place))
        file.seek(0)
        held.pop_all()
        return file


def _write_episode(folder: Path, game: Game, path: Sequence[Step], video: np.ndarray, info: DatasetInfo) -> None:
    # An episode has an action for every frame. Before the first that anybody knows of, there is nothing to learn.
    first = next((frame for frame, step in enumerate(path[1:]) if step.action is not None), None)
    if info.action_kind == "none":
        first = 0
    if first is None:
        raise UserError("nobody has acted in this walk yet: walk on, then save it")
    kept, extras, meta = path[first:], {}, {"start": game.start.name, "context": _given(game, path) - first}
    poses = [step.pose for step in kept if step.pose is not None]
    if len(poses) == len(kept):
        extras["pose"] = logged_poses(poses)
    if game.start.maze is not None:
        meta["seed"] = game.start.maze.seed
        extras["grid"] = game.start.maze.maze.grid.astype(np.uint8)
    dataset = EpisodeDataset.create(folder, info)
    label = game.start.label if info.label_names else None  # without footage a model's classes have no names
    dataset.add("walk", "train", Episode(video[first:], _actions(kept, info), extras), meta, label)
    dataset.save()


def _given(game: Game, path: Sequence[Step]) -> int:
    """How many frames of a walk are the clip's: one may have gone on from the middle of it."""
    return sum(step.place < game.history.context for step in path)


def _actions(path: Sequence[Step], info: DatasetInfo) -> np.ndarray:
    """Taken at each frame; at the last, where nobody has acted yet, and where nobody knows, the first id or zeros."""
    taken = [*(step.action for step in path[1:]), None]
    if info.action_kind == "id":
        return np.array([0 if action is None else action for action in taken], np.int64)
    nothing = (0.0,) * len(info.action_names)
    vectors = [nothing if action is None else action for action in taken]
    return np.array(vectors, np.float32).reshape(len(path), len(info.action_names))
