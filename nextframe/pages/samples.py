"""The part of a report that shows clips made from nothing, and how like true ones they are, all in all."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nextframe.data.episodes import EpisodeDataset
from nextframe.errors import UserError, counted
from nextframe.pages import html
from nextframe.pages.behaviour import beside_published
from nextframe.pages.drawing import action_clip, film_strip, label_name
from nextframe.pages.scores import by_seed, combination, tiles
from nextframe.results import Results, prediction_path, read_prediction

PLAYED, IN_STRIPS, FRAMES = 3, 8, 8
"""Samples that move, samples and true clips in rows, and frames in a row, at most."""


def samples(results: Results, out: Path, dataset: EpisodeDataset) -> Iterator[str]:
    """The first samples, which nobody has picked, over true clips. Raises UserError when a file is missing."""
    protocol, condition = results.protocol, results.told
    told = {"none": "", "label": " and nothing but a class, each in its turn"}.get(
        condition, " and nothing but actions"
    )
    yield html.paragraph("nextframe: a video model, measured", "over")
    yield html.heading("What does it make from nothing?", 1)
    sentences = [
        f"Shown no frame{told}, the model made {counted(len(results.episodes), 'clip')} of {protocol.frames} frames "
        f"({protocol.frames / results.fps:.1f} s). They are no prediction of anything, so they are compared as a whole "
        f"with as many true clips, drawn from the split “{protocol.split}”"
        + (", equally many of each class." if dataset.info.label_names else "."),
        f"Their FVD is {results.figure('fvd')}: 0 is for clips that cannot be told from true ones, on the whole.",
        combination(results),
    ]
    yield from (html.paragraph(sentence, "lead") for sentence in sentences if sentence)
    yield html.tiles(*tiles(results))
    made = [
        read_prediction(prediction_path(out, name, protocol.seeds[0])).video for name in results.episodes[:IN_STRIPS]
    ]
    names = [_name(results, dataset, index) for index in range(len(made))]
    yield html.heading("Samples")
    yield html.paragraph(f"The first {len(made)}, not picked by hand.", "soft")
    yield html.grid(
        *(
            html.video(action_clip(video, [""] * len(video)), results.fps, name)
            for name, video in list(zip(names, made, strict=True))[:PLAYED]
        )
    )
    yield _rows(names, made)
    yield html.heading("True clips")
    yield html.paragraph("The first that they are held against: of each, its first frames.", "soft")
    yield _rows(*_true_clips(results, dataset))
    yield from by_seed(results)
    yield from beside_published(results)


def _rows(names: list[str], videos: list[np.ndarray]) -> str:
    picked = np.unique(np.linspace(0, len(videos[0]) - 1, FRAMES).round().astype(int))
    labels = [f"{place + 1}" for place in picked]
    return html.picture(
        film_strip({name: video[picked] for name, video in zip(names, videos, strict=True)}, labels), ""
    )


def _name(results: Results, dataset: EpisodeDataset, index: int) -> str:
    number = f"sample {index + 1}"
    if not results.labels or results.told == "none":
        return number
    return f"{number}: {label_name(dataset.info.label_names, results.labels[index])}"


def _true_clips(results: Results, dataset: EpisodeDataset) -> tuple[list[str], list[np.ndarray]]:
    infos = {info.name: info for info in dataset.episodes(results.protocol.split)}
    names = results.episodes[:IN_STRIPS]
    if missing := [name for name in names if name not in infos]:
        raise UserError(f"{dataset.folder} has no episode {missing[0]}: give the footage that was evaluated")
    videos = [dataset.read(infos[name]).video[:: results.interval][: results.protocol.frames] for name in names]
    return list(names), videos
