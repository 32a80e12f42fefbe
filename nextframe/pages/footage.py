"""The page of `nextframe inspect`: what a data set holds, in numbers and pictures."""

from collections.abc import Iterator

import numpy as np

from nextframe.data.episodes import Episode, EpisodeDataset, EpisodeInfo
from nextframe.errors import counted
from nextframe.inspection import Inspection, doubts, evenly_spaced, offset_name, verdict
from nextframe.pages import html
from nextframe.pages.drawing import action_clip, action_strip, words

SHOWN = 6
"""Episodes on the contact sheet."""
STRIP = 10
"""Frames in a row on the contact sheet."""
LENGTHS = 8
"""Bars of the histogram of lengths."""
MOVEMENTS = ("mean shift to the right", "halves move apart", "typical change (of 255)")


def contact_sheet(
    dataset: EpisodeDataset,
    facts: list[tuple[str, str]],
    found: Inspection,
    whole: list[EpisodeInfo],
) -> str:
    """The whole page. `facts`: names and values for the head of it. `whole`: undamaged episodes; some are shown."""
    body = [
        html.paragraph("nextframe inspect", "over"),
        html.heading(dataset.folder.resolve().name, 1),
        html.beside(html.table(["", ""], facts), "".join(_histograms(found))),
        *(html.paragraph(f"Damaged: {problem}", "bad") for problem in found.problems),
        *(html.paragraph(f"Warning: {doubt}.", "bad") for doubt in doubts(found.still, found.duplicates)),
    ]
    if found.explained:
        body += [
            html.heading("Are the actions on time?"),
            html.paragraph(_sentence(verdict(found)), "good" if found.best_offset == 0 else "bad"),
            *_movements(found),
        ]
    body.append(html.heading("Contact sheet"))
    shown = evenly_spaced(whole, SHOWN)
    text = f"{len(shown)} of {counted(len(found.frames), 'episode')}: a video of each, and its first, middle and last "
    text += "frames" + (", under each the action taken at it, which leads to the next." if found.explained else ".")
    body.append(html.paragraph(text, "soft"))
    for info in shown:
        body += _episode(dataset, info, dataset.read(info))
    return html.page(f"{dataset.folder.name}: contact sheet", body)


def _histograms(found: Inspection) -> Iterator[str]:
    """Of actions, of classes, and of lengths where they differ."""
    if found.explained:
        yield html.heading(f"Actions taken, in {counted(found.sampled, 'episode')}", 3)
        yield _number_table(found) if found.numbers else _action_bars(found)
    if found.labels:
        yield html.heading("Episodes of each class", 3)
        yield html.bars([(words(name), [float(count)], f"{count}") for name, count in found.labels.items()])
    if len(set(found.frames)) > 1:
        counts, edges = np.histogram(found.frames, bins=min(LENGTHS, len(set(found.frames))))
        yield html.heading("Episodes by length", 3)
        rows = zip(counts, edges[:-1], edges[1:], strict=True)
        yield html.bars([(f"{low:.0f} to {high:.0f}", [float(count)], f"{count}") for count, low, high in rows])


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
    if not found.actions:
        return
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


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].removesuffix("?") + ("?" if text.endswith("?") else ".")
