"""The part of a report that says how good the predictions are: in words, in tiles, in curves and in tables."""

from collections.abc import Iterator, Mapping

from nextframe.errors import counted
from nextframe.metrics.kinds import METRICS
from nextframe.metrics.statistics import EARLY, FEWEST, Figure
from nextframe.pages import html
from nextframe.pages.charts import error_curves, legend
from nextframe.results import BASELINES, METHODS, Method, Results


def span_name(results: Results, late: bool) -> str:
    last = results.protocol.frames
    return f"{EARLY + 1}-{last}" if late else f"1-{min(EARLY, last)}"


def combination(results: Results) -> str:
    """How several predictions of an episode became one score, in a sentence; "" where there was one."""
    seeds, trajectories = results.protocol.seeds, results.protocol.trajectories
    parts = []
    if trajectories > 1 and results.frame_metrics:
        parts.append(f"by each metric the best of {trajectories} predictions of an episode counts")
    if trajectories > 1 and "fvd" in results.by_seed:
        parts.append(f"the FVD is the mean over {trajectories} predictions of all episodes")
    if len(seeds) > 1:
        parts.append(f"all was done with seeds {', '.join(map(str, seeds))}, and scores are their mean")
    text = "; ".join(parts)
    return text and f"{text[0].upper()}{text[1:]}."


def verdict(results: Results, late: bool) -> str:
    """In words: which baselines the model beats over the early or the late frames; "" where there are no late ones.

    It is better or worse than one only where the 95 % confidence interval of the difference lies on one side of zero,
    and neither with fewer than `FEWEST` episodes. "" too where PSNR was not asked for.
    """
    if "psnr" not in results.frame_metrics:
        return ""
    last = "late" if late else "early"
    leads: dict[Method, dict[str, Figure]] = {
        name: {metric: getattr(results.gains[name][metric], last) for metric in results.frame_metrics}
        for name in BASELINES
    }
    if any(figure is None for by_metric in leads.values() for figure in by_metric.values()):
        return ""
    means = {method: f"{figure_of(results, method, 'psnr', late).mean:.1f}" for method in METHODS}
    against = " and ".join(means[baseline] for baseline in BASELINES)
    baselines = f"“{METHODS['repeat_last']}” and “{METHODS['context_mean']}”"
    if too_few(results):
        said = (
            f"its PSNR is {means['model']} dB, against {against} of {baselines}. Which is really better "
            f"{counted(len(results.episodes), 'episode')} cannot tell: predict {FEWEST} or more."
        )
    elif all(figure.low > 0 for by_metric in leads.values() for figure in by_metric.values()):
        smaller = 10 ** (min(by_metric["psnr"].mean for by_metric in leads.values()) / 10)
        titles = " and on ".join(METRICS[metric].title for metric in results.frame_metrics)
        said = (
            f"it beats both {baselines}, on {titles}: "
            f"{means['model']} dB against {against}. Its squared error is about {smaller:.1f} times smaller than the "
            "better one's."
        )
    else:
        clauses = [f"against “{METHODS[name]}” it is {_outcomes(by_metric)}" for name, by_metric in leads.items()]
        said = f"{'; '.join(clauses)}. Its PSNR is {means['model']} dB, theirs {against}."
    return f"Over predicted frames {span_name(results, late)}, {said}"


def too_few(results: Results) -> bool:
    return len(results.episodes) < FEWEST


def _outcomes(leads: Mapping[str, Figure]) -> str:
    """`better on PSNR, worse on SSIM`"""
    by_outcome: dict[str, list[str]] = {}
    for metric, lead in leads.items():
        outcome = "better" if lead.low > 0 else "worse" if lead.high < 0 else "neither clearly better nor worse"
        by_outcome.setdefault(outcome, []).append(METRICS[metric].title)
    return ", ".join(f"{outcome} on {' and '.join(metrics)}" for outcome, metrics in by_outcome.items())


def _spans(results: Results) -> list[bool]:
    """The early frames, and the late ones where there are any."""
    return [False, True] if results.protocol.frames > EARLY else [False]


def figure_of(results: Results, method: Method, metric: str, late: bool) -> Figure:
    score = results.scores[method][metric]
    figure = score.late if late else score.early
    assert figure is not None
    return figure


def tiles(results: Results) -> Iterator[tuple[str, str, str]]:
    """Name, value and what to hold it against: two rows of three on a desk, or three."""
    tokens, speed = results.tokens, results.speed
    frames = results.protocol.context + results.protocol.frames
    saved = f"{tokens.total:,} instead of {tokens.uniform:,} for {frames} frames"
    how = f"{counted(speed.batch, 'clip')} at once, {counted(results.sample.steps, 'step')} a frame"
    rest = []
    if tokens.coarse_frames:
        rest.append(("Tokens to remember it all", f"{tokens.uniform / tokens.total:.1f}× fewer", saved))
    rest.append(("Speed", f"{speed.frames_per_second:.1f} frames/s", f"{how}, {speed.hardware}"))
    for late in _spans(results):
        for metric in results.frame_metrics:
            kind = METRICS[metric]
            means = {method: kind.amount(figure_of(results, method, metric, late).mean) for method in METHODS}
            baselines = f"repeat last {means['repeat_last']} · mean frame {means['context_mean']}"
            below = f"{baselines} · ceiling {means['reconstruction']}"
            yield f"{kind.title}, frames {span_name(results, late)}", means["model"], below
        if len(results.frame_metrics) == 2 and rest:
            yield rest.pop(0)
    if "fvd" in results.by_seed:
        compared = "predicted frames" if results.protocol.fvd_frames == "predicted" else "context and prediction"
        yield f"FVD, {compared}", results.figure("fvd"), "0: like the true clips, as a whole; lower is better"
    yield from rest


def errors(results: Results) -> Iterator[str]:
    """Curves over the predicted frames, and tables of early and late ones."""
    yield html.heading("Error per predicted frame")
    yield html.paragraph(
        "PSNR counts squared error, in decibels: 3 dB more is half of it. SSIM compares structure: 1 is identical. "
        + ("LPIPS compares what a network sees: 0 is identical. " if "lpips" in results.frame_metrics else "")
        + "Repeating the last frame and the mean frame of the context are what one can do without any model; the "
        "autoencoder alone, given the true frames, is the best this model could reach. The band is the 95 % "
        f"confidence interval of the model's mean; frames 1-{min(EARLY, results.protocol.frames)} are shaded."
        + (f" With fewer than {FEWEST} episodes the intervals are too narrow." if too_few(results) else ""),
        "soft",
    )
    yield legend()
    yield html.grid(
        *(html.chart(error_curves(results, metric), METRICS[metric].title) for metric in results.frame_metrics)
    )
    columns = [(metric, late) for metric in results.frame_metrics for late in _spans(results)]
    units = {metric: f" ({kind.unit})" if kind.unit else "" for metric, kind in METRICS.items()}
    head = [f"{METRICS[metric].title}{units[metric]} {span_name(results, late)}" for metric, late in columns]
    rows = []
    for method, name in METHODS.items():
        figures = [interval(figure_of(results, method, metric, late), metric) for metric, late in columns]
        rows.append([name, *figures])
    yield html.table(["mean over episodes (95 % interval)", *head], rows)
    leads = []
    for baseline in BASELINES:
        gains = results.gains[baseline]
        figures = [gains[metric].late if late else gains[metric].early for metric, late in columns]
        cells = [interval(figure, metric, "+") for figure, (metric, _) in zip(figures, columns, strict=True) if figure]
        won = " / ".join(f"{gains[metric].won}" for metric in results.frame_metrics)
        leads.append([f"over “{METHODS[baseline]}”", *cells, f"{won} of {len(results.episodes)}"])
    names = " / ".join(METRICS[metric].title for metric in results.frame_metrics)
    yield html.table(
        ["the model's lead, episode by episode (+: better)", *head, f"episodes won, all frames ({names})"], leads
    )


def by_seed(results: Results) -> Iterator[str]:
    """Every metric over all frames that it counts, with each seed; and those that are missing."""
    for metric, reason in results.missing.items():
        yield html.paragraph(f"{METRICS[metric].title} is missing: {reason}", "bad")
    seeds = results.protocol.seeds
    if len(seeds) == 1 and "fvd" not in results.by_seed:
        return
    yield html.heading("Over all frames")
    several = len(seeds) > 1
    if several:
        text = "Mean ± standard deviation over the seeds, and each of them. Every seed makes all predictions anew."
        yield html.paragraph(text, "soft")
    rows = []
    for metric, found in results.by_seed.items():
        each = [f"{value:.{METRICS[metric].digits}f}" for value in found.seeds] if several else []
        interval_of = results.fvd if metric == "fvd" else None
        figure = results.figure(metric) + (
            f" ({interval_of.low:.1f} to {interval_of.high:.1f} over episodes)" if interval_of else ""
        )
        rows.append([METRICS[metric].title, figure, *each])
    yield html.table(["", "the model", *([f"seed {seed}" for seed in seeds] if several else [])], rows)


def interval(figure: Figure, metric: str, sign: str = "") -> str:
    """A mean and its interval, where there is one: of a single episode there is none."""
    numbers = [f"{value:{sign}.{METRICS[metric].digits}f}" for value in (figure.mean, figure.low, figure.high)]
    return numbers[0] + (f" ({numbers[1]} to {numbers[2]})" if figure.low < figure.high else "")
