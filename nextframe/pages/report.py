"""One page that shows what a model predicts, how far it is right, and how that was measured."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nextframe.configfile import dotted
from nextframe.data.episodes import EpisodeDataset
from nextframe.errors import UserError, counted
from nextframe.metrics.kinds import METRICS
from nextframe.pages import html
from nextframe.pages.behaviour import behaviour, beside_published
from nextframe.pages.charts import loss_curve
from nextframe.pages.drawing import comparison_clip, film_strip
from nextframe.pages.samples import samples
from nextframe.pages.scores import (
    by_seed,
    combination,
    errors,
    figure_of,
    span_name,
    tiles,
    verdict,
)
from nextframe.progress import clock
from nextframe.results import Results, prediction_path, read_prediction, shown

LEAD_SECONDS = 2.0
"""How much of the context a clip shows before the prediction begins."""


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
    print("writing the report", file=sys.stderr)
    dataset = EpisodeDataset.open(data)
    body = [
        *(samples if results.protocol.context == 0 else predictions)(results, out, dataset),
        *_tokens_and_speed(results),
        *_training(runs or {}, stages or {}),
        *_method(results),
        *_settings(results),
    ]
    if commands:
        body += [html.heading("What to type next"), html.commands(commands)]
    body.append(f"<footer>nextframe {results.environment['nextframe']} · {len(results.episodes)} episodes</footer>")
    return html.write_page(path, html.page("nextframe: prediction and truth", body))


def predictions(results: Results, out: Path, dataset: EpisodeDataset) -> Iterator[str]:
    """What goes on from a context: clips to look at, and how far they are right."""
    clips = chosen_clips(results, out, dataset)
    median = clips[len(clips) // 2]
    yield from _opening(results, median)
    yield from _clips(results, clips)
    if results.frame_metrics:
        yield from errors(results)
    yield from behaviour(results)
    yield from by_seed(results)
    yield from beside_published(results)
    if results.frame_metrics:
        yield from _reconstruction(results, median)


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
    """The best, the median and the worst episode (fewer where there are fewer); by name, where none is scored alone."""
    order = results.best_to_worst()
    first, middle, last = ("Best", "Median", "Worst") if results.frame_metrics else ("First", "Middle", "Last")
    places = {0: first, len(order) - 1: last, len(order) // 2: middle}
    return [_clip(results, out, dataset, order[place], places[place]) for place in sorted(places)]


def _clip(results: Results, out: Path, dataset: EpisodeDataset, index: int, rank: str) -> Clip:
    name, protocol = results.episodes[index], results.protocol
    infos = {info.name: info for info in dataset.episodes(protocol.split)}
    if name not in infos:
        raise UserError(f"{dataset.folder} has no episode {name}: give the footage that was evaluated")
    seed, trajectory = protocol.seeds[0], results.picked[index]
    episode = dataset.read(infos[name])
    first = read_prediction(prediction_path(out, name, seed))
    prediction = read_prediction(prediction_path(out, name, seed, trajectory)) if trajectory else first
    stop, apart = protocol.context + protocol.frames, results.interval
    video, actions = episode.video[::apart][:stop], episode.actions[::apart][:stop]
    return Clip(
        title=f"{rank} of {len(results.episodes)}: {name}{_score_of(results, index)}",
        context=video[: protocol.context],
        truth=video[protocol.context :],
        prediction=prediction.video,
        reconstruction=first.reconstruction,
        actions=dataset.info.action_texts(actions),
    )


def _score_of(results: Results, index: int) -> str:
    """`, 21.3 dB over 156 frames; shown: seed 0, prediction 17 of 100`"""
    protocol, text = results.protocol, ""
    if results.frame_metrics:
        metric = results.frame_metrics[0]
        value = results.scores["model"][metric].episodes[index]
        text = f", {METRICS[metric].text(value)} over {protocol.frames} frames"
    if len(protocol.seeds) == protocol.trajectories == 1:
        return text
    if protocol.trajectories == 1:
        return f"{text}; shown: seed {protocol.seeds[0]}"
    return f"{text}; shown: seed {protocol.seeds[0]}, prediction {results.picked[index] + 1} of {protocol.trajectories}"


def prediction_strip(clip: Clip) -> np.ndarray:
    """Truth, prediction and their difference at the frames `shown`: a picture, uint8 [height, width, 3]."""
    frames = shown(len(clip.truth))
    picked = [frame - 1 for frame in frames]
    truth, prediction = clip.truth[picked], clip.prediction[picked]
    difference = np.abs(truth.astype(np.int16) - prediction).astype(np.uint8)
    rows = {"truth": truth, "prediction": prediction, "difference": difference}
    return film_strip(rows, [f"+{frame}" for frame in frames])


def _opening(results: Results, median: Clip) -> Iterator[str]:
    protocol, fps = results.protocol, results.fps
    yield html.paragraph("nextframe: a world model, measured", "over")
    yield html.heading("Can it tell what happens next?", 1)
    condition = results.told
    then = {"none": "nothing", "label": "nothing but its class"}.get(
        condition, "nothing but the actions that were taken"
    )
    sentences = [
        f"The model was shown the first {protocol.context} frames ({protocol.context / fps:.1f} s) of "
        f"{counted(len(results.episodes), 'held-out episode')}, then {then}. "
        f"From these it made the next {protocol.frames} frames ({protocol.frames / fps:.1f} s), each from its own "
        "earlier ones, and every frame was compared with what really happened.",
        verdict(results, late=False),
        verdict(results, late=True),
        combination(results),
    ]
    text = "".join(html.paragraph(sentence, "lead") for sentence in sentences if sentence)
    key = "Amber: the end of the context. Teal: made by the model."
    if condition in ("action", "vector"):
        key += " The arrow is the action that led to a frame."
    yield html.beside(text, _player(results, median) + html.paragraph(key, "soft"))
    yield html.tiles(*tiles(results))


def _clips(results: Results, clips: Sequence[Clip]) -> Iterator[str]:
    others = [clip for clip in clips if clip is not clips[len(clips) // 2]]
    if others:
        metric = METRICS[results.frame_metrics[0]].title if results.frame_metrics else ""
        first, last = ("best", "worst") if metric else ("first", "last")
        yield html.heading(f"The {first} and the {last}" if len(others) > 1 else f"The {first}")
        by = f"by {metric} over all predicted frames, as the median above" if metric else "by name, as the one above"
        yield html.paragraph(f"Not picked by hand: {by}.", "soft")
        yield html.grid(*(_player(results, clip) for clip in others))
    yield html.heading("Frame by frame")
    yield html.paragraph("Each frame is made from the ones before it, so errors may add up.", "soft")
    for clip in clips:
        yield html.picture(prediction_strip(clip), clip.title)


def _player(results: Results, clip: Clip) -> str:
    """A video of the end of the context and all of the prediction."""
    fps = results.fps
    lead = min(results.protocol.context, round(LEAD_SECONDS * fps))
    video = np.concatenate([clip.context[-lead:], clip.truth])
    frames = comparison_clip(video, clip.prediction, clip.actions[-len(video) :])
    return html.video(frames, fps, clip.title)


def _reconstruction(results: Results, clip: Clip) -> Iterator[str]:
    frames = shown(len(clip.truth))
    rows = {"truth": clip.truth[[frame - 1 for frame in frames]], "autoencoder": clip.reconstruction}
    means = {metric: figure_of(results, "reconstruction", metric, False).mean for metric in results.frame_metrics}
    texts = [METRICS[metric].text(mean) for metric, mean in means.items()]
    yield html.heading("What the autoencoder alone loses")
    yield html.paragraph(
        "The model thinks in small latent pictures. These are true frames turned into latents and back, no prediction "
        f"involved: {' and '.join(texts)} over frames {span_name(results, False)}. Predictions go "
        "through the same decoder, so this is about as good as they could be.",
        "soft",
    )
    yield html.picture(film_strip(rows, [f"+{frame}" for frame in frames]), clip.title.partition(",")[0])


def _tokens_and_speed(results: Results) -> Iterator[str]:
    tokens, speed, settings = results.tokens, results.speed, results.environment
    yield html.heading("A long memory, in few tokens" if tokens.coarse_frames else "Tokens")
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
            ["clips at once (frames of all are counted)", f"{speed.batch}"],
            ["steps per frame", f"{results.sample.steps}"],
            ["guidance", f"{results.sample.guidance:g}"],
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
    taken = "none left out" if protocol.every == 1 else f"one in every {protocol.every}"
    chosen = f"The first {counted(protocol.episodes, 'episode')} by name of the split “{protocol.split}”, {taken}. "
    if protocol.context == 0:
        span = (protocol.frames - 1) * results.interval + 1
        chosen = f"True clips: the beginnings of episodes of at least {span} frames, drawn at random, always the same. "
    kept = "before any video compression" if protocol.scored == "frames" else "as a lossy mp4 leaves them"
    pixels = f"Only predicted frames are scored, as 8-bit pixels {kept}. "
    frames = (
        "PSNR is at most 60 dB, so that a still camera cannot count infinitely. Each frame's scores are averaged over "
        "frames, then over episodes. Intervals: percentile bootstrap over episodes, and over differences per episode "
        "for the leads. A model that is unsure averages or invents: far into the future no prediction can match one "
        "particular truth where the camera sees what was never shown, so read the late frames against the baselines, "
        "not against 60 dB. "
    )
    videos = (
        "FVD: Fréchet distance between Gaussians fitted to the I3D features of all predicted clips and of all true "
        f"ones, {'without' if protocol.fvd_frames == 'predicted' else 'with'} their context. "
        "It depends on how many clips there are: compare it at the same number only. "
    )
    text = chosen + pixels
    text += (
        (frames if results.frame_metrics else "") + (videos if "fvd" in results.by_seed else "") + combination(results)
    )
    yield html.heading("How this was measured")
    yield html.paragraph(text.strip(), "soft")


def _settings(results: Results) -> Iterator[str]:
    model, data, protocol = results.model, results.data, results.protocol
    several = len(protocol.seeds) * protocol.trajectories > 1
    further = " (those of further predictions follow from them)" if several else ""
    rows = [
        ["model", f"{model['run']}, {model['parameters'] / 1e6:.2f} M parameters"],
        ["weights", f"sha256 {model['sha256']}"],
        ["autoencoder", f"{model['autoencoder_parameters'] / 1e6:.2f} M parameters"],
        ["its weights", f"sha256 {model['autoencoder_sha256']}"],
        ["footage", f"{data['folder']}: {data['size']} x {data['size']} pixels, {data['fps']:g} frames per second"],
        ["made by", _listed(data["source"])],
        *([METRICS[metric].title, text] for metric, text in results.how.items()),
        ["protocol", _listed(asdict(protocol))],
        ["sampling", _listed(asdict(results.sample))],
        ["seeds of the noise", f"{results.seeds[0]} to {results.seeds[-1]}, one per episode{further}"],
        *([name, str(value)] for name, value in results.environment.items()),
    ]
    yield html.heading("Settings")
    yield html.table(["", ""], rows)
    everything = {**model["config"], "autoencoder": model["autoencoder_config"]}
    yield html.folded(
        "every setting of model and training",
        html.table(["", ""], [[name, str(value)] for name, value in dotted(everything)]),
    )


def _listed(settings: Mapping[str, object]) -> str:
    """`context 144, seeds 0 1 2`: those that are set."""
    words = {name: " ".join(map(str, value)) if isinstance(value, tuple) else value for name, value in settings.items()}
    return ", ".join(f"{name} {value}" for name, value in words.items() if value not in (None, ""))
