"""Look before you train: what a data set holds, whether its files are whole, and whether its actions are on time."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nextframe.data.episodes import Episode, EpisodeDataset, EpisodeInfo
from nextframe.errors import UserError
from nextframe.metrics.motion import TELLING, explained_by_actions, motion
from nextframe.pages import html
from nextframe.pages.drawing import action_clip, action_strip, words
from nextframe.progress import clock, progress

PAGE = "inspect.html"
SAMPLE = 32
"""Episodes that are decoded for the histogram and the check of the actions, spread over all."""
SHOWN = 6
"""Episodes on the contact sheet."""
STRIP = 10
"""Frames in a row on the contact sheet."""
CLASSES = 8
"""Classes that are named in one line, the largest."""
MOVEMENTS = ("mean shift to the right", "halves move apart", "typical change (of 255)")


@dataclass(frozen=True)
class ActionUse:
    """How often an action is taken in the sample, and how the picture moves from that frame to the next, on average."""

    name: str
    count: int
    shift: float
    """Pixels to the right."""
    spread: float
    """Pixels by which the right half moves away from the left half."""
    change: float
    """Absolute change of a pixel, of 255: the geometric mean over frames."""


@dataclass(frozen=True)
class NumberUse:
    """What one number of actions that are vectors was, over all frames of the sample."""

    name: str
    minimum: float
    mean: float
    maximum: float


@dataclass(frozen=True)
class Inspection:
    """What there is to know about a data set."""

    splits: dict[str, int]
    """Episodes by split."""
    frames: tuple[int, ...]
    """Of each episode."""
    sampled: int
    """Episodes behind `actions` and `explained`."""
    actions: tuple[ActionUse, ...]
    """Empty where actions are vectors."""
    explained: dict[int, float]
    """By offset: how much of the movement between t and t + 1 goes with actions[t + offset], 0 to 1. Empty where
    actions are vectors, of which it is not known."""
    problems: tuple[str, ...]
    """Files that are missing, damaged or changed."""
    numbers: tuple[NumberUse, ...] = ()
    """Of actions that are vectors."""
    labels: dict[str, int] = field(default_factory=dict)
    """Episodes by class, the largest first; those without a label are in none."""

    @property
    def best_offset(self) -> int | None:
        """The offset that explains most; None when no action explains anything, or nothing was checked."""
        if not self.explained:
            return None
        best = max(self.explained, key=lambda offset: (self.explained[offset], -abs(offset)))
        return best if self.explained[best] >= TELLING else None


def inspect(data: Path, out: Path | None = None) -> Inspection:
    """Print what the data set in `data` holds, check it, and write a contact sheet: OUT/inspect.html, OUT is `data`
    if not given.

    Every file is compared with its checksum; actions are checked on a sample. Raises UserError, after all that, when
    files are damaged or missing, and at once when there is nothing to inspect.
    """
    dataset = EpisodeDataset.open(data)
    infos = dataset.episodes()
    if not infos:
        raise UserError(f"{data} has no episodes yet: record or import some")
    problems = damaged(dataset, infos)
    sample = _spread([info for info in infos if info.name not in problems], SAMPLE)
    episodes = [dataset.read(info) for info in sample]
    found = examine(dataset, infos, episodes, tuple(problems.values()))
    print("\n".join(summary(dataset, found)))
    path = html.write_page((out or Path(data)) / PAGE, _contact_sheet(dataset, found, sample, episodes))
    print(f"contact sheet: {path}")
    if problems:
        raise UserError(f"{len(problems)} of {len(infos)} episodes are damaged, the first: {found.problems[0]}")
    return found


def damaged(dataset: EpisodeDataset, infos: list[EpisodeInfo]) -> dict[str, str]:
    """What is wrong, by the name of the episode."""
    problems = {}
    with progress("checking files", len(infos)) as advance:
        for info in infos:
            try:
                dataset.verify(info)
            except UserError as error:
                problems[info.name] = str(error)
            advance()
    return problems


def examine(
    dataset: EpisodeDataset, infos: list[EpisodeInfo], episodes: list[Episode], problems: tuple[str, ...] = ()
) -> Inspection:
    """Everything about a data set, given the episodes sampled from it."""
    labels = Counter(dataset.info.label_names[info.label] for info in infos if info.label is not None)
    found = Inspection(
        splits=dict(sorted(Counter(info.split for info in infos).items())),
        frames=tuple(info.frames for info in infos),
        sampled=len(episodes),
        actions=(),
        explained={},
        problems=problems,
        labels=dict(labels.most_common()),
    )
    if dataset.info.action_kind == "vector":
        return replace(found, numbers=_number_uses(dataset, episodes))
    movements = [(motion(episode.video), episode.actions) for episode in episodes if len(episode.video) > 1]
    explained = explained_by_actions(movements) if movements else {0: 0.0}
    return replace(found, actions=_action_uses(dataset, episodes, movements), explained=explained)


def _action_uses(
    dataset: EpisodeDataset, episodes: list[Episode], movements: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[ActionUse, ...]:
    """Of actions that are ids; `movements`: motion [f - 1, 3] and actions [f] of each episode of two frames or more."""
    uses = []
    for number, name in enumerate(dataset.info.action_names):
        count = sum(int((episode.actions == number).sum()) for episode in episodes)
        parts = [movement[actions[:-1] == number] for movement, actions in movements]
        rows = np.concatenate([np.zeros((0, 3)), *parts])
        shift, spread, change = rows.mean(0) if len(rows) else (0.0, 0.0, 0.0)
        uses.append(ActionUse(name, count, float(shift), float(spread), float(np.expm1(change))))
    return tuple(uses)


def _number_uses(dataset: EpisodeDataset, episodes: list[Episode]) -> tuple[NumberUse, ...]:
    """Of actions that are vectors; none when all episodes are damaged."""
    if not episodes:
        return ()
    taken = np.concatenate([episode.actions for episode in episodes]).astype(np.float64)
    table = np.stack([taken.min(0), taken.mean(0), taken.max(0)], axis=1).tolist()
    return tuple(NumberUse(name, *row) for name, row in zip(dataset.info.action_names, table, strict=True))


def summary(dataset: EpisodeDataset, found: Inspection) -> Iterator[str]:
    """The lines that are printed."""
    yield f"{dataset.folder}"
    yield from (f"  {name:<9}  {value}" for name, value in _facts(dataset, found))
    yield from _vector_lines(found) if dataset.info.action_kind == "vector" else _id_lines(found)
    yield verdict(found)
    yield from (f"damaged: {problem}" for problem in found.problems)


def _id_lines(found: Inspection) -> Iterator[str]:
    total = max(1, sum(use.count for use in found.actions))
    yield f"actions, in {found.sampled} episodes, and how the picture moves from that frame to the next:"
    width = max((len(use.name) for use in found.actions), default=0)
    for use in found.actions:
        moves = f"shift {use.shift:+5.1f} px  spread {use.spread:+5.1f} px  change {use.change:5.1f}"
        yield f"  {use.name:<{width}}  {use.count:>7}  {use.count / total:5.1%}  {moves}"
    shares = [f"actions[{offset_name(offset)}] {share:.0%}" for offset, share in found.explained.items()]
    yield f"movement from frame t to t+1 explained by: {', '.join(shares)}"


def _vector_lines(found: Inspection) -> Iterator[str]:
    yield f"actions, in {found.sampled} episodes, are vectors of numbers:"
    width = max((len(use.name) for use in found.numbers), default=0)
    for use in found.numbers:
        spans = f"minimum {use.minimum:+9.3g}  mean {use.mean:+9.3g}  maximum {use.maximum:+9.3g}"
        yield f"  {use.name:<{width}}  {spans}"


def _facts(dataset: EpisodeDataset, found: Inspection) -> list[tuple[str, str]]:
    frames, info = found.frames, dataset.info
    splits = ", ".join(f"{count} {split}" for split, count in found.splits.items())
    length = f"{frames[0]} each" if len(set(frames)) == 1 else f"{min(frames)} to {max(frames)} each"
    whole = len(frames) - len(found.problems)
    labels = [("labels", _labels(dataset, found))] if info.label_names else []
    return [
        ("episodes", f"{len(frames)}: {splits}"),
        *labels,
        ("frames", f"{sum(frames):,}, {length}"),
        ("duration", f"{clock(sum(frames) / info.fps)} at {info.fps:g} frames per second"),
        ("picture", f"{info.size} x {info.size} pixels"),
        ("files", f"{whole} of {len(frames)} episodes are as recorded (sha256)"),
        ("made by", ", ".join(f"{name} {value}" for name, value in info.source.items())),
    ]


def _labels(dataset: EpisodeDataset, found: Inspection) -> str:
    """Episodes by class, the largest first."""
    parts = [f"{count} {name}" for name, count in list(found.labels.items())[:CLASSES]]
    if others := list(found.labels.values())[CLASSES:]:
        parts.append(f"{sum(others)} of {len(others)} others ({min(others)} to {max(others)} each)")
    if without := len(found.frames) - sum(found.labels.values()):
        parts.append(f"{without} without a label")
    return f"{len(found.labels)} of {len(dataset.info.label_names)} classes: {', '.join(parts)}"


def verdict(found: Inspection) -> str:
    """Whether actions[t] is what leads from frame t to t + 1."""
    if not found.explained:
        return "the actions are vectors: whether they are on time is checked for actions that are ids only"
    best = found.best_offset
    if best is None:
        return (
            "warning: no action goes with the movement of the picture, so it cannot be told whether actions are on "
            "time: do they matter in this world, are they recorded?"
        )
    if best == 0:
        return "the actions are on time: the movement from frame t to t+1 goes best with actions[t]"
    direction = "late" if best > 0 else "early"
    frames = "one frame" if abs(best) == 1 else f"{abs(best)} frames"
    return (
        f"warning: the actions are {frames} {direction}: the movement from frame t to t+1 goes best with "
        f"actions[{offset_name(best)}], not actions[t]; shift them before training"
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].removesuffix("?") + ("?" if text.endswith("?") else ".")


def offset_name(offset: int) -> str:
    return f"t{offset:+d}" if offset else "t"


def _spread(infos: list[EpisodeInfo], count: int) -> list[EpisodeInfo]:
    """At most `count`, evenly spread."""
    places = np.linspace(0, len(infos) - 1, min(count, len(infos))).round().astype(int)
    return [infos[place] for place in places]


def _contact_sheet(
    dataset: EpisodeDataset, found: Inspection, sample: list[EpisodeInfo], episodes: list[Episode]
) -> str:
    vectors = dataset.info.action_kind == "vector"
    on_time = "good" if found.best_offset == 0 else "bad"
    body = [
        html.paragraph("nextframe inspect", "over"),
        html.heading(dataset.folder.resolve().name, 1),
        html.beside(
            html.table(["", ""], _facts(dataset, found)),
            html.heading(f"Actions taken, in {found.sampled} episodes", 3)
            + (_number_table(found) if vectors else _action_bars(found)),
        ),
        html.heading("Are the actions on time?"),
        html.paragraph(_sentence(verdict(found)), "soft" if vectors else on_time),
        *([] if vectors else _movements(found)),
        *(html.paragraph(f"Damaged: {problem}", "bad") for problem in found.problems),
        html.heading("Contact sheet"),
        html.paragraph("Under each frame the action taken at it, which leads to the next frame.", "soft"),
    ]
    shown = _spread(sample, SHOWN)
    for info, episode in zip(sample, episodes, strict=True):
        if info in shown:
            body += _episode(dataset, info, episode)
    return html.page(f"{dataset.folder.name}: contact sheet", body)


def _action_bars(found: Inspection) -> str:
    total = max(1, sum(use.count for use in found.actions))
    return html.bars([(words(use.name), [float(use.count)], f"{use.count / total:.1%}") for use in found.actions])


def _number_table(found: Inspection) -> str:
    rows = [[words(use.name), *(f"{x:.3g}" for x in (use.minimum, use.mean, use.maximum))] for use in found.numbers]
    return html.table(["number", "minimum", "mean", "maximum"], rows)


def _movements(found: Inspection) -> Iterator[str]:
    """How the picture moves under each action, and at which distance in time."""
    shares = [(f"actions[{offset_name(offset)}]", [share], f"{share:.0%}") for offset, share in found.explained.items()]
    yield html.paragraph(
        "Each bar: how much of the picture's movement between one frame and the next is explained by the action "
        "recorded at that distance. The longest should be the one at t.",
        "soft",
    )
    yield html.bars(shares)
    moves = [
        [words(use.name), f"{use.shift:+.1f} px", f"{use.spread:+.1f} px", f"{use.change:.1f}"] for use in found.actions
    ]
    yield html.table(["from a frame with this action to the next", *MOVEMENTS], moves)


def _episode(dataset: EpisodeDataset, info: EpisodeInfo, episode: Episode) -> Iterator[str]:
    """A video of all of it, and rows of frames from its beginning, middle and end."""
    names = dataset.info.action_texts(episode.actions)
    length = min(STRIP, info.frames)
    starts = sorted({0, (info.frames - length) // 2, info.frames - length})
    factor = max(1, 128 // dataset.info.size)
    strips = [
        action_strip(episode.video[first : first + length], names[first : first + length], first, factor)
        for first in starts
    ]
    label = "" if info.label is None else f"{dataset.info.label_names[info.label]}, "
    yield html.heading(f"{info.name} ({label}{info.split}, {info.frames} frames)", 3)
    player = html.video(action_clip(episode.video, names), dataset.info.fps, "")
    yield html.clip(player, [html.picture(strip, "") for strip in strips])
