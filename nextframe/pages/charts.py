"""Curves as SVG inside a page, in the colours of the page and of its dark mode."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from nextframe.data.arrays import reason_of
from nextframe.errors import UserError
from nextframe.metrics.statistics import EARLY
from nextframe.results import METHODS, Method, Results

METHOD_COLOURS: dict[Method, str] = {
    "model": "#149e8b",
    "repeat_last": "#d9822b",
    "context_mean": "#8b5fc7",
    "reconstruction": "#8a939d",
}
UNITS = {"psnr": "PSNR in dB (higher is better)", "ssim": "SSIM (1 is identical)", "lpips": "LPIPS (lower is better)"}
UNITS |= {"drift": "drift (lower is better)", "control": "share that obeys its action"}
INK = "#012345"
"""Drawn in this colour, shown in the page's own text colour."""


def error_curves(results: Results, metric: str) -> str:
    """One metric at every predicted frame, all methods; the band is the model's 95 % confidence interval."""
    figure, axes = _figure()
    for method in METHODS:
        points = results.scores[method][metric].frames
        frames = np.arange(1, len(points) + 1)
        colour, ceiling = METHOD_COLOURS[method], method == "reconstruction"
        axes.plot(
            frames,
            [point.mean for point in points],
            color=colour,
            linewidth=2.2 if method == "model" else 1.5,
            linestyle="--" if ceiling else "-",
        )
        if method == "model":
            low, high = [point.low for point in points], [point.high for point in points]
            axes.fill_between(frames, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.axvspan(1, min(EARLY, results.protocol.frames), color=INK, alpha=0.05, linewidth=0)
    axes.set_xlim(1, max(2, results.protocol.frames))
    axes.set_xlabel("predicted frame")
    axes.set_ylabel(UNITS[metric])
    return _svg(figure)


def loss_curve(run: Path) -> str:
    """The loss of a training run over its steps: every record, and a running median over a twentieth of them."""
    records = read_metrics(run)
    steps, losses = np.array([[record["step"], record["loss"]] for record in records]).T
    figure, axes = _figure()
    axes.plot(steps, losses, color=METHOD_COLOURS["reconstruction"], linewidth=0.8, alpha=0.5)
    axes.plot(steps, running_median(losses, max(1, len(losses) // 20)), color=METHOD_COLOURS["model"], linewidth=2.2)
    # The first records would squeeze the rest into a line.
    axes.set_ylim(0.98 * losses.min(), np.quantile(losses, 0.97) * 1.05)
    axes.set_xlabel("training step")
    axes.set_ylabel("loss")
    return _svg(figure)


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The records of a run's `metrics.jsonl`, by step. Raises UserError when it is missing, empty or damaged.

    A resumed run logs again what it had done since its last checkpoint; the newer record counts.
    """
    path = run / "metrics.jsonl"
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        by_step = {float(record["step"]): record for record in records if "loss" in record}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({reason_of(error)}): give a run that has been trained") from error
    if not by_step:
        raise UserError(f"{path} has no records yet: train longer, or lower --train.log-every")
    return [by_step[step] for step in sorted(by_step)]


def running_median(values: np.ndarray, reach: int) -> list[float]:
    """The median of each value and its `reach` neighbours on either side."""
    return [float(np.median(values[max(0, place - reach) : place + reach + 1])) for place in range(len(values))]


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"a report needs matplotlib ({error}): pip install 'nextframe[report]'") from error
    figure = Figure(figsize=(5.2, 3.3), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
        axes.spines[side].set_alpha(0.4)
    axes.tick_params(colors=INK, labelsize=11)
    axes.xaxis.label.set(color=INK, size=12)
    axes.yaxis.label.set(color=INK, size=12)
    axes.grid(axis="y", color=INK, alpha=0.12)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib

    text = StringIO()
    # Text stays text, in the font of the page; the same picture has the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "nextframe"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawing = text.getvalue().replace(INK, "currentColor").replace("'DejaVu Sans', ", "")
    return drawing[drawing.index("<svg") :]


def legend() -> str:
    """Which colour is which method."""
    swatches = {method: f'<i style="background:{METHOD_COLOURS[method]}"></i>' for method in METHODS}
    return f'<div class="legend">{"".join(f"<span>{swatches[name]}{METHODS[name]}</span>" for name in METHODS)}</div>'
