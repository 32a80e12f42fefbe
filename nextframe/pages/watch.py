"""How runs are getting on, on one page: figures, curves over each other, and the newest clips."""

import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from nextframe.journal import METRICS, Record, read_log
from nextframe.pages import html
from nextframe.pages.charts import Line, line_chart
from nextframe.progress import clock

COLOURS = ("#149e8b", "#d9822b", "#8b5fc7", "#c94f7c", "#4a7fd0", "#8a939d")
"""Of the runs, in their order; then again from the first."""
MOST_POINTS = 400
"""Of a line: of longer logs the means of neighbours are drawn."""
SMOOTH = ("loss", "gradient_norm")
CHARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Loss", "loss", ("loss", "held_out_loss")),
    ("Gradient norm, before it is clipped", "norm", ("gradient_norm",)),
    ("Distance of the averaged weights from the weights, as a share of their norm", "share", ("average_distance",)),
    ("Norm of the weights", "norm", ("weight_norm",)),
    ("Throughput", "samples a second", ("samples_per_second",)),
    ("Arithmetic, as a share of the machine's rate of matrix products", "share", ("machine_share",)),
    ("Waiting for data, as a share of the time", "share", ("data_wait",)),
    ("Most memory held until then", "GiB", ("memory_gib",)),
    ("Learning rate", "rate", ("learning_rate",)),
)
"""Caption, name of the axis, and what is drawn; a chart that there is nothing for is left out."""
NAMES = {"held_out_loss": "held out", "generator_loss": "generator", "discriminator_loss": "discriminator"}
NO_LEVELS = ("l1", "lpips", "generator_loss", "discriminator_loss")
REFRESH_SECONDS = 10
SCRIPT = """
setInterval(async () => {
  const answer = await fetch(location.href).catch(() => null);
  const text = await answer?.text().catch(() => null);
  const said = answer?.ok ? "" : text ?? "Nobody answers any more: start nextframe watch again to see what is new.";
  const line = document.getElementById("silent");
  line.hidden = !said;
  if (line.textContent !== said) line.textContent = said;
  document.title = (said ? "(no answer) " : "") + document.title.replace("(no answer) ", "");
  if (said) return;
  const page = new DOMParser().parseFromString(text, "text/html");
  for (const old of document.querySelectorAll("section")) {
    const fresh = page.getElementById(old.id);
    if (fresh && fresh.innerHTML !== old.innerHTML) old.replaceWith(document.adoptNode(fresh));
  }
}, %d);
"""


def watch_page(runs: Sequence[Path], refreshed: bool) -> str:
    """An HTML page on training runs. Raises UserError when a run is none.

    `refreshed`: the page asks again and again where it came from, and shows what is new.
    """
    names = titles(runs)
    logs = {name: read_log(run) for name, run in zip(names, runs, strict=True)}
    body = [
        html.paragraph("nextframe: runs in training", "over"),
        html.heading(", ".join(names), 1),
        _section("figures", _figures(dict(zip(names, runs, strict=True)), logs)),
        _section("curves", _curves(logs)),
        _section("clips", _clips(dict(zip(names, runs, strict=True)))),
    ]
    if refreshed:
        body.append('<p id="silent" class="banner" role="status" hidden></p>')
        body.append(f"<script>{SCRIPT % (1000 * REFRESH_SECONDS)}</script>")
    return html.page(f"nextframe watch: {', '.join(names)}", body)


def titles(runs: Sequence[Path]) -> list[str]:
    """Names of folders, or whole paths where two runs have one name."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _section(name: str, content: Iterator[str]) -> str:
    return f'<section id="{name}">{"".join(content)}</section>'


def _figures(runs: Mapping[str, Path], logs: Mapping[str, list[Record]]) -> Iterator[str]:
    head = (
        "",
        "step",
        "loss",
        "held out",
        "trained for",
        "s/step",
        "samples/s",
        "matrix rate",
        "memory",
        "newest line",
    )
    rows = []
    for name, log in logs.items():
        if not log:
            rows.append([name, *("–" for _ in head[2:]), "none yet"])
            continue
        last: Record = {}
        for record in log:
            last |= record
        logged = time.localtime((runs[name] / METRICS).stat().st_mtime)
        rows.append(
            [
                name,
                f"{last['step']:,.0f}",
                _number(last, "loss", "{:.4f}"),
                _number(last, "held_out_loss", "{:.4f}"),
                clock(last.get("seconds", 0.0)),
                _number(last, "seconds_per_step", "{:.3g}"),
                _number(last, "samples_per_second", "{:.3g}"),
                _number(last, "machine_share", "{:.0%}"),
                _number(last, "memory_gib", "{:.2f} GiB"),
                time.strftime("%b %d, %H:%M:%S", logged),
            ]
        )
    yield html.table(head, rows)


def _number(record: Record, name: str, shape: str) -> str:
    return shape.format(record[name]) if name in record else "–"


def _curves(logs: Mapping[str, list[Record]]) -> Iterator[str]:
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(logs)}
    swatches = (f'<span><i style="background:{colours[name]}"></i>{escape(name)}</span>' for name in logs)
    yield f'<div class="legend">{"".join(swatches)}</div>'
    known = {figure for log in logs.values() for record in log for figure in record}
    levels = tuple(sorted(figure for figure in known if figure.startswith("loss_at_")))
    parts = tuple(figure for figure in NO_LEVELS if figure in known)
    further = [("Loss by noise level, in fifths", "loss", levels), ("Terms of the loss", "value", parts)]
    charts = []
    for caption, axis, figures in (CHARTS[0], *further, *CHARTS[1:]):
        lines = [line for name, log in logs.items() for line in _lines(log, figures, colours[name])]
        if lines:
            charts.append(
                html.chart(line_chart(lines, axis, axis not in ("loss", "norm", "value")), f"{caption}{_key(figures)}")
            )
    yield html.grid(*charts)


def _key(figures: Sequence[str]) -> str:
    """What the lines of one colour are."""
    if figures == CHARTS[0][2]:
        held_out = "dotted held out (runs compare where their clips are set alike)"
        return f": of the steps (their running median; thin: each line of the log), and {held_out}"
    if len(figures) > 1:
        first, last = (NAMES.get(name, name.removeprefix("loss_at_")) for name in (figures[0], figures[-1]))
        return f": from {first}, faint, to {last}, strong"
    return ""


def _lines(log: list[Record], figures: Sequence[str], colour: str) -> Iterator[Line]:
    for number, figure in enumerate(figures):
        points = np.array([(record["step"], record[figure]) for record in log if figure in record])
        if len(points):
            dots = figure == "held_out_loss"
            faint = 0.0 if dots or "held_out_loss" in figures else 0.75 * (1 - (number + 1) / len(figures))
            steps, values = thinned(points).T.tolist()
            yield Line(steps, values, colour, faint, figure in SMOOTH, dots)


def thinned(points: np.ndarray) -> np.ndarray:
    """[n, 2] -> at most `MOST_POINTS` of them, each the mean of neighbours."""
    parts = np.array_split(points, min(len(points), MOST_POINTS))
    return np.stack([part.mean(axis=0) for part in parts])


def _clips(runs: Mapping[str, Path]) -> Iterator[str]:
    newest = {name: sorted((run / "samples").glob("[0-9]*.mp4"))[-1:] for name, run in runs.items()}
    if any(newest.values()):
        yield html.heading("Held-out clips")
        yield html.paragraph(
            "To the left the footage (of a world model: as its autoencoder gives it back), to the right the model with "
            "its averaged weights. Amber: what it was given. Teal: what it made.",
            "soft",
        )
    for name, found in newest.items():
        if found:
            step = found[0].name.partition("-")[0]
            clips = sorted(found[0].parent.glob(f"{step}-*.mp4"))
            yield html.heading(f"{name}, step {int(step):,}", 3)
            yield html.grid(*(html.mp4_video(clip.read_bytes(), "") for clip in clips))
