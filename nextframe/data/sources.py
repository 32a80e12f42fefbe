"""What is to be imported: the videos of a folder or of a published list, and what lies beside them."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as short
from typing import Any

from nextframe.data import actions, video
from nextframe.data.arrays import names_of_arrays
from nextframe.data.episodes import holds_dataset
from nextframe.errors import UserError
from nextframe.files import read_json

LONGEST_PATH = 4096
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Names of folders, or parts of the name of a list, that say which part of the data it is."""


LONGEST_NAME = 200
"""Bytes of the name of an episode: file systems take 255, with an ending and what is before it while it is written."""
PART = re.compile(r"(.+)\.\d{4,}")
"""How the further episodes of a long video are called (`cutting.episodes_of`)."""


@dataclass(frozen=True)
class Source:
    """A video to import. `actions`: the file with its actions, which may be the video itself (npz)."""

    name: str
    """Its own, in the data set."""
    video: Path
    actions: Path | None = None
    split: str | None = None
    """As the layout says, where it does."""
    label: str | None = None
    latents: Path | None = None
    """Instead of the video: latents that somebody has made of it."""


def find_sources(place: Path, labelled: bool = False, out: Path | None = None) -> list[Source]:
    """The videos of a folder, at any depth, or of a published list (`.json`), by name.

    `labelled`: the folder a video lies in is its class. `out`: what is made of them, and is none of them. Raises
    UserError when there are none, or two of one name.
    """
    if place.suffix == ".json" and place.is_file():
        found = _of_list(place)
    elif place.is_dir():
        found = _of_folder(place, labelled, out)
    elif place.is_file() and place.suffix.lower() in video.SUFFIXES:
        raise UserError(f"{place} is a single video: name the folder it lies in")
    else:
        raise UserError(f"{place} is neither a folder of videos nor a .json list of them: check the path")
    if not found:
        kinds = f"{' '.join(video.SUFFIXES)}, or npz with an array `video`; data sets below it do not count"
        raise UserError(f"{place} has no videos ({kinds})")
    by_name: dict[str, Source] = {}
    for source in found:
        if other := by_name.get(source.name):
            raise UserError(f"{other.video} and {source.video} would have one name, {source.name}: rename one of them")
        by_name[source.name] = source
    for name, source in by_name.items():
        if whole := part_of_another(name, by_name):
            raise UserError(
                f"{source.video} is called as a part of {by_name[whole].video} would be: rename one of them"
            )
    return [by_name[name] for name in sorted(by_name)]


def part_of_another(name: str, names: Container[str]) -> str | None:
    """The video among `names` whose further episodes would be called like the video `name`."""
    part = PART.fullmatch(name)
    return part[1] if part and part[1] in names else None


def _of_folder(folder: Path, labelled: bool, out: Path | None) -> list[Source]:
    files = _files(folder, out)
    videos = [path for path in files if path.suffix.lower() in video.SUFFIXES]
    beside = {path.with_suffix("") for path in videos}
    videos += [
        path for path in files if path.suffix.lower() == ".npz" and path.with_suffix("") not in beside and _films(path)
    ]
    heads = {path.relative_to(folder).parts[0].lower() for path in videos if path.parent != folder}
    divided = bool(videos) and heads <= SPLIT_WORDS.keys() and all(path.parent != folder for path in videos)
    sources = []
    for path in videos:
        inside = path.relative_to(folder)
        split = SPLIT_WORDS[inside.parts[0].lower()] if divided else None
        if labelled and len(inside.parts) < (3 if divided else 2):
            raise UserError(f"{path} lies in no folder that could be its class: leave out --label-folders, or move it")
        label = path.parent.name if labelled else None
        sources.append(Source(name_of(inside), path, _beside(path), split, label))
    return sources


def unheeded_splits(place: Path, sources: Sequence[Source]) -> list[str]:
    """Folders that are called like splits and are not taken as such, where they lie or because of what lies beside."""
    if not place.is_dir() or any(source.split for source in sources):
        return []
    folders = {part for source in sources for part in source.video.relative_to(place).parts[:-1]}
    return sorted(folder for folder in folders if folder.lower() in SPLIT_WORDS)


def _files(folder: Path, out: Path | None) -> list[Path]:
    """By name; hidden ones are not looked at, and links that lead nowhere are kept: whoever reads them says so."""
    found: list[Path] = []
    seen: set[str] = set()
    starts = [folder]
    for start in starts:  # grows: where links lead is looked at last, so that a file has the name of its own folder
        for at, folders, names in os.walk(start, onerror=_unread):
            real = os.path.realpath(at)
            made_by_us = Path(at) != folder and holds_dataset(Path(at))  # by an import into a folder in here
            if real in seen or made_by_us:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            starts += [path for name in folders if (path := Path(at) / name).is_symlink()]
            found += [Path(at) / name for name in names if not name.startswith(".")]
    files = sorted(path for path in found if path.is_file() or not path.exists())
    if out is not None and out.resolve() != folder.resolve():
        files = [path for path in files if not path.resolve().is_relative_to(out.resolve())]
    return files


def _unread(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read ({error.strerror}): see who may, or take it out") from error


def passed_over(place: Path, sources: Sequence[Source], out: Path) -> dict[str, int]:
    """How many files of a folder are neither a video that is imported nor its actions, by their endings."""
    if not place.is_dir():
        return {}
    used = {path for source in sources for path in (source.video, source.actions)}
    return dict(Counter((path.suffix or path.name).lower() for path in _files(place, out) if path not in used))


def _films(path: Path) -> bool:
    """Whether an npz holds a video; a file that is none at all is taken for one, so that it is not passed over."""
    try:
        return "video" in names_of_arrays(path)
    except ValueError:
        return True


def _beside(path: Path) -> Path | None:
    """The file of actions of the same name, or the npz itself. Raises UserError for two of them."""
    stems = (path.with_suffix(""), path.with_suffix(".actions"))
    found = [
        candidate
        for stem in stems
        for known in actions.SUFFIXES
        for suffix in (known, known.upper())
        if (candidate := stem.with_name(stem.name + suffix)) != path and candidate.is_file()
    ]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]} are both beside {path.name}: keep the one with its actions")
    if found:
        return found[0]
    if path.suffix.lower() == ".npz":
        try:
            return path if "actions" in names_of_arrays(path) else None
        except ValueError:
            return None  # whoever reads the video says what is wrong
    return None


def _of_list(path: Path) -> list[Source]:
    """The published code's lists: objects with `video_path`, and maybe `action_path`, `latent_path`, `label`."""
    try:
        entries = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a list of videos ({error}): mend it") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path} is no list of videos: it should hold a list of objects with a `video_path`")
    words = [word for word in re.split(r"[\W_\d]+", path.stem.lower()) if word in SPLIT_WORDS]
    split = SPLIT_WORDS[words[0]] if words else None
    return [_of_entry(path, number, entry, split) for number, entry in enumerate(entries)]


def _of_entry(path: Path, number: int, entry: dict[str, Any], split: str | None) -> Source:
    named: dict[str, str | None] = {key: entry.get(key) for key in ("video_path", "action_path", "latent_path")}
    for key, value in named.items():
        words = isinstance(value, str) and len(value) < LONGEST_PATH and "\0" not in value
        if value is not None and not words:
            raise UserError(f"{path}: {key} of entry {number} is {short(value)}: give a path")
    main = named["video_path"] or named["latent_path"]
    if not main:
        raise UserError(f"{path}: entry {number} has no `video_path`")
    label = entry.get("label")
    if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
        raise UserError(f"{path}: label of entry {number} is {short(label)}: give a number or a name")
    film = _resolved(path, main)
    beside = _resolved(path, named["action_path"]) if named["action_path"] else None
    if beside is None and film.is_file():
        beside = _beside(film)
    latents = _resolved(path, named["latent_path"]) if named["latent_path"] else None
    return Source(name_of(Path(main)), film, beside, split, None if label is None else str(label), latents)


def _resolved(path: Path, named: str) -> Path:
    """Published lists name files from the folder their code runs in: that of the list, or one above it."""
    for folder in path.resolve().parents:
        try:
            if (folder / named).exists():
                return folder / named
        except OSError as error:  # a name that no file system takes
            raise UserError(f"{path} names {short(named)}, which cannot be ({error.strerror}): mend it") from error
    return path.parent / named


def name_of(path: Path) -> str:
    """A name for an episode that tells where it came from: `walks/first try.mp4` is `walks__first_try`."""
    parts = [re.sub(r"[^\w.-]+", "_", part) for part in path.with_suffix("").parts if part not in ("/", "..", ".")]
    name = re.sub(r"^[.-]+", "_", "__".join(parts)) or "video"
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name.encode()[: LONGEST_NAME - 17].decode(errors='ignore')}_{digest}"


def divided(sources: Sequence[Source], test_share: float, known: dict[str, str]) -> list[Source]:
    """Every source with a split: its own, the one it was given before (`known`, by name), or else train, but for a
    share of them, picked by a hash of their names, for test. One at least trains, unless all are asked for.
    """
    order = sorted(sources, key=lambda source: hashlib.sha256(source.name.encode()).digest())
    most = len(order) - (test_share < 1)
    tests = {source.name for source in order[: min(most, int(test_share * len(order) + 0.5))]}
    return [
        replace(source, split=source.split or known.get(source.name) or ("test" if source.name in tests else "train"))
        for source in sources
    ]


def classes(sources: Sequence[Source], numbered: bool) -> tuple[tuple[str, ...], dict[str | None, int | None]]:
    """The names of the classes of all sources, in the order of their numbers; and the number of each label.

    `numbered`: labels that are numbers, as in the published lists, count the classes from 0, and get the name of the
    folder their videos lie in, if that is one to one. Otherwise they are names as others are.
    """
    labels = {source.label for source in sources if source.label is not None}
    if not numbered or not labels or not all(label.isdecimal() for label in labels):
        words = tuple(sorted(labels, key=_by_numbers))
        return words, {None: None, **{label: number for number, label in enumerate(words)}}
    if long := [label for label in labels if len(label) > 9 or int(label) >= 2**16]:
        raise UserError(f"there is a label {short(long[0])}: number the classes from 0")
    count = max(map(int, labels)) + 1
    folders: dict[str, set[str]] = {}
    for source in sources:
        if source.label is not None:
            folders.setdefault(source.label, set()).add(source.video.parent.name)
    names = [next(iter(folders.get(str(number), {str(number)}))) for number in range(count)]
    one_to_one = all(len(found) == 1 for found in folders.values()) and len(set(names)) == count
    words = tuple(names) if one_to_one else tuple(map(str, range(count)))
    return words, {None: None, **{label: int(label) for label in labels}}


def _by_numbers(name: str) -> list[tuple[bool, int, str]]:
    """For sorting: 9 comes before 10."""
    parts = [part for part in re.split(r"(\d{1,9})", name) if part]
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def tables_of(sources: Sequence[Source]) -> list[actions.ActionTable]:
    """The tables of actions beside them. Raises UserError as `read_actions` does."""
    return [actions.read_actions(source.actions) for source in sources if source.actions is not None]
