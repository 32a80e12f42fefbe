"""Commands that show how training goes on, and what a model does, how well, and how fast."""

import shlex
from pathlib import Path

import tyro

from nextframe.bench.workload import WORKLOADS
from nextframe.errors import UserError, counted
from nextframe.options import OWN_SETTINGS, Sampling, changed, choose
from nextframe.presets import PROTOCOLS, protocol_summary
from nextframe.presets import as_published as with_published_choices
from nextframe.protocol import Metric, Protocol


def watch(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    out: Path | None = None,
    port: int = 8001,
    browser: bool = True,
) -> None:
    """Curves and sample clips of runs in training, in the browser: nextframe watch RUN [RUN ...]

    It reads what the runs have written, so they may go on elsewhere, be finished, or have been killed.

    Args:
        runs: Folders of runs, shown over each other.
        out: Write the page to this file (.html) once, in place of serving it.
        port: Port to listen at, on this machine alone.
        browser: Open the browser.
    """
    if not runs:
        raise UserError("name a run, or several: nextframe watch RUN")
    if out is not None and out.suffix != ".html":
        raise UserError(f"--out {out} is to be a page: name it {out.stem}.html")
    from nextframe.pages.html import write_page
    from nextframe.pages.watch import watch_page

    page = watch_page(runs, refreshed=False)
    if out is not None:
        print(f"page: {write_page(out, page)}")
        return
    from nextframe.web.address import LOOPBACK, listen
    from nextframe.web.watching import serve_watch

    with listen(LOOPBACK[0], port) as listener:
        serve_watch(runs, listener, browser)


def sample(
    model: Path,
    data: Path,
    out: Path,
    context: int = 144,
    frames: int = 156,
    split: str = "test",
    episodes: int = 4,
    label: str | None = None,
    sampling: Sampling = OWN_SETTINGS,
    device: str = "auto",
) -> None:
    """Let a model go on from the first frames of episodes; writes an mp4 and lossless frames (npz) of each.

    Args:
        model: Run of a world model.
        data: Folder of episodes.
        out: Folder for the samples.
        context: Frames the model is shown; 0: it begins from nothing.
        frames: Frames it makes.
        split: Which episodes of DATA.
        episodes: How many of them.
        label: Of a model of classes: name or number of the class that all are to be of. If not given, that of the
            episode; without context each class in its turn.
        sampling: How frames are drawn.
        device: auto, cpu, cuda or cuda:N.
    """
    from nextframe.sample import sample as run

    protocol = changed(Protocol(), context=context, frames=frames, episodes=episodes, split=split)
    videos = run(protocol, model, data, out, device, sampling.settings(protocol, model), label)
    print(f"{counted(len(videos), 'video')}, and their frames as npz: {videos[0]}{' ...' if len(videos) > 1 else ''}")


def evaluate(arguments: list[str]) -> None:
    """Score a model by a protocol: nextframe evaluate maze --model RUN --data DATA --out OUT"""
    protocols = {name: protocol_summary(protocol) for name, protocol in PROTOCOLS.items()}
    choose("protocol", arguments, protocols, "nextframe evaluate", _evaluate_protocol)


def _evaluate_protocol(name: str, arguments: list[str]) -> None:
    protocol = PROTOCOLS[name]

    def evaluate_protocol(
        model: Path,
        data: Path,
        out: Path,
        context: int = protocol.context,
        frames: int = protocol.frames,
        episodes: int = protocol.episodes,
        seeds: tuple[int, ...] = protocol.seeds,
        trajectories: int = protocol.trajectories,
        split: str = protocol.split,
        metrics: tuple[Metric, ...] = protocol.metrics,
        sampling: Sampling = OWN_SETTINGS,
        batch: int = 8,
        as_published: tyro.conf.FlagCreatePairsOff[bool] = False,
        estimate: tyro.conf.FlagCreatePairsOff[bool] = False,
        device: str = "auto",
    ) -> None:
        """Predict held-out episodes, score them, write results.json and report.html. Goes on where it stopped.

        Args:
            model: Run of a world model.
            data: Folder of episodes.
            out: Folder for predictions and results.
            context: Frames the model is shown; 0: it makes clips from nothing.
            frames: Frames it predicts after them.
            episodes: How many episodes are scored.
            seeds: All is done once for each, and averaged.
            trajectories: Predictions of each episode; PSNR, SSIM and LPIPS count the best.
            split: Which episodes of DATA.
            metrics: What is computed (docs/evaluation.md); lpips and fvd want weights, which are fetched once.
            sampling: How frames are drawn.
            batch: Predictions made at once; changes speed and memory (and rounding, in bfloat16).
            as_published: Measure as the published script does, where it differs from us (docs/paper.md).
            estimate: Only say how long it would take, and how much disk and memory.
            device: auto, cpu, cuda or cuda:N.
        """
        same = (context, frames) == (protocol.context, protocol.frames)
        asked = changed(
            with_published_choices(name) if as_published else protocol,
            name=name if same else "",  # the authors' results are of their frames
            context=context,
            frames=frames,
            episodes=episodes,
            seeds=seeds,
            trajectories=trajectories,
            split=split,
            metrics=metrics,
        )
        settings = sampling.settings(asked, model)
        from nextframe.evaluate import evaluate as run
        from nextframe.evaluate import prepare
        from nextframe.pages.report import write_report

        if estimate:
            print(prepare(asked, model, data, out, device, batch, settings, keep=False).estimated().line())
            return

        results = run(asked, model, data, out, device, batch, settings)
        again = [("Measure it again", shlex.join(["nextframe", "evaluate", name, *arguments]))]
        report = write_report(out / "report.html", results, out, data, commands=again)
        print("\n".join([*results.summary(), f"report: {report}"]))

    tyro.cli(evaluate_protocol, args=arguments, prog=f"nextframe evaluate {name}")


def compare(results: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Scores of several evaluations beside each other: nextframe compare OUT OUT ...

    Says how much better each is than the first, episode by episode, and which settings differ.

    Args:
        results: Folders that `nextframe evaluate` has written (its --out).
    """
    if len(results) < 2:
        raise UserError("name two evaluations or more: nextframe compare OUT OUT ...")
    from nextframe.compare import compare as run

    print("\n".join(run(results)))


def bench(arguments: list[str]) -> None:
    """Measure speed and memory: nextframe bench train|sample|play --preset far-b-long"""
    workloads = {name: (kind.__doc__ or "").splitlines()[0] for name, kind in WORKLOADS.items()}
    choose("work", arguments, workloads, "nextframe bench", _bench_work)


def _bench_work(name: str, arguments: list[str]) -> None:
    flat = (tyro.conf.OmitArgPrefixes,)
    workload = tyro.cli(WORKLOADS[name], args=arguments, prog=f"nextframe bench {name}", config=flat)
    from nextframe.bench.measure import bench as run

    run(workload)
