"""The part of a report on drift, memory of places and obedience; and the authors' rows beside ours."""

from collections.abc import Iterator
from typing import Any

from nextframe.config import SampleConfig
from nextframe.metrics.kinds import METRICS
from nextframe.metrics.statistics import Score
from nextframe.pages import html
from nextframe.pages.charts import error_curves, legend
from nextframe.pages.scores import interval
from nextframe.presets import PROTOCOLS
from nextframe.protocol import Protocol
from nextframe.published.tables import PUBLISHED, Row
from nextframe.results import METHODS, REFERENCES, Results

QUESTIONS = {"drift": "Does it stay itself?", "control": "Does it obey?"}
TEXTS = {
    "drift": "How far predicted frames move away from the look of true ones (brightness, contrast, colour, sharpness), "
    "on average over episodes: 0 is no drift, 1 as far as true frames lie apart.",
    "control": "Share of frames that are where their action leads, as a small network reads it that has learned from "
    "true footage. ",
}


def behaviour(results: Results) -> Iterator[str]:
    """Curves of drift and control, bars of revisits, where they were computed."""
    curves = [metric for metric in TEXTS if metric in results.scores["model"]]
    if curves:
        yield html.heading(" ".join(QUESTIONS[metric] for metric in curves))
        texts = dict(TEXTS)
        if results.control:
            truth, guess = (f"{results.control[name].early.mean:.0%}" for name in ("truth", "guess"))
            texts["control"] += (
                f"Of frames 1-16 it reads {truth} off the truth; always guessing the commonest: {guess}."
            )
        yield from (html.paragraph(texts[metric], "soft") for metric in curves)
        yield legend()
        yield html.grid(*(html.chart(error_curves(results, metric), METRICS[metric].title) for metric in curves))
        names = {**METHODS, **(REFERENCES if results.control else {})}
        rows = []
        for method, name in names.items():
            scores = {"control": results.control[method]} if method not in METHODS else results.scores[method]
            cells = [scores.get(metric) for metric in curves]
            rows.append([name, *(_early_and_late(metric, cell) for metric, cell in zip(curves, cells, strict=True))])
        yield html.table(["mean (95 % interval), frames 1-16 / later", *(METRICS[one].title for one in curves)], rows)
    shown = [group for group in results.revisit if group.frames]
    if shown:
        yield html.heading("Does it remember places?")
        text = (
            "PSNR of predicted frames by how long ago the context showed the same view (same place, facing the same "
            "way, by the logged poses). A model that remembers does better on those than on views it was never shown."
        )
        yield html.paragraph(text, "soft")
        models = [(one.group, one.scores["model"]) for one in shown]
        yield html.bars([(group, [found.mean], f"{interval(found, 'revisit')} dB") for group, found in models])
        rows = [
            [one.group, f"{one.frames:,}", f"{one.episodes}"]
            + [interval(one.scores[method], "revisit") for method in METHODS]
            for one in shown
        ]
        yield html.table(["PSNR (dB) of views", "frames", "episodes", *METHODS.values()], rows)


def _early_and_late(metric: str, score: Score | None) -> str:
    if score is None:
        return ""
    return interval(score.early, metric) + (f" / {interval(score.late, metric)}" if score.late else "")


def beside_published(results: Results) -> Iterator[str]:
    """The paper's layout: a line a model, and the lines the authors printed of the same protocol."""
    protocol = results.protocol
    published = PUBLISHED.get(protocol.name, ())
    if not published:
        return
    metrics = [metric for metric in ("ssim", "psnr", "lpips", "fvd") if metric in PROTOCOLS[protocol.name].metrics]
    yield html.heading("Beside the paper")
    text = (
        "Theirs as printed in the paper and beside the released models, of the named footage; ours of that below. "
        + (
            "Measured as their script does, as far as docs/paper.md says."
            if protocol.fvd_frames == "all"
            else "Their script measures otherwise in places: see --as-published."
        )
    )
    yield html.paragraph(text, "soft")
    if other := unlike_the_papers(protocol, results.sample):
        yield html.paragraph(f"This is not the paper's protocol: {'; '.join(other)}.", "bad")
    ours = [results.figure(metric) if metric in (*results.by_seed, *results.missing) else "" for metric in metrics]
    rows = [["this model", results.data["folder"], *ours]]
    for row in published:
        rows.append([f"{row.model} (paper)", row.said_of, *(_printed(row, metric) for metric in metrics)])
    yield html.table(["", "footage", *(METRICS[metric].title for metric in metrics)], rows)


def unlike_the_papers(protocol: Protocol, sample: SampleConfig) -> list[str]:
    """In what a protocol falls short of the paper's of its name: `2 episodes, not 256`."""
    papers = PROTOCOLS[protocol.name]
    words = {
        "context": "frames of context",
        "frames": "predicted frames",
        "episodes": "episodes",
        "seeds": "as seeds",
        "trajectories": "trajectories",
        "steps": "steps a frame",
    }
    words |= {"guidance": "as guidance", "split": "as split"}
    told = {name: [_in_a_word(getattr(one, name)) for one in (protocol, papers)] for name in words}
    unlike = [f"{ours} {words[name]}, not {theirs}" for name, (ours, theirs) in told.items() if ours != theirs]
    usual = SampleConfig()  # of what a protocol has no word about, the published samplers do this
    others = ("solver", "memory", "slide", "riflex", "temporal_decay")
    return unlike + [
        f"{getattr(sample, name)} as {name}" for name in others if getattr(sample, name) != getattr(usual, name)
    ]


def _in_a_word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else "its own" if value is None else f"{value}"


def _printed(row: Row, metric: str) -> str:
    value = getattr(row, metric)
    if value is None:
        return ""
    deviation = f" ± {row.fvd_deviation:g}" if metric == "fvd" and row.fvd_deviation is not None else ""
    return f"{value:.{METRICS[metric].digits}f}" + deviation
