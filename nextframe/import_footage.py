"""Anybody's footage becomes episodes: videos with or without actions, and the published layouts."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nextframe.data.actions import MEND, Vocabulary, vocabulary, without_way_out
from nextframe.data.cutting import Cut
from nextframe.data.episodes import DatasetInfo, EpisodeDataset, EpisodeInfo, holds_dataset
from nextframe.data.production import Jobs, filling, produce
from nextframe.data.sources import (
    Source,
    classes,
    divided,
    find_sources,
    part_of_another,
    passed_over,
    tables_of,
    unheeded_splits,
)
from nextframe.data.video import VIDEO_ERRORS, video_facts
from nextframe.errors import UserError
from nextframe.files import can_be_told, sha256, sweep, write_json
from nextframe.imported import Imported
from nextframe.inspection import duplicates

CUTTING = "nextframe.data.cutting"
SKIPPED = "skipped.json"
EDGE = 2**20
"""Bytes at the beginning and at the end of a video that tell it from others of its length."""
USUAL_FPS = 30.0
"""Of videos that do not say how fast they are."""
LARGEST = 1024
"""Pixels along a side of a frame."""
USUAL_CUT = Cut()


def import_footage(
    place: Path,
    out: Path,
    size: int = 64,
    cut: Cut = USUAL_CUT,
    fps: float | None = None,
    split: str | None = None,
    test_share: float = 0.1,
    labelled: bool = False,
    use_actions: bool = True,
    action_names: tuple[str, ...] = (),
    skip_bad: bool = False,
    workers: int = 0,
) -> Imported:
    """Import the videos of a folder, or of a published list, into the dataset folder `out`; goes on where it stopped.

    `size`: height and width of the episodes; how frames become square, `Cut.fit` says.
    `fps`: None: as the first video says. `split`: of all videos; None: as folders or the list say, or else train,
    but for `test_share` of them. `labelled`: folders are classes. `use_actions`: as found beside the videos; then
    every video must have them. `action_names`: in place of the files' own. `skip_bad`: list videos that cannot be read
    in `skipped.json`, instead of stopping at the first. `workers`: processes, 0 for one per core.
    Raises UserError when something about the footage is wrong, and when `out` is something else.
    """
    _check(size, cut)
    check_fps_and_share(fps, test_share)
    if out.is_dir() and [path.name for path in out.iterdir()] == [SKIPPED]:
        (out / SKIPPED).unlink()  # of an import in which all was skipped
    sources, kept_names = _found(place, out, labelled)
    others, unheeded = passed_over(place, sources, out), unheeded_splits(place, sources) if split is None else []
    here = {source.name for source in sources}
    by_layout = all(source.split for source in sources)
    skipped: dict[str, str] = {}
    words = Vocabulary()
    if use_actions:
        sources, words = _with_actions(sources, action_names, kept_names, skip_bad, skipped)
    names, numbers = classes(sources, numbered=not labelled)
    if strange := [label for label in names if not can_be_told(label)]:
        raise UserError(f"a class is called {strange[0][:200]!r}, which cannot be printed: rename its folder")
    info = DatasetInfo(
        fps=fps or _fps(sources) / cut.every,
        size=size,
        action_names=words.names,
        source={"world": "imported", **asdict(cut)},
        action_kind=words.kind,
        label_names=names,
    )
    with filling(out, info) as dataset:
        sweep(out)
        there = _by_source(dataset)
        for name in here | there.keys():
            if (whole := part_of_another(name, here | there.keys())) and not {name, whole} <= there.keys():
                raise UserError(
                    f"{name} is called as a part of {whole} would be, one of which is in {out}: rename it, or use "
                    "another --out"
                )
        as_if_new = divided(sources, test_share, {})
        sources = divided(sources, test_share, {name: infos[0].split for name, infos in there.items()})
        elsewhere = [one for one, new in zip(sources, as_if_new, strict=True) if one.split != new.split]
        described, refused = _described(sources, place, numbers, split, use_actions, skip_bad)
        skipped |= refused
        dataset.remove([info for name in skipped for info in there.get(name, [])])
        jobs = _to_do(dataset, there, described, split is not None)
        shared = {"cut": asdict(cut), "skip_bad": skip_bad}
        kept = len(sources) - len(jobs)
        bad = produce(f"import {_called(place)}", dataset, CUTTING, shared, jobs, kept, workers)
        dataset.remove([info for name, infos in _by_source(dataset).items() if name in bad for info in infos])
        skipped |= bad
        if skipped or (out / SKIPPED).exists():
            write_json(out / SKIPPED, skipped, indent=1)
    if not dataset.episodes():
        raise UserError(f"none of the {len(skipped)} videos could be imported: see {out / SKIPPED} for the reasons")
    return Imported(
        dataset=dataset,
        skipped=skipped,
        still=tuple(info.name for info in dataset.episodes() if info.meta.get("still")),
        duplicates=duplicates(dataset.episodes()),
        passed_over=others,
        unheeded=unheeded,
        unmoved=len(elsewhere) if split is None else 0,
        gone=[name for name, infos in there.items() if name not in here and _is_from(infos[0].meta, _origin(place))],
        anew=[name for name in jobs if name in there and name not in skipped],
        split=split,
        divided=by_layout,
        fps=fps,
    )


def _found(place: Path, out: Path, labelled: bool) -> tuple[list[Source], tuple[str, ...]]:
    """The videos, and what footage of ours, which is imported again, calls its actions. Raises UserError for none."""
    sources = find_sources(place, labelled, out)
    if latents := [source for source in sources if source.latents == source.video]:
        raise UserError(f"{place} lists latents alone ({latents[0].latents}): give --autoencoder to import those")
    if not holds_dataset(place):
        return sources, ()
    before = EpisodeDataset.open(place)
    return sources if labelled else _labels_kept(sources, before), before.info.action_names


def _described(
    sources: Sequence[Source],
    place: Path,
    numbers: Mapping[str | None, int | None],
    split: str | None,
    use_actions: bool,
    skip_bad: bool,
) -> tuple[Jobs, dict[str, str]]:
    """The job that each source is, and why others are none, by name. Raises UserError unless those are skipped."""
    jobs: Jobs = {}
    refused: dict[str, str] = {}
    for source in sources:
        try:
            jobs[source.name] = _job(source, place, numbers[source.label], split, use_actions)
        except UserError as error:
            if not skip_bad:
                raise
            refused[source.name] = without_way_out(error)
    return jobs, refused


def check_fps_and_share(fps: float | None, test_share: float) -> None:
    """Raises UserError for a frame rate or a share that there is not."""
    if not 0 <= test_share <= 1:
        raise UserError(f"--test-share is {test_share}: give a share, from 0 to 1")
    if fps is not None and not 0 < fps <= 1000:
        raise UserError(f"--fps is {fps}: give frames per second, above 0 and at most 1000")


def _check(size: int, cut: Cut) -> None:
    for name, value, least in (
        ("size", size, 8),
        ("least-frames", cut.least_frames, 2),
        ("every", cut.every, 1),
        ("frames", cut.frames, 0),
    ):
        if not value >= least:
            raise UserError(f"--{name} is {value}: it must be at least {least}")
    if size > LARGEST:
        raise UserError(f"--size is {size}: it must be at most {LARGEST}")
    if cut.frames and cut.frames < cut.least_frames:
        raise UserError(f"--frames {cut.frames} is less than --least-frames {cut.least_frames}: raise it, or 0 for all")


def _with_actions(
    sources: list[Source], names: tuple[str, ...], kept: tuple[str, ...], skip_bad: bool, skipped: dict[str, str]
) -> tuple[list[Source], Vocabulary]:
    """The sources whose actions can be read, and what these have in common. No source needs any, but then none may.

    `names`: given by the user; `kept`: for actions that come without any.
    """
    if not any(source.actions for source in sources):
        if names:
            raise UserError("--action-names is given, but no video has a file of actions beside it: see --help")
        return sources, Vocabulary()
    good, tables = [], []
    for source in sources:
        try:
            if source.actions is None:
                lacks = f"{source.video} has no file of actions beside it, others have (or --no-actions)"
                raise UserError(f"{lacks}: {MEND}")
            tables += tables_of([source])
        except UserError as error:
            if not skip_bad:
                raise
            skipped[source.name] = without_way_out(error)
        else:
            good.append(source)
    nameless = not any(table.names or table.words for table in tables)
    return good, vocabulary(tables, names or (kept if nameless else ()))


def _labels_kept(sources: list[Source], dataset: EpisodeDataset) -> list[Source]:
    """The sources, with the classes they have in a dataset of ours."""
    by_name = {dataset.folder / info.files.get("video", ""): info.label for info in dataset.episodes()}
    labels = [by_name.get(source.video) for source in sources]
    words = [None if label is None else dataset.info.label_names[label] for label in labels]
    return [replace(source, label=word) for source, word in zip(sources, words, strict=True)]


def _fps(sources: list[Source]) -> float:
    """Of the first video that says."""
    for source in sources:
        if source.video.suffix.lower() != ".npz" and source.video.is_file():
            try:
                if fps := video_facts(source.video).fps:
                    return fps
            except (*VIDEO_ERRORS, OSError):
                continue  # whoever decodes it says so, or skips it
    return USUAL_FPS


def _by_source(dataset: EpisodeDataset) -> dict[str, list[EpisodeInfo]]:
    found: dict[str, list[EpisodeInfo]] = {}
    for info in dataset.episodes():
        found.setdefault(info.meta.get("source", ""), []).append(info)
    return found


def _called(place: Path) -> str:
    """The name of what is imported, which may be given as `.`"""
    return place.resolve().name


def _origin(place: Path) -> dict[str, str]:
    """Where videos come from; of the path a digest alone, which tells folders of one name apart and gives none away."""
    return {"from": _called(place), "place": hashlib.sha256(os.fsencode(place.resolve())).hexdigest()[:16]}


def _is_from(meta: Mapping[str, Any], origin: Mapping[str, str]) -> bool:
    """Of episodes that were imported before places were kept, by the name of the folder."""
    return meta.get("from") == origin["from"] and meta.get("place", origin["place"]) == origin["place"]


def _edges(video: Path) -> str:
    """A digest of the first and the last bytes of a file: of videos of one length, as npz are, it tells which it is."""
    with video.open("rb") as file:
        digest = hashlib.sha256(file.read(EDGE))
        file.seek(max(0, file.seek(0, os.SEEK_END) - EDGE))
        digest.update(file.read(EDGE))
    return digest.hexdigest()[:16]


def _job(source: Source, place: Path, label: int | None, split: str | None, use_actions: bool) -> dict[str, Any]:
    """What a worker is told. Raises UserError when the video is not there."""
    if not source.video.is_file():
        raise UserError(f"{source.video} is missing, {place} names it: {MEND}")
    actions = source.actions if use_actions else None
    size, digest = source.video.stat().st_size, {} if actions is None else {"actions": sha256(actions)[:16]}
    return {
        "video": str(source.video),
        "actions": "" if actions is None else str(actions),
        "split": split or source.split,
        "label": label,
        "meta": {"source": source.name, **_origin(place), "bytes": size, "edges": _edges(source.video), **digest},
    }


def _to_do(dataset: EpisodeDataset, there: Mapping[str, list[EpisodeInfo]], described: Jobs, asked: bool) -> Jobs:
    """Those of the jobs that are not done; what there is of them, in part or of a video that changed, is taken away."""
    jobs = {name: job for name, job in described.items() if not _is_done(dataset, there.get(name, []), job, asked)}
    for name in sorted({job["split"] for job in jobs.values()}):
        sweep(dataset.folder / name)
    dataset.remove([info for name in jobs for info in there.get(name, [])])
    return jobs


def _is_done(dataset: EpisodeDataset, infos: list[EpisodeInfo], job: dict[str, Any], asked: bool) -> bool:
    """Whether every episode of a video is there, with the actions that are beside it now.

    `asked`: and in the split of the job. Raises UserError when they are of another video of its name.
    """
    if not infos:
        return False
    meta, old = job["meta"], infos[0].meta
    same = meta["bytes"] == old.get("bytes") and meta["edges"] == old.get("edges", meta["edges"])
    if not same and not _is_from(old, meta):
        raise UserError(
            f"{dataset.folder} has another {meta['source']}, from {old.get('from')}: rename one, or use another --out"
        )
    same = same and old.get("actions") == meta.get("actions")
    same = same and not (asked and infos[0].split != job["split"])
    parts = {info.meta.get("part"): info.meta.get("last") for info in infos if dataset.is_there(info)}
    return same and parts.keys() == set(range(len(infos))) and bool(parts[len(infos) - 1])
