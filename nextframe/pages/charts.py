"""Curves as SVG inside a page, in the colours of the page and of its dark mode."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from nextframe.errors import UserError
from nextframe.journal import read_log
from nextframe.metrics.kinds import METRICS
from nextframe.metrics.statistics import EARLY
from nextframe.results import METHODS, Method, Results

METHOD_COLOURS: dict[Method, str] = {
    "model": "#149e8b",
    "repeat_last": "#d9822b",
    "context_mean": "#8b5fc7",
    "reconstruction": "#8a939d",
}
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
    axes.set_ylabel(METRICS[metric].axis)
    return _svg(figure)


@dataclass(frozen=True)
class Line:
    """One line of a chart; `faint`: of a colour that others of the chart have too, 0 to 1."""

    steps: Sequence[float]
    values: Sequence[float]
    colour: str
    faint: float = 0.0
    smooth: bool = False
    """Drawn as a running median over a twentieth of it, over a thin line of all there is."""
    dots: bool = False


def line_chart(lines: Sequence[Line], label: str, from_zero: bool) -> str:
    """Figures of training over its steps."""
    figure, axes = _figure()
    for line in lines:
        values = np.array(line.values)
        if line.smooth:
            axes.plot(line.steps, values, color=line.colour, linewidth=0.7, alpha=0.35)
            values = running_median(values, len(values) // 20)
        alone = len(values) == 1  # of which no line can be drawn
        marker = {"marker": "o", "markersize": 4, "linestyle": ":"} if line.dots or alone else {}
        axes.plot(line.steps, values, color=line.colour, linewidth=1.8, alpha=1 - line.faint, **marker)
    if (smooth := [line for line in lines if line.smooth]) and all(len(line.values) > 20 for line in smooth):
        # The first records would squeeze the rest into a line.
        shown = np.concatenate([line.values for line in lines])
        axes.set_ylim(0.98 * shown.min(), max(np.quantile(line.values, 0.95) for line in smooth) * 1.05)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("training step")
    axes.set_ylabel(label)
    axes.ticklabel_format(useOffset=False)
    axes.xaxis.set_major_locator(_ticks())
    return _svg(figure)


def loss_curve(run: Path) -> str:
    """The loss of a training run over its steps. Raises UserError where there is none."""
    records = read_log(run)
    if not records:
        raise UserError(f"{run} has no records yet: train longer, or lower --train.log-every")
    learnt = [(record["step"], record["loss"]) for record in records if "loss" in record]
    if not learnt:
        raise UserError(f"{run} has no loss yet that is a number: lower --train.optimizer.learning-rate")
    steps, losses = zip(*learnt, strict=True)
    return line_chart([Line(steps, losses, METHOD_COLOURS["model"], smooth=True)], "loss", from_zero=False)


def _ticks() -> Any:
    """Few of them, and only whole steps."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(6, integer=True)


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
