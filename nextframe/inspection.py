"""What there is to know about a data set: counts, what its actions do to the picture, and whether they are on time."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nextframe.data.episodes import Episode, EpisodeDataset, EpisodeInfo
from nextframe.errors import UserError, some_of
from nextframe.metrics.motion import CLEARLY, TELLING, explained_by_actions, explained_by_chance, motion
from nextframe.progress import progress

SAMPLE = 32
"""Episodes that are decoded for the histogram and the check of the actions, spread over all."""
SOME = 5
"""Names that are listed in a line."""


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
    problems: tuple[str, ...]
    """Files that are missing, damaged or changed."""
    imported: tuple[int, int] | None
    """The --offset and the --every it was imported with: then an offset can be mended. None: it was recorded."""
    actions: tuple[ActionUse, ...] = ()
    """Of actions that are ids."""
    explained: dict[int, float] = field(default_factory=dict)
    """By offset: how much of the movement between t and t + 1 goes with actions[t + offset], 0 to 1. Empty where there
    are no actions."""
    by_chance: float = 0.0
    """As much would go with them if they had nothing to do with it."""
    still: tuple[str, ...] = ()
    """Imported episodes in which nothing ever moves."""
    duplicates: tuple[tuple[str, ...], ...] = ()
    """Episodes whose pictures are the same, in groups."""
    numbers: tuple[NumberUse, ...] = ()
    """Of actions that are vectors."""
    labels: dict[str, int] = field(default_factory=dict)
    """Episodes by class, the largest first; those without a label are in none."""

    @property
    def best_offset(self) -> int | None:
        """The offset that explains most, and if it is before 0, clearly more than 0 does; None when no action explains
        more than by chance, or nothing was checked."""
        if not self.explained:
            return None
        best = max(self.explained, key=lambda offset: (self.explained[offset], -abs(offset)))
        share = self.explained[best]
        if share < TELLING or share <= self.by_chance:
            return None
        return best if best > 0 or share - self.explained[0] > CLEARLY * share else 0


def alignment(dataset: EpisodeDataset) -> str:
    """In a line, whether the actions of a data set are on time, by a sample of its episodes."""
    infos = evenly_spaced(dataset.episodes(), SAMPLE if dataset.info.action_kind != "none" else 0)
    return verdict(inspection_of(dataset, infos, map(dataset.read, infos)))


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


def inspection_of(
    dataset: EpisodeDataset, infos: list[EpisodeInfo], episodes: Iterable[Episode], problems: tuple[str, ...] = ()
) -> Inspection:
    """Everything about a data set, given the episodes sampled from it, of which no two need be in memory at once. They
    are not asked for where there are no actions.
    """
    labels = Counter(dataset.info.label_names[info.label] for info in infos if info.label is not None)
    source = dataset.info.source
    told = dataset.info.action_kind != "none"
    sampled = [(motion(episode.video), episode.actions) for episode in episodes] if told else []
    found = Inspection(
        splits=dict(sorted(Counter(info.split for info in infos).items())),
        frames=tuple(info.frames for info in infos),
        sampled=len(sampled),
        problems=problems,
        imported=(source.get("offset", 0), source.get("every", 1)) if source.get("world") == "imported" else None,
        still=tuple(info.name for info in infos if info.meta.get("still")),
        duplicates=duplicates(infos),
        labels=dict(labels.most_common()),
    )
    if not told:
        return found
    movements, taken = [one for one in sampled if len(one[0])], [actions for _, actions in sampled]
    explained = explained_by_actions(movements) if movements else {0: 0.0}
    found = replace(found, explained=explained, by_chance=explained_by_chance(movements))
    if dataset.info.action_kind == "vector":
        return replace(found, numbers=_number_uses(dataset, taken))
    return replace(found, actions=_action_uses(dataset, taken, movements))


def _action_uses(
    dataset: EpisodeDataset, taken: Sequence[np.ndarray], movements: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[ActionUse, ...]:
    """Of actions that are ids, as `taken` in each episode; `movements`: motion [f - 1, 3] and actions [f] of those of
    two frames or more."""
    uses = []
    for number, name in enumerate(dataset.info.action_names):
        count = sum(int((actions == number).sum()) for actions in taken)
        parts = [movement[actions[:-1] == number] for movement, actions in movements]
        rows = np.concatenate([np.zeros((0, 3)), *parts])
        shift, spread, change = rows.mean(0) if len(rows) else (0.0, 0.0, 0.0)
        uses.append(ActionUse(name, count, float(shift), float(spread), float(np.expm1(change))))
    return tuple(uses)


def _number_uses(dataset: EpisodeDataset, taken: Sequence[np.ndarray]) -> tuple[NumberUse, ...]:
    """Of actions that are vectors; none when all episodes are damaged."""
    if not taken:
        return ()
    rows = np.concatenate(taken).astype(np.float64)
    table = np.stack([rows.min(0), rows.mean(0), rows.max(0)], axis=1).tolist()
    return tuple(NumberUse(name, *row) for name, row in zip(dataset.info.action_names, table, strict=True))


def verdict(found: Inspection) -> str:
    """Whether actions[t] is what leads from frame t to t + 1."""
    if not found.explained:
        return "there are no actions"
    best = found.best_offset
    if best is None:
        return (
            "warning: no action goes clearly with the movement of the whole picture, so it cannot be told whether "
            "actions are on time. (Of few frames it never can, nor where the view stands still and something in it "
            "moves.) Otherwise: do they matter in this world, are they recorded?"
        )
    if best == 0:
        best_of_all = max(found.explained.values()) == found.explained[0]
        how = "best" if best_of_all else "about as well as with actions before, as where there is momentum,"
        return f"the actions are on time: the movement from frame t to t+1 goes {how} with actions[t]"
    direction = "late" if best > 0 else "early"
    frames = "one frame" if abs(best) == 1 else f"{abs(best)} frames"
    slow = " (all is well if the world is slow to answer, as what has a momentum is)" if best < 0 else ""
    advice = ""
    if found.imported is not None:
        offset, every = found.imported
        advice = f"; import them again, into a new folder, with --offset {offset + best * every}"
    return (
        f"warning: the actions are {frames} {direction}: the movement from frame t to t+1 goes best with "
        f"actions[{offset_name(best)}], not actions[t]{advice}{slow}"
    )


def offset_name(offset: int) -> str:
    return f"t{offset:+d}" if offset else "t"


def evenly_spaced(infos: list[EpisodeInfo], count: int) -> list[EpisodeInfo]:
    """At most `count`, evenly spread."""
    places = np.linspace(0, len(infos) - 1, min(count, len(infos))).round().astype(int)
    return [infos[place] for place in places]


def duplicates(infos: Sequence[EpisodeInfo]) -> tuple[tuple[str, ...], ...]:
    """Names of episodes whose video files are equal, in groups; with their splits where a group has several."""
    by_digest: dict[str, list[EpisodeInfo]] = {}
    for info in infos:
        by_digest.setdefault(info.sha256.get("video", info.name), []).append(info)
    groups = [group for group in by_digest.values() if len(group) > 1]
    several = [len({info.split for info in group}) > 1 for group in groups]
    return tuple(
        tuple(f"{info.name} ({info.split})" if splits else info.name for info in group)
        for group, splits in zip(groups, several, strict=True)
    )


def doubts(still: Sequence[str], duplicates: Sequence[Sequence[str]]) -> list[str]:
    """What is whole, but not worth learning from, in lines."""
    lines = [f"nothing moves in {len(still)}: {some_of(still, SOME)}"] if still else []
    lines += [f"the same pictures: {some_of(names, SOME)}" for names in duplicates[:SOME]]
    return lines + ([f"{len(duplicates) - SOME} more such groups"] if len(duplicates) > SOME else [])
