"""Look before you train: what a data set holds, whether its files are whole, and whether its actions are on time."""

from collections.abc import Iterator
from pathlib import Path

from nextframe.data.episodes import EpisodeDataset
from nextframe.errors import UserError, counted
from nextframe.inspection import SAMPLE, Inspection, damaged, doubts, evenly_spaced, inspection_of, offset_name, verdict
from nextframe.pages import html
from nextframe.pages.footage import contact_sheet
from nextframe.progress import clock

PAGE = "inspect.html"
CLASSES = 8
"""Classes that are named in one line, the largest."""


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
    sample = evenly_spaced([info for info in infos if info.name not in problems], SAMPLE)
    found = inspection_of(dataset, infos, map(dataset.read, sample), tuple(problems.values()))
    print("\n".join(summary(dataset, found)))
    path = html.write_page((out or Path(data)) / PAGE, contact_sheet(dataset, _facts(dataset, found), found, sample))
    print(f"contact sheet: {path}")
    if problems:
        raise UserError(f"{len(problems)} of {len(infos)} episodes are damaged, the first: {found.problems[0]}")
    return found


def summary(dataset: EpisodeDataset, found: Inspection) -> Iterator[str]:
    """The lines that are printed."""
    yield f"{dataset.folder}"
    yield from (f"  {name:<9}  {value}" for name, value in _facts(dataset, found))
    if found.explained:
        yield f"actions, in {counted(found.sampled, 'episode')}:"
        yield from _number_lines(found) if found.numbers else _id_lines(found)
        shares = [f"actions[{offset_name(offset)}] {share:.0%}" for offset, share in found.explained.items()]
        yield f"movement from frame t to t+1 explained by: {', '.join(shares)}"
    yield verdict(found)
    yield from (f"warning: {doubt}" for doubt in doubts(found.still, found.duplicates))
    yield from (f"damaged: {problem}" for problem in found.problems)


def _id_lines(found: Inspection) -> Iterator[str]:
    """How often each is taken, and how the picture moves from that frame to the next."""
    total = max(1, sum(use.count for use in found.actions))
    width = max((len(use.name) for use in found.actions), default=0)
    for use in found.actions:
        moves = f"shift {use.shift:+5.1f} px  spread {use.spread:+5.1f} px  change {use.change:5.1f}"
        yield f"  {use.name:<{width}}  {use.count:>7}  {use.count / total:5.1%}  {moves}"


def _number_lines(found: Inspection) -> Iterator[str]:
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
