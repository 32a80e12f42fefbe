"""One page that shows what a model predicts, how far it is right, and how that was measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nextframe.data.episodes import EpisodeDataset
from nextframe.errors import UserError
from nextframe.metrics.statistics import EARLY, FEWEST, Figure
from nextframe.pages import html
from nextframe.pages.charts import error_curves, legend, loss_curve
from nextframe.pages.drawing import comparison_clip, film_strip
from nextframe.progress import clock
from nextframe.results import BASELINES, METHODS, METRICS, Method, Results, prediction_path, read_prediction, shown

LEAD_SECONDS = 2.0
"""How much of the context a clip shows before the prediction begins."""
METRIC_NAMES = {"psnr": "PSNR", "ssim": "SSIM"}


def write_report(
    path: Path,
    results: Results,
    out: Path,
    data: Path,
    runs: Mapping[str, Path] | None = None,
    stages: Mapping[str, float] | None = None,
    commands: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write a self-contained HTML page on `results`, which `evaluate` has left in the folder `out`.

    `data`: the footage. `runs`: training runs whose loss is shown, by title. `stages`: wall-clock seconds by stage.
    `commands`: what to type next, as pairs of what it does and the command. Raises UserError when a file is missing.
    """
    clips = chosen_clips(results, out, EpisodeDataset.open(data))
    body = [
        *_opening(results, clips[len(clips) // 2]),
        *_clips(results, clips),
        *_errors(results),
        *_reconstruction(results, clips[len(clips) // 2]),
        *_tokens_and_speed(results),
        *(_training(runs or {}, stages or {})),
        *_method(results),
        *_settings(results),
    ]
    if commands:
        body += [html.heading("What to type next"), html.commands(commands)]
    body.append(f"<footer>nextframe {results.environment['nextframe']} · {len(results.episodes)} episodes</footer>")
    return html.write_page(path, html.page("nextframe: prediction and truth", body))


@dataclass(frozen=True)
class Clip:
    """An episode to show. Videos are uint8 [f, h, w, 3]."""

    title: str
    context: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    reconstruction: np.ndarray
    """Only the frames `shown`."""
    actions: list[str]
    """Taken at each frame of context and truth."""


def chosen_clips(results: Results, out: Path, dataset: EpisodeDataset) -> list[Clip]:
    """The best, the median and the worst episode (fewer where there are fewer)."""
    order = results.best_to_worst()
    places = {0: "Best", len(order) - 1: "Worst", len(order) // 2: "Median"}
    return [_clip(results, out, dataset, order[place], places[place]) for place in sorted(places)]


def _clip(results: Results, out: Path, dataset: EpisodeDataset, index: int, rank: str) -> Clip:
    name, protocol = results.episodes[index], results.protocol
    infos = {info.name: info for info in dataset.episodes(protocol.split)}
    if name not in infos:
        raise UserError(f"{dataset.folder} has no episode {name}: give the footage that was evaluated")
    episode, prediction = dataset.read(infos[name]), read_prediction(prediction_path(out, name))
    stop = protocol.context + protocol.frames
    value = results.scores["model"]["psnr"].episodes[index]
    return Clip(
        title=f"{rank} of {len(results.episodes)}: {name}, {value:.1f} dB over {protocol.frames} frames",
        context=episode.video[: protocol.context],
        truth=episode.video[protocol.context : stop],
        prediction=prediction.video,
        reconstruction=prediction.reconstruction,
        actions=[dataset.info.action_names[action] for action in episode.actions[:stop]],
    )


def prediction_strip(clip: Clip) -> np.ndarray:
    """Truth, prediction and their difference at the frames `shown`: a picture, uint8 [height, width, 3]."""
    frames = shown(len(clip.truth))
    picked = [frame - 1 for frame in frames]
    truth, prediction = clip.truth[picked], clip.prediction[picked]
    difference = np.abs(truth.astype(np.int16) - prediction).astype(np.uint8)
    rows = {"truth": truth, "prediction": prediction, "difference": difference}
    return film_strip(rows, [f"+{frame}" for frame in frames])


def _opening(results: Results, median: Clip) -> Iterator[str]:
    protocol, fps = results.protocol, float(results.data["fps"])
    yield html.paragraph("nextframe: a world model, measured", "over")
    yield html.heading("Can it tell what happens next?", 1)
    sentences = [
        f"The model was shown the first {protocol.context} frames ({protocol.context / fps:.1f} s) of "
        f"{counted(len(results.episodes), 'held-out episode')}, then nothing but the actions that were taken. "
        f"From these it made the next {protocol.frames} frames ({protocol.frames / fps:.1f} s), each from its own "
        "earlier ones, and every frame was compared with what really happened.",
        verdict(results, late=False),
        verdict(results, late=True),
    ]
    text = "".join(html.paragraph(sentence, "lead") for sentence in sentences if sentence)
    key = "Amber: the end of the context. Teal: made by the model. The arrow is the action that led to a frame."
    yield html.beside(text, _player(results, median) + html.paragraph(key, "soft"))
    yield html.tiles(*_tiles(results))


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def span_name(results: Results, late: bool) -> str:
    last = results.protocol.frames
    return f"{EARLY + 1}-{last}" if late else f"1-{min(EARLY, last)}"


def verdict(results: Results, late: bool) -> str:
    """In words: which baselines the model beats over the early or the late frames; "" where there are no late ones.

    It is better or worse than one only where the 95 % confidence interval of the difference lies on one side of zero,
    and neither with fewer than `FEWEST` episodes.
    """
    last = "late" if late else "early"
    leads: dict[Method, dict[str, Figure]] = {
        name: {metric: getattr(results.gains[name][metric], last) for metric in METRICS} for name in BASELINES
    }
    if any(figure is None for by_metric in leads.values() for figure in by_metric.values()):
        return ""
    means = {method: f"{_figure_of(results, method, 'psnr', late).mean:.1f}" for method in METHODS}
    against = " and ".join(means[baseline] for baseline in BASELINES)
    baselines = f"“{METHODS['repeat_last']}” and “{METHODS['context_mean']}”"
    if _too_few(results):
        said = (
            f"its PSNR is {means['model']} dB, against {against} of {baselines}. Whether it is really better "
            f"{counted(len(results.episodes), 'episode')} cannot tell: predict {FEWEST} or more."
        )
    elif all(figure.low > 0 for by_metric in leads.values() for figure in by_metric.values()):
        smaller = 10 ** (min(by_metric["psnr"].mean for by_metric in leads.values()) / 10)
        said = (
            f"it beats both {baselines}, on PSNR and on SSIM: "
            f"{means['model']} dB against {against}. Its squared error is about {smaller:.1f} times smaller than the "
            "better one's."
        )
    else:
        clauses = [f"against “{METHODS[name]}” it is {_outcomes(by_metric)}" for name, by_metric in leads.items()]
        said = f"{'; '.join(clauses)}. Its PSNR is {means['model']} dB, theirs {against}."
    return f"Over predicted frames {span_name(results, late)}, {said}"


def _too_few(results: Results) -> bool:
    return len(results.episodes) < FEWEST


def _outcomes(leads: Mapping[str, Figure]) -> str:
    """`better on PSNR, worse on SSIM`"""
    by_outcome: dict[str, list[str]] = {}
    for metric, lead in leads.items():
        outcome = "better" if lead.low > 0 else "worse" if lead.high < 0 else "neither clearly better nor worse"
        by_outcome.setdefault(outcome, []).append(METRIC_NAMES[metric])
    return ", ".join(f"{outcome} on {' and '.join(metrics)}" for outcome, metrics in by_outcome.items())


def _spans(results: Results) -> list[bool]:
    """The early frames, and the late ones where there are any."""
    return [False, True] if results.protocol.frames > EARLY else [False]


def _figure_of(results: Results, method: Method, metric: str, late: bool) -> Figure:
    score = results.scores[method][metric]
    figure = score.late if late else score.early
    assert figure is not None
    return figure


def _tiles(results: Results) -> Iterator[tuple[str, str, str]]:
    """Name, value and what to hold it against: two rows of three on a desk."""
    tokens, speed = results.tokens, results.speed
    frames = results.protocol.context + results.protocol.frames
    saved = f"{tokens.total:,} instead of {tokens.uniform:,} for {frames} frames"
    how = f"{counted(speed.batch, 'episode')} at once, {counted(results.sample.steps, 'step')} a frame"
    rest = [
        ("Tokens to remember it all", f"{tokens.uniform / tokens.total:.1f}× fewer", saved),
        ("Speed", f"{speed.frames_per_second:.1f} frames/s", f"{how}, {speed.hardware}"),
    ]
    for late in _spans(results):
        for metric, digits, unit in (("psnr", 1, " dB"), ("ssim", 2, "")):
            means = {method: f"{_figure_of(results, method, metric, late).mean:.{digits}f}" for method in METHODS}
            baselines = f"repeat last {means['repeat_last']} · mean frame {means['context_mean']}"
            below = f"{baselines} · ceiling {means['reconstruction']}"
            yield f"{METRIC_NAMES[metric]}, frames {span_name(results, late)}", means["model"] + unit, below
        yield rest.pop(0)
    yield from rest


def _clips(results: Results, clips: Sequence[Clip]) -> Iterator[str]:
    others = [clip for clip in clips if clip is not clips[len(clips) // 2]]
    if others:
        yield html.heading("The best and the worst")
        yield html.paragraph("Not picked by hand: by PSNR over all predicted frames, as the median above.", "soft")
        yield html.grid(*(_player(results, clip) for clip in others))
    yield html.heading("Frame by frame")
    yield html.paragraph("Each frame is made from the ones before it, so errors may add up.", "soft")
    for clip in clips:
        yield html.picture(prediction_strip(clip), clip.title)


def _player(results: Results, clip: Clip) -> str:
    """A video of the end of the context and all of the prediction."""
    fps = float(results.data["fps"])
    lead = min(results.protocol.context, round(LEAD_SECONDS * fps))
    video = np.concatenate([clip.context[-lead:], clip.truth])
    frames = comparison_clip(video, clip.prediction, clip.actions[-len(video) :])
    return html.video(frames, fps, clip.title)


def _errors(results: Results) -> Iterator[str]:
    yield html.heading("Error per predicted frame")
    yield html.paragraph(
        "PSNR counts squared error, in decibels: 3 dB more is half of it. SSIM compares structure: 1 is identical. "
        "Repeating the last frame and the mean frame of the context are what one can do without any model; the "
        "autoencoder alone, given the true frames, is the best this model could reach. The band is the 95 % "
        f"confidence interval of the model's mean; frames 1-{min(EARLY, results.protocol.frames)} are shaded."
        + (f" With fewer than {FEWEST} episodes the intervals are too narrow." if _too_few(results) else ""),
        "soft",
    )
    yield legend()
    yield html.grid(*(html.chart(error_curves(results, metric), METRIC_NAMES[metric]) for metric in METRICS))
    columns = [(metric, late) for metric in METRICS for late in _spans(results)]
    units = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
    head = [f"{units[metric]} {span_name(results, late)}" for metric, late in columns]
    rows = []
    for method, name in METHODS.items():
        figures = [interval(_figure_of(results, method, metric, late), metric) for metric, late in columns]
        rows.append([name, *figures])
    yield html.table(["mean over episodes (95 % interval)", *head], rows)
    leads = []
    for baseline in BASELINES:
        gains = results.gains[baseline]
        figures = [gains[metric].late if late else gains[metric].early for metric, late in columns]
        cells = [interval(figure, metric, "+") for figure, (metric, _) in zip(figures, columns, strict=True) if figure]
        won = " / ".join(f"{gains[metric].won}" for metric in METRICS)
        leads.append([f"over “{METHODS[baseline]}”", *cells, f"{won} of {len(results.episodes)}"])
    yield html.table(["the model's lead, episode by episode", *head, "episodes won (PSNR / SSIM)"], leads)


def interval(figure: Figure, metric: str, sign: str = "") -> str:
    digits = 2 if metric == "psnr" else 3
    return f"{figure.mean:{sign}.{digits}f} ({figure.low:{sign}.{digits}f} to {figure.high:{sign}.{digits}f})"


def _reconstruction(results: Results, clip: Clip) -> Iterator[str]:
    frames = shown(len(clip.truth))
    rows = {"truth": clip.truth[[frame - 1 for frame in frames]], "autoencoder": clip.reconstruction}
    ceiling, similarity = (_figure_of(results, "reconstruction", metric, False).mean for metric in METRICS)
    yield html.heading("What the autoencoder alone loses")
    yield html.paragraph(
        "The model thinks in small latent pictures. These are true frames turned into latents and back, no prediction "
        f"involved: {ceiling:.1f} dB and SSIM {similarity:.3f} over frames {span_name(results, False)}. Predictions go "
        "through the same decoder, so this is about as good as they could be.",
        "soft",
    )
    yield html.picture(film_strip(rows, [f"+{frame}" for frame in frames]), clip.title.partition(",")[0])


def _tokens_and_speed(results: Results) -> Iterator[str]:
    tokens, speed, settings = results.tokens, results.speed, results.environment
    yield html.heading("A long memory, in few tokens")
    frames = tokens.fine_frames + tokens.coarse_frames
    fine, coarse = tokens.fine_frames * tokens.fine_per_frame, tokens.coarse_frames * tokens.coarse_per_frame
    if tokens.coarse_frames:
        text = (
            f"The newest {tokens.fine_frames} frames are kept in {tokens.fine_per_frame} tokens each, the "
            f"{tokens.coarse_frames} older ones in {tokens.coarse_per_frame}. So {frames} frames are {tokens.total:,} "
            f"tokens ({fine:,} fine, {coarse:,} coarse) instead of {tokens.uniform:,}."
        )
    else:
        text = f"This is a short model: every one of {frames} frames is {tokens.fine_per_frame} tokens."
    yield html.paragraph(text, "soft")
    rows = [("two levels", [fine, coarse], f"{fine:,} + {coarse:,}")] if coarse else []
    yield html.bars([*rows, ("all frames fine", [tokens.uniform], f"{tokens.uniform:,}")])
    yield html.heading("Speed")
    yield html.table(
        ["", ""],
        [
            ["frames per second, transformer and decoder", f"{speed.frames_per_second:.1f}"],
            ["seconds per frame", f"{speed.seconds_per_frame:.4f}"],
            ["transformer alone", f"{speed.rollout_frames_per_second:.1f} frames per second"],
            ["decoder alone", f"{speed.decode_frames_per_second:.1f} frames per second"],
            ["episodes at once (frames of all are counted)", f"{speed.batch}"],
            ["steps per frame, guidance", f"{results.sample.steps}, {results.sample.guidance:g}"],
            ["hardware", f"{speed.hardware}, {settings['precision']}"],
        ],
    )
    yield html.paragraph("Encoding the context to latents is not counted; the transformer's reading of it is.", "soft")


def _training(runs: Mapping[str, Path], stages: Mapping[str, float]) -> Iterator[str]:
    if runs:
        yield html.heading("Training")
        yield html.paragraph("Thin: every record. Thick: their running median.", "soft")
        yield html.grid(*(html.chart(loss_curve(run), title) for title, run in runs.items()))
    if stages:
        yield html.heading("Time of each stage")
        yield html.bars([(name, [seconds], clock(seconds)) for name, seconds in stages.items()])


def _method(results: Results) -> Iterator[str]:
    protocol = results.protocol
    yield html.heading("How this was measured")
    yield html.paragraph(
        f"The first {counted(protocol.episodes, 'episode')} by name of the split “{protocol.split}”, none left out. "
        "Only predicted frames are scored, as 8-bit pixels before any video compression; PSNR is at most 60 dB, so "
        "that a still camera cannot count infinitely. Each frame's PSNR and SSIM are averaged over frames, then over "
        "episodes. Intervals: percentile bootstrap over episodes, and over differences per episode for the leads. A "
        "model that is unsure averages or invents: far into the future no prediction can match one particular truth "
        "where the camera sees what was never shown, so read the late frames against the baselines, not against 60 dB.",
        "soft",
    )


def _settings(results: Results) -> Iterator[str]:
    model, data = results.model, results.data
    rows = [
        ["model", f"{model['run']}, {model['parameters'] / 1e6:.2f} M parameters"],
        ["weights", f"sha256 {model['sha256']}"],
        ["autoencoder", f"{model['autoencoder_parameters'] / 1e6:.2f} M parameters"],
        ["its weights", f"sha256 {model['autoencoder_sha256']}"],
        ["footage", f"{data['folder']}: {data['size']} x {data['size']} pixels, {data['fps']:g} frames per second"],
        ["made by", ", ".join(f"{name} {value}" for name, value in data["source"].items())],
        ["seeds of the noise", f"{results.seeds[0]} to {results.seeds[-1]}, one per episode"],
        *([name, str(value)] for name, value in results.environment.items()),
    ]
    yield html.heading("Settings")
    yield html.table(["", ""], rows)
    everything = {**model["config"], "autoencoder": model["autoencoder_config"]}
    yield html.folded("every setting of model and training", html.table(["", ""], list(flattened(everything))))


def flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as `train.optimizer.decay` and text."""
    for name, value in settings.items():
        full = f"{prefix}.{name}".strip(".")
        if isinstance(value, Mapping):
            yield from flattened(value, full)
        else:
            yield full, str(value)
