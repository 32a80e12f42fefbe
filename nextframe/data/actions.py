"""Actions as people keep them, one row per frame: csv, jsonl, npz or npy files of ids, names or vectors."""

import csv
import json
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nextframe.data.arrays import arrays_of
from nextframe.data.episodes import ActionKind
from nextframe.errors import UserError, reason_of
from nextframe.files import can_be_told

L = TypeVar("L", str, list[str])
SUFFIXES = (".csv", ".jsonl", ".npz", ".npy")
COUNTER = re.compile(r"|(frame|index)([ _-]?(id|idx|index|no|nr|num|number))?")
CLOCK = re.compile(r"t|(time|timestamp)([^a-z].*)?")
"""Columns that count frames or seconds; they are no actions. One without a name is the index that tables come with."""
COUNTED = 16
"""Rows from which a column that counts them is no action, whatever it is called."""
ACTION = ("action", "actions")
"""Columns that are the actions, whatever is beside them."""
TRUTH = {"false": 0.0, "true": 1.0}
MEND = "mend it, or leave the video out with --skip-bad"
"""How the reason ends for which a video cannot be imported."""


def without_way_out(error: UserError) -> str:
    """Why a video was left out: the message without its advice."""
    return str(error).removesuffix(MEND).rstrip(":; ")


@dataclass(frozen=True)
class ActionTable:
    """The rows of one file. Exactly one of `ids` (int64 [f]), `words` and `vectors` (float64 [f, a]) is there.

    names: of the numbers of a vector, or of the ids, where the file has them.
    """

    path: Path
    ids: np.ndarray | None = None
    words: tuple[str, ...] | None = None
    vectors: np.ndarray | None = None
    names: tuple[str, ...] = ()
    from_one: bool = False
    """The file counts its rows, and begins with 1."""

    @property
    def kind(self) -> ActionKind:
        return "vector" if self.vectors is not None else "id"

    def __len__(self) -> int:
        rows = next(rows for rows in (self.ids, self.words, self.vectors) if rows is not None)
        return len(rows)


def read_actions(path: Path) -> ActionTable:
    """Read a file by its suffix. Raises UserError when it is missing, damaged, or no table of actions.

    csv: a column of ids or of names; or several columns of numbers, under a line with their names. Where one of several
    is called `action`, it alone counts. A column `frame` must count the rows, from 0 or 1, and one of seconds go
    forward; neither is an action, nor is any other that counts the rows.
    jsonl: on each line an id, a name, a list of numbers, or an object: of numbers by name, or with such an `action`.
    npz, npy: the array `actions` (or the only one), integers or names [f] or numbers [f, a]; maybe `action_names`.
    """
    try:
        if path.suffix.lower() == ".csv":
            return _from_csv(path)
        if path.suffix.lower() == ".jsonl":
            return _from_jsonl(path)
        return _from_arrays(path)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is no table of actions ({reason_of(error)}): {MEND}") from error


def _from_csv(path: Path) -> ActionTable:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = without_blank_end(list(csv.reader(file, strict=True, skipinitialspace=True)))
    if not rows:
        raise ValueError("it is empty")
    if not all(rows):
        raise ValueError(f"line {rows.index([]) + 1} is blank: a row is missing, or one too many is there")
    if len(rows[0]) == 1 and (mark := next((mark for mark in ";\t" if mark in rows[0][0]), None)):
        raise ValueError(f"its cells are separated by {mark!r}: separate them by commas")
    if all(len(row) > 1 and not row[-1].strip() for row in rows):  # every line ends in a comma
        rows = [row[:-1] for row in rows]
    header: list[str] = []
    # A column of names may have no header: only `action` and the like, or a header over numbers, is one.
    titles = [cell.strip().lower() for cell in rows[0]]
    several = len(rows[0]) > 1
    if titles[0] in ACTION or (not _all_numbers(rows[0]) and (several or _all_numbers(rows[-1]))):
        header, rows = [cell.strip() for cell in rows[0]], rows[1:]
    width = len(header) or len(rows[0])
    for number, row in enumerate(rows):
        if len(row) != width:
            raise ValueError(f"row {number} has {len(row)} cells, not {width}")
    columns: dict[str, list[str]] = {
        name: [row[place].strip() for row in rows] for place, name in enumerate(header or map(str, range(width)))
    }
    if len(columns) != width:
        raise ValueError("two columns have one name")
    counters = _counters(columns)
    from_one = any([_check_clock(name, columns.pop(name)) == 1 for name in counters])
    if header:
        columns = {name: cells for name, cells in columns.items() if name.lower() in ACTION} or columns
    names = tuple(columns) if header else ()
    for name, cells in columns.items():
        if "" in cells:
            raise ValueError(f"row {cells.index('')} of column {name!r} is blank: a row is one frame's action")
    if len(columns) == 1:
        (cells,) = columns.values()
        _check_words(cells, titled=bool(header))
        table = _table(path, [_scalar(cell) for cell in cells], names)
    else:
        columns_of_numbers = [_numbers(name, cells) for name, cells in columns.items()]
        table = _table(path, [list(row) for row in zip(*columns_of_numbers, strict=True)], names)
    return replace(table, from_one=from_one)


def _numbers(name: str, cells: Sequence[str]) -> list[float]:
    """One column of several. Raises ValueError where it is not of numbers."""
    try:
        return [TRUTH[cell.lower()] if cell.lower() in TRUTH else float(cell) for cell in cells]
    except ValueError:
        raise ValueError(
            f"column {name!r} is not of numbers (the first line has the names): leave it out, write a 0 or 1 a key in "
            "columns of their own, or call the one that has the actions `action`"
        ) from None


def _check_words(cells: Sequence[str], titled: bool) -> None:
    """Raises ValueError where a single column begins with an unknown header."""
    first, *others = cells or [""]
    if not titled and isinstance(_scalar(first), str) and others and first not in others:
        raise ValueError(
            f"its first line, {first!r}, does not come again: if it is a header, call it `action`; if it is an "
            "action, put a line `action` above it"
        )


def without_blank_end(lines: list[L]) -> list[L]:
    """Lines, but for empty ones at the end."""
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _is_clock(name: str) -> bool:
    return bool(COUNTER.fullmatch(name.lower()) or CLOCK.fullmatch(name.lower()))


def _counters(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Columns that are no actions: by their names, or because they are one of several and count the rows."""
    rows = len(next(iter(columns.values())))
    counts = [list(map(str, range(first, first + rows))) for first in (0, 1)] if rows >= COUNTED else []
    several = len(columns) > 1
    return [name for name, cells in columns.items() if _is_clock(name) or (several and list(cells) in counts)]


def _check_clock(name: str, cells: Sequence[Any]) -> float | None:
    """A column that counts frames must count them all, one of seconds must go forward. Returns the first count."""
    try:
        times = [float(cell) for cell in cells]
    except (TypeError, ValueError):
        raise ValueError(f"column {name!r} is not of numbers: leave it out") from None
    counts = not CLOCK.fullmatch(name.lower())
    for row, (before, after) in enumerate(pairwise(times)):
        if (after != before + 1) if counts else not after >= before:
            raise ValueError(f"column {name!r} goes from {before:g} to {after:g} at row {row + 1}")
    if counts and times and times[0] not in (0, 1):
        raise ValueError(f"column {name!r} begins at {times[0]:g}, not at the first frame")
    return times[0] if counts and times else None


def _from_jsonl(path: Path) -> ActionTable:
    lines = without_blank_end([line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()])
    if not all(lines):
        raise ValueError(f"line {lines.index('') + 1} is blank: a row is missing, or one too many is there")
    rows: list[Any] = [json.loads(line) for line in lines]
    from_one = False
    if rows and all(isinstance(row, dict) for row in rows):
        clocks = [name for name in rows[0] if _is_clock(name) and all(name in row for row in rows)]
        from_one = any([_check_clock(name, [row[name] for row in rows]) == 1 for name in clocks])
        key = next((key for key in ACTION if all(key in row for row in rows)), None)
        if key is not None:
            rows = [row[key] for row in rows]
    if rows and all(isinstance(row, dict) for row in rows):
        names = tuple(name for name in rows[0] if not _is_clock(name))
        if any({name for name in row if not _is_clock(name)} != set(names) for row in rows):
            raise ValueError("not every line has the same names")
        if words := [name for name in names if any(isinstance(row[name], str) for row in rows)]:
            raise ValueError(f"{words[0]!r} is not of numbers: leave it out, or call it `action` if it is that")
        return replace(_table(path, [[float(row[name]) for name in names] for row in rows], names), from_one=from_one)
    return replace(_table(path, rows, ()), from_one=from_one)


def _from_arrays(path: Path) -> ActionTable:
    arrays = load_arrays(path, unread=("video",))
    for key in reversed(ACTION):
        if key in arrays:
            break
    else:
        if len(arrays) != 1:
            raise ValueError(f"it has no array `actions` but {', '.join(sorted(arrays)) or 'none at all'}")
        key = next(iter(arrays))
    table = table_of(path, arrays[key], tuple(map(str, arrays.get("action_names", np.empty(0, str)).ravel())))
    if table.ids is not None and table.names and table.ids.max(initial=0) >= len(table.names):
        raise ValueError(f"it has {len(table.names)} `action_names` and actions up to {table.ids.max()}")
    if table.vectors is not None and table.names and len(table.names) != table.vectors.shape[1]:
        raise ValueError(f"it has {len(table.names)} `action_names`, actions have {table.vectors.shape[1]} numbers")
    return table


def load_arrays(path: Path, unread: Container[str] = ()) -> dict[str, np.ndarray]:
    """As `arrays_of`, of a file. Raises OSError too."""
    with path.open("rb") as file:
        return arrays_of(file, unread)


def table_of(path: Path, actions: np.ndarray, names: tuple[str, ...]) -> ActionTable:
    """An array as it comes: integers or names [f], or numbers [f, a]. Raises ValueError for anything else."""
    if actions.ndim == 2 and actions.shape[1] == 1 and actions.dtype.kind in "biu":
        actions = actions[:, 0]
    if actions.ndim == 1 and actions.dtype.kind in "biu":
        return ActionTable(path, ids=_checked_ids(actions.astype(np.int64)), names=names)
    if actions.ndim == 1 and actions.dtype.kind == "U":
        return ActionTable(path, words=tuple(map(str, actions)))
    if actions.ndim == 1 and actions.dtype.kind == "f":
        actions = actions[:, None]
    if actions.ndim == 2 and actions.dtype.kind in "biuf":  # of no numbers: footage without actions
        return ActionTable(path, vectors=_checked_vectors(actions.astype(np.float64)), names=names)
    raise ValueError(f"actions are {actions.dtype} {list(actions.shape)}, not one row of numbers per frame")


def _table(path: Path, rows: list[Any], names: tuple[str, ...]) -> ActionTable:
    if not rows:
        raise ValueError("it has no rows")
    if all(isinstance(row, str) for row in rows):
        return ActionTable(path, words=tuple(rows))
    if all(isinstance(row, int) for row in rows):
        return ActionTable(path, ids=_checked_ids(np.array(rows, np.int64)))
    if all(isinstance(row, int | float) for row in rows):
        rows = [[row] for row in rows]
    alike = all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows)
    if alike and rows[0] and all(isinstance(number, int | float) for row in rows for number in row):
        return ActionTable(path, vectors=_checked_vectors(np.array(rows, np.float64)), names=names)
    raise ValueError("rows are of several kinds: give an id, a name or a list of numbers on each")


def _checked_ids(ids: np.ndarray) -> np.ndarray:
    if len(ids) and not 0 <= ids.min() <= ids.max() < 2**16:
        raise ValueError(f"ids from {ids.min()} to {ids.max()}: number actions from 0, or write amounts as -1.0")
    return ids


def _checked_vectors(vectors: np.ndarray) -> np.ndarray:
    if not np.isfinite(vectors).all():
        raise ValueError(f"row {int((~np.isfinite(vectors)).any(1).argmax())} is not finite")
    return vectors


def _scalar(cell: str) -> int | float | str:
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        number = float(cell)
    except ValueError:
        return cell
    return number if math.isfinite(number) else cell


def _all_numbers(cells: Iterable[str]) -> bool:
    return all(not isinstance(_scalar(cell.strip()), str) for cell in cells)


@dataclass(frozen=True)
class Vocabulary:
    """What all tables of a dataset have in common: the kind of action, and the names."""

    kind: ActionKind = "none"
    names: tuple[str, ...] = ()

    def actions(self, table: ActionTable | None, rows: np.ndarray) -> np.ndarray:
        """Those of these rows, as an episode keeps them: int64 [f], or float32 [f, a]."""
        if table is None:
            return np.zeros((len(rows), 0), np.float32)
        if table.vectors is not None:
            return table.vectors[rows].astype(np.float32)
        if table.words is not None:
            return np.array([self.names.index(table.words[row]) for row in rows], np.int64)
        assert table.ids is not None
        return table.ids[rows]


def vocabulary(tables: Sequence[ActionTable], names: tuple[str, ...] = ()) -> Vocabulary:
    """The kind and names of all `tables`; `names`: given by the user, in place of the files'.

    Ids without names are called by their numbers. Raises UserError when the tables do not go together.
    """
    if strange := [name for name in names if not can_be_told(name)]:
        raise UserError(f"--action-names has {strange[0][:200]!r}, which cannot be printed: choose another")
    if not tables:
        return Vocabulary()
    first = tables[0]
    for table in tables:
        if table.kind != first.kind or (table.words is None) != (first.words is None):
            raise UserError(f"{table.path} and {first.path} hold actions of different kinds: make them alike")
        if strange := [name for name in (*(table.names or ()), *set(table.words or ())) if not can_be_told(name)]:
            raise UserError(f"{table.path} calls an action {strange[0][:200]!r}, which cannot be printed: rename it")
        if table.names != first.names:
            raise UserError(f"{table.path} and {first.path} name their actions differently: make them alike")
    if first.vectors is not None:
        size = first.vectors.shape[1]
        for table in tables:
            assert table.vectors is not None
            if (here := table.vectors.shape[1]) != size:
                raise UserError(f"{table.path} has {here} numbers an action, {first.path} {size}: make them alike")
        if not size:
            return Vocabulary()
        found = names or first.names or tuple(map(str, range(size)))
        if len(found) != size:
            raise UserError(f"--action-names has {len(found)} names, actions have {size} numbers: name each")
        return Vocabulary("vector", found)
    if first.words is not None:
        words = sorted({word for table in tables for word in table.words or ()})
        if unknown := [word for word in words if names and word not in names]:
            raise UserError(f"the actions {', '.join(unknown)} are not among --action-names: add them")
        return Vocabulary("id", names or tuple(words))
    most = max(int(table.ids.max(initial=0)) for table in tables if table.ids is not None) + 1
    found = names or first.names or tuple(map(str, range(most)))
    if len(found) < most:
        raise UserError(f"there are actions 0 to {most - 1}, and {len(found)} names: give as many to --action-names")
    return Vocabulary("id", found)
