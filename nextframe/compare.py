"""Evaluations beside each other: their scores, which is better than the first, and what differs between them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nextframe.configfile import dotted
from nextframe.errors import UserError, counted, reason_of
from nextframe.files import described, read_json
from nextframe.metrics.kinds import METRICS
from nextframe.metrics.statistics import EARLY, FEWEST, figures
from nextframe.results import RESULTS, aligned

MADE_BY = ("protocol", "sample", "model.config", "data.folder", "environment.precision", "how")
"""What decides a score, as far as it can be chosen."""
Evaluation = Mapping[str, Any]
"""What `results.json` holds (`results.Results`)."""


def compare(folders: Sequence[Path]) -> list[str]:
    """In lines: a table of scores, differences to the first evaluation, and settings that are not the same.

    `folders`: each the --out of an evaluation. Differences are means over episodes, in pairs, with their 95 %
    confidence intervals, where two have predicted the same frames of the same episodes. Raises UserError for a folder
    without results, or with those of another version.
    """
    found = {str(folder): _read(folder) for folder in folders}
    try:
        return [*_scores(found), "", *_differences(found), "", *_settings(found)]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"results of another version ({reason_of(error)}): evaluate again") from error


def _read(folder: Path) -> Evaluation:
    try:
        found = read_json(folder / RESULTS)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no evaluation: it {described(folder)}; name the --out of one") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / RESULTS} cannot be read ({reason_of(error)}): evaluate again") from None
    if not isinstance(found, dict):
        raise UserError(f"{folder / RESULTS} holds no results: evaluate again")
    return found


def _scores(found: Mapping[str, Evaluation]) -> list[str]:
    """The model of each, by all metrics that any has."""
    metrics = [metric for metric in METRICS if any(metric in one["by_seed"] for one in found.values())]
    rows = [["", *(heading for metric in metrics for heading in _headings(metric))]]
    for name, one in found.items():
        rows.append([name, *(cell for metric in metrics for cell in _cells(one, metric))])
    less = [METRICS[metric].title for metric in metrics if METRICS[metric].lower]
    return aligned(rows) + ([f"less is better: {', '.join(less)}"] if less else [])


def _headings(metric: str) -> list[str]:
    if not METRICS[metric].by_frame:
        return [METRICS[metric].title]
    return [f"{METRICS[metric].title} 1-{EARLY}", "later"]


def _cells(one: Evaluation, metric: str) -> list[str]:
    """Frames 1 to 16 and later ones apart where the metric scores every frame, else one figure of all."""
    if metric not in one["by_seed"]:
        return ["-"] * len(_headings(metric))
    kind = METRICS[metric]
    if not kind.by_frame:
        return [f"{one['by_seed'][metric]['mean']:.{kind.digits}f}"]
    score = one["scores"]["model"][metric]
    return ["-" if part is None else f"{part['mean']:.{kind.digits}f}" for part in (score["early"], score["late"])]


def _differences(found: Mapping[str, Evaluation]) -> list[str]:
    """To the first, in pairs."""
    (first, reference), *others = found.items()
    rows, unlike = [], []
    for name, one in others:
        if _predicted(one) != _predicted(reference):
            unlike.append(f"{name} has predicted other episodes or frames than {first}: it is not compared in pairs")
            continue
        both = [x["scores"]["model"] for x in (one, reference)]
        metrics = [name for name, kind in METRICS.items() if kind.paired and all(name in scores for scores in both)]
        rows += [[name, METRICS[metric].title, *_difference(one, reference, metric)] for metric in metrics]
    if not rows:
        return unlike
    episodes = counted(len(reference["episodes"]), "episode")
    return [f"more than {first}, over all frames of {episodes}, in pairs (95 %):", *aligned(rows), *unlike]


def _predicted(one: Evaluation) -> tuple[Any, ...]:
    return one["episodes"], one["data"]["folder"], one["protocol"]["context"], one["protocol"]["frames"]


def _difference(one: Evaluation, reference: Evaluation, metric: str) -> list[str]:
    values, others = (np.array(x["scores"]["model"][metric]["episodes"]) for x in (one, reference))
    kind, figure = METRICS[metric], figures(values - others)[0]
    digits = kind.digits + 1
    if len(values) < FEWEST:
        said = "too few episodes to tell"
    elif figure.low <= 0 <= figure.high:
        said = "not told apart"
    else:
        said = "better" if kind.sign * figure.mean > 0 else "worse"
    return [f"{figure.mean:+.{digits}f}", f"({figure.low:+.{digits}f} to {figure.high:+.{digits}f})", said]


def _settings(found: Mapping[str, Evaluation]) -> list[str]:
    """Those that are not the same in all."""
    chosen = [
        {name: value for name, value in dotted(one) if name.startswith(MADE_BY)} | {"run": one["model"]["run"]}
        for one in found.values()
    ]
    names = dict.fromkeys(name for settings in chosen for name in settings)
    differing = [name for name in names if any(x.get(name) != chosen[0].get(name) for x in chosen)]
    if not differing:
        return ["made alike: no setting differs"]
    rows = [[name.removeprefix("model.config."), *(str(x.get(name, "-")) for x in chosen)] for name in differing]
    return ["what differs:", *aligned([["", *found], *rows])]
