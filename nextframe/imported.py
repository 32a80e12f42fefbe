"""What an import found, and what is said of it when all is done."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nextframe.data.episodes import DatasetInfo, EpisodeDataset, EpisodeInfo
from nextframe.errors import counted, some_of
from nextframe.inspection import SOME, doubts

FEW = 0.05
"""Share of the videos that may be on another side than a share would have them now: adding some moves a few."""


@dataclass(frozen=True)
class Imported:
    """What an import found. Episodes by name, videos with the reason."""

    dataset: EpisodeDataset
    skipped: dict[str, str]
    """Videos that could not be read."""
    still: tuple[str, ...]
    """Episodes in which nothing ever moves."""
    duplicates: tuple[tuple[str, ...], ...]
    """Episodes whose pictures are the same."""
    passed_over: dict[str, int]
    """How many files in the folder were taken for no video, by their endings."""
    unheeded: list[str]
    """Folders that are called like splits, and were not taken as such."""
    unmoved: int
    """Videos that were imported before, and would be on another side (train, test) if they had not been."""
    gone: list[str]
    """Videos that were imported from this folder, and are not in it any more."""
    anew: list[str]
    """Videos that were imported before, and have changed, were not imported whole, or were asked into another split."""
    split: str | None
    """That all were asked to be of."""
    divided: bool
    """The folder, or the name of the list, said which split they are of."""
    fps: float | None
    """That all were said to run at."""


def summary(imported: Imported) -> list[str]:
    """What is printed when all is done."""
    infos, info = imported.dataset.episodes(), imported.dataset.info
    splits = ", ".join(f"{count} {split}" for split, count in sorted(Counter(one.split for one in infos).items()))
    frames = sum(one.frames for one in infos)
    others = _by_ending(imported.passed_over)
    tables = {ending: count for ending, count in imported.passed_over.items() if ending in (".csv", ".jsonl")}
    sources = len({one.meta.get("source") for one in infos})
    none_held_out = imported.split is None and {one.split for one in infos} == {"train"}
    return [
        f"{counted(len(infos), 'episode')} ({splits}), {counted(frames, 'frame')} of {info.size} x {info.size} "
        f"at {info.fps:g} fps",
        _told(info),
        *(f"warning: {doubt}" for doubt in doubts(imported.still, imported.duplicates)),
        *([] if imported.fps else _rates(infos)),
        *([_unmoved(imported.unmoved)] if imported.unmoved > FEW * sources else []),
        *([_nothing_held_out(sources, imported.divided)] if none_held_out else []),
        *([_unheeded(imported.unheeded)] if imported.unheeded else []),
        *([f"imported anew: {some_of(imported.anew, SOME)}"] if imported.anew else []),
        *([f"imported before, not in this folder, and kept: {some_of(imported.gone, SOME)}"] if imported.gone else []),
        *(f"skipped: {reason}" for reason in imported.skipped.values()),
        *([_beside_none(tables)] if tables and info.action_kind == "none" else []),
        *([f"passed over, as no videos by their endings: {others}"] if others else []),
    ]


def _rates(infos: Sequence[EpisodeInfo]) -> list[str]:
    """Warnings of videos that do not all run at one rate: an action, and a model, counts frames, not seconds."""
    firsts = [info for info in infos if not info.meta.get("part")]
    by_rate: dict[str, list[str]] = {}
    for info in firsts:
        if isinstance(rate := info.meta.get("fps"), float):
            by_rate.setdefault(f"{rate:.4g}", []).append(info.meta.get("source", info.name))
    lines = []
    if len(by_rate) > 1:
        usual, *others = sorted(by_rate, key=lambda rate: -len(by_rate[rate]))
        several = "; ".join(f"{some_of(by_rate[rate], SOME)} at {rate}" for rate in others)
        one = "import each rate into a folder of its own, or bring all to one"
        lines.append(f"warning: frames a second differ, {usual} in most, {several}: {one}")
    if changing := list(dict.fromkeys(info.meta.get("source", info.name) for info in infos if info.meta.get("uneven"))):
        constant = "make it constant: ffmpeg -i IN -vf fps=10 OUT"
        lines.append(f"warning: the time between frames varies in {some_of(changing, SOME)}: {constant}")
    return lines


def _told(info: DatasetInfo) -> str:
    """What the actions were taken for: a header or a counter would stand out among the names."""
    if info.action_kind == "none":
        return "no actions" + (f", {len(info.label_names)} classes" if info.label_names else "")
    shown = ", ".join(info.action_names[:12]) + (" ..." if len(info.action_names) > 12 else "")
    count = len(info.action_names)
    return (
        f"{count} actions: {shown}" if info.action_kind == "id" else f"actions of {counted(count, 'number')}: {shown}"
    )


def _nothing_held_out(videos: int, divided: bool) -> str:
    if divided:
        way_out = "import the list or folder of the others into the same --out"
    elif videos == 1:
        way_out = "import more, or this one in two files"
    else:
        way_out = "import them into a new --out, with --test-share 0.34"
    return f"nothing is held out to evaluate on: {way_out}"


def _unmoved(videos: int) -> str:
    keep = f"{counted(videos, 'video')} {'keeps the side it was' if videos == 1 else 'keep the side they were'}"
    return f"{keep} first given, train or test: another --test-share wants a new --out"


def _by_ending(files: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {ending}" for ending, count in sorted(files.items()))


def _beside_none(tables: Mapping[str, int]) -> str:
    named = "the actions of walk.mp4 are in walk.csv beside it, spelt alike"
    return f"warning: {_by_ending(tables)} beside no video of the same name, so there are no actions: {named}"


def _unheeded(folders: list[str]) -> str:
    whole = "folders hold a split only where they lie directly in what is imported, and all videos lie in such folders"
    return f"warning: {', '.join(folders)} is not taken as a split: {whole}; or import each with --split into one --out"
