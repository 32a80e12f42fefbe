"""A worker process that makes episodes of videos: `python -m nextframe.data.cutting`, see `import_footage.py`."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nextframe.data.actions import MEND, ActionTable, Vocabulary, load_arrays, read_actions, without_way_out
from nextframe.data.arrays import check_room
from nextframe.data.episodes import DatasetInfo, Episode, EpisodeInfo, write_episode
from nextframe.data.production import Finished, Jobs, work
from nextframe.data.video import VIDEO_ERRORS, Fit, decoded, fitted, uneven, unreadable, video_facts
from nextframe.errors import UserError

STILL = 2
"""A video no pixel of which ever differs by more (of 255) from its first frame shows nothing happening."""


@dataclass(frozen=True)
class Cut:
    """How videos become episodes; the same for all of them."""

    frames: int = 300
    """An episode's, at most; a longer video becomes several, one after the other. 0: never cut."""
    least_frames: int = 16
    """An episode's, at least; what is left over of a video and shorter is dropped."""
    every: int = 1
    """Every n-th frame, with its action."""
    offset: int = 0
    """Row t + offset of the action file is taken at frame t."""
    fit: Fit = "crop"
    """How frames are made square."""


@dataclass
class Clock:
    """How fast a video says it is, and when its frames so far are shown, in seconds; nothing of one that says neither.

    It is filled while the video is read.
    """

    fps: float | None = None
    times: list[float] = field(default_factory=list)


def cut_jobs(
    folder: Path, dataset: DatasetInfo, shared: dict[str, Any], jobs: Jobs, scratch: Path
) -> Generator[EpisodeInfo | Finished]:
    """The episodes of each video; of one that is bad none counts, if it is to be skipped."""
    cut, names = Cut(**shared["cut"]), Vocabulary(dataset.action_kind, tuple(dataset.action_names))
    for name, job in jobs.items():
        try:
            yield from episodes_of(folder, dataset, name, job, cut, names)
        except UserError as error:
            if not shared["skip_bad"]:
                raise
            yield Finished(name, without_way_out(error))
        else:
            yield Finished(name)


def episodes_of(
    folder: Path, dataset: DatasetInfo, name: str, job: dict[str, Any], cut: Cut, names: Vocabulary
) -> Iterator[EpisodeInfo]:
    """Write the episodes of one video, each as soon as its frames are read: a video may be longer than memory.

    The first has the name of the video, further ones a number behind it. Raises UserError when the video cannot be
    read to its end, is too short, or its actions are not one per frame.
    """
    path, clock = Path(job["video"]), Clock()
    table = read_actions(Path(job["actions"])) if job["actions"] else None
    for part, (rows, pictures, last) in enumerate(_parts(_frames(path, dataset.size, table, cut, clock), path, cut)):
        clip = np.stack(pictures)
        meta: dict[str, Any] = {**job["meta"], "part": part, "last": last}
        meta |= {"fps": clock.fps} if clock.fps else {}
        meta |= {"uneven": True} if uneven(clock.times, clock.fps) else {}
        if int(np.abs(clip.astype(np.int16) - clip[:1]).max()) <= STILL:
            meta["still"] = True
        own = f"{name}.{part:04d}" if part else name
        actions = names.actions(table, np.array(rows))
        yield write_episode(folder, dataset, own, job["split"], Episode(clip, actions), meta, job["label"])


def _frames(
    path: Path, size: int, table: ActionTable | None, cut: Cut, clock: Clock
) -> Iterator[tuple[int, np.ndarray]]:
    """(row of the action file, frame at its size) of every frame that is kept."""
    count = 0
    rows = None if table is None else len(table)
    for count, picture in enumerate(_pictures(path, clock), start=1):
        row = count - 1 + cut.offset
        # A file with an action for each step between frames has one row less than there are frames: at the last
        # frame nothing was done any more, and the last action stands there in its place.
        if rows is not None and cut.offset == 0 and row == rows:
            row = rows - 1
        if (count - 1) % cut.every == 0 and (rows is None or 0 <= row < rows):
            try:
                frame = fitted(picture, size, cut.fit)
            except ValueError as error:
                raise UserError(f"{path} {error}: {MEND}") from None
            yield row if table is not None else 0, frame
    if table is not None and table.from_one and rows == count - 1 and cut.offset == 0:
        raise UserError(
            f"{table.path} counts {rows} rows from 1, {path.name} has {count} frames: number them from 0, or put in "
            f"the row that is missing; {MEND}"
        )
    if table is not None and rows not in (count, count - 1):
        raise UserError(f"{table.path} has {rows} rows, {path.name} has {count} frames: give one row per frame; {MEND}")


def _pictures(path: Path, clock: Clock) -> Iterator[np.ndarray]:
    """Frames, uint8 [h, w, 3]. Raises UserError when there are none, or fewer than the file says there are."""
    if path.suffix.lower() == ".npz":
        try:
            video = load_arrays(path).get("video")
        except (ValueError, OSError) as error:
            raise UserError(f"{unreadable(path, error)}: {MEND}") from error
        if video is None or video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or not video.size:
            found = "nothing" if video is None else f"{video.dtype} {list(video.shape)}"
            raise UserError(f"{path} has {found} as `video`, not uint8 [frames, height, width, 3]: {MEND}")
        yield from video
        return
    count = 0
    try:
        facts = video_facts(path)
        promised, clock.fps = facts.frames, facts.fps
        with path.open("rb") as file:
            for picture in decoded(file, clock.times):
                count += 1
                yield picture
    except (*VIDEO_ERRORS, OSError) as error:
        raise UserError(f"{unreadable(path, error)}: {MEND}") from error
    if count < max(1, promised - 2):  # a frame or two may be hidden by an edit list
        raise UserError(f"{path} is cut short: {count} of {promised} frames can be read; {MEND}")


def _parts(
    frames: Iterator[tuple[int, np.ndarray]], path: Path, cut: Cut
) -> Iterator[tuple[list[int], list[np.ndarray], bool]]:
    """(rows, frames, whether it is the last) of each episode. Raises UserError when there is not even one."""
    waiting: tuple[list[int], list[np.ndarray]] | None = None
    rows: list[int] = []
    pictures: list[np.ndarray] = []
    for row, picture in frames:
        rows.append(row)
        pictures.append(picture)
        check_room(path, len(pictures), len(picture))
        if len(rows) == cut.frames:
            if waiting is not None:
                yield *waiting, False
            waiting, rows, pictures = (rows, pictures), [], []
    if len(rows) >= cut.least_frames:
        if waiting is not None:
            yield *waiting, False
        waiting = (rows, pictures)
    if waiting is None:
        raise UserError(
            f"{path} has {len(rows)} frames to keep, --least-frames is {cut.least_frames}: lower it; {MEND}"
        )
    yield *waiting, True


if __name__ == "__main__":
    work(cut_jobs)
