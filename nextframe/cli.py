"""The command line: one program, a verb each. torch is imported by the verbs that need it, not by `--help`."""

import difflib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import tyro

from nextframe.bench.workload import WORKLOADS
from nextframe.config import Protocol
from nextframe.errors import UserError
from nextframe.hub import local_run
from nextframe.memory import keep_freed_memory
from nextframe.options import OWN_SETTINGS, Sampling, changed
from nextframe.presets import PRESETS, PROTOCOLS, preset_summary, protocol_summary
from nextframe.version import VERSION

USAGE_ERROR = 2
INTERRUPTED = 130


def demo(
    out: Path | None = None, train: bool = False, budget: str = "10m", episodes: int = 8, device: str = "auto"
) -> None:
    """Walk the shipped model through mazes it has never seen, and write a report.

    Args:
        out: Folder for all it makes, and OUT/report.html; runs/demo, or runs/demo-train, if not given.
        train: Start from nothing instead: record, train an autoencoder and a world model, predict, report.
        budget: Time for --train, e.g. 90s, 10m, 2h.
        episodes: Mazes to predict.
        device: auto, cpu, cuda or cuda:N.
    """
    seconds = seconds_of(budget)
    from nextframe import demo as demos

    if train:
        demos.demo_train(out or Path("runs/demo-train"), seconds, episodes, device)
    else:
        demos.demo(out or Path("runs/demo"), episodes, device)


def doctor() -> None:
    """What this machine can do, what is missing, and how to get it."""
    from nextframe.doctor import doctor as run

    run()


def record(arguments: list[str]) -> None:
    """Record footage of a world: nextframe record maze --episodes 200 --out DATA"""
    _choose("world", arguments, {"maze": _record_maze}, "nextframe record", {"maze": "random mazes in ViZDoom"})


def record_maze(
    out: Path,
    episodes: int = 200,
    split: Literal["train", "validation", "test", "demo"] = "train",
    seed: int = 0,
    difficulty: Literal["calm", "plain", "rich"] = "calm",
    cells: int = 3,
    frames: int = 300,
    size: int = 64,
    workers: int = 0,
) -> None:
    """Record random mazes in ViZDoom: an exploring agent, its actions and poses. Goes on where it stopped.

    Args:
        out: Folder of episodes to make, or to add to.
        episodes: Episodes of this split to have in the end.
        split: Splits never share a maze.
        seed: Another seed, other mazes.
        difficulty: calm has large patterns in soft colours; plain and rich have more and finer ones.
        cells: Junctions along one side of the maze.
        frames: Frames per episode.
        size: Height and width of a frame in pixels: 64, 128 or 256.
        workers: Engines at work at once; 0: one for each core.
    """
    from nextframe.worlds.maze.settings import MazeSettings
    from nextframe.worlds.record import record_maze as run

    run(out, episodes, split, seed, MazeSettings(difficulty, cells, frames, size), workers)


def inspect(data: tyro.conf.Positional[Path], out: Path | None = None) -> None:
    """Numbers, checks and a contact sheet of a folder of episodes.

    Args:
        data: Folder of episodes.
        out: Folder for the contact sheet; DATA if not given.
    """
    from nextframe.inspect import inspect as run

    run(data, out)


def train(arguments: list[str]) -> None:
    """Train a preset: nextframe train autoencoder-maze --data DATA --out RUN"""
    choices = {name: (lambda rest, name=name: _train_preset(name, rest)) for name in PRESETS}
    summaries = {name: preset_summary(preset) for name, preset in PRESETS.items()}
    _choose("preset", arguments, choices, "nextframe train", summaries)


def _train_preset(name: str, arguments: list[str]) -> None:
    preset = PRESETS[name]
    fields = [
        ("data", Annotated[Path, tyro.conf.arg(help="Episodes (for an autoencoder) or latents (for a world model).")]),
        ("out", Annotated[Path, tyro.conf.arg(help="The run: made, or gone on with.")]),
        ("initial", Annotated[Path | None, tyro.conf.arg(help="Weight file to start a new run from.")], None),
        ("config", Annotated[type(preset), tyro.conf.arg(name="")], preset),
    ]
    described = f"Train the preset {name!r}. Every setting can be overridden. Run again to go on where it stopped."
    try:
        chosen: Any = tyro.cli(
            make_dataclass("Train", fields), args=arguments, prog=f"nextframe train {name}", description=described
        )
    except ValueError as error:  # settings that do not go together; tyro itself only catches those of one part
        raise UserError(f"train {name}: {error}") from None

    from nextframe.recipes import train_preset

    train_preset(chosen.config, chosen.data, chosen.out, chosen.initial)


def encode(autoencoder: Path, data: Path, out: Path, mirrored: bool = False, device: str = "auto") -> None:
    """Turn footage into latents, once, to train a world model on. Goes on where it stopped.

    Args:
        autoencoder: Run of an autoencoder.
        data: Folder of episodes.
        out: Folder of latents to make, or to add to.
        mirrored: Encode every frame mirrored left to right too, to train with --clip.mirror.
        device: auto, cpu, cuda or cuda:N.
    """
    from nextframe.encode import encode as run

    run(local_run(autoencoder), data, out, device, mirrored)


def sample(
    model: Path,
    data: Path,
    out: Path,
    context: int = 144,
    frames: int = 156,
    split: str = "test",
    episodes: int = 4,
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
        sampling: How frames are drawn.
        device: auto, cpu, cuda or cuda:N.
    """
    from nextframe.sample import sample as run

    protocol = changed(Protocol(), context=context, frames=frames, episodes=episodes, split=split)
    run(protocol, model, data, out, device, sampling.settings(protocol, model))


def evaluate(arguments: list[str]) -> None:
    """Score a model by a protocol: nextframe evaluate maze --model RUN --data DATA --out OUT"""
    choices = {name: (lambda rest, name=name: _evaluate_protocol(name, rest)) for name in PROTOCOLS}
    summaries = {name: protocol_summary(protocol) for name, protocol in PROTOCOLS.items()}
    _choose("protocol", arguments, choices, "nextframe evaluate", summaries)


def _evaluate_protocol(name: str, arguments: list[str]) -> None:
    protocol = PROTOCOLS[name]

    def evaluate_protocol(
        model: Path,
        data: Path,
        out: Path,
        episodes: int = protocol.episodes,
        seeds: tuple[int, ...] = protocol.seeds,
        trajectories: int = protocol.trajectories,
        sampling: Sampling = OWN_SETTINGS,
        batch: int = 8,
        device: str = "auto",
    ) -> None:
        """Predict held-out episodes, score them, write results.json and report.html. Goes on where it stopped.

        Args:
            model: Run of a world model.
            data: Folder of episodes.
            out: Folder for predictions and results.
            episodes: How many episodes are scored.
            seeds: All is done once for each, and averaged.
            trajectories: Predictions of each episode, of which the best counts.
            sampling: How frames are drawn.
            batch: Predictions made at once; changes nothing but speed and memory.
            device: auto, cpu, cuda or cuda:N.
        """
        asked = changed(protocol, episodes=episodes, seeds=seeds, trajectories=trajectories)
        settings = sampling.settings(asked, model)
        from nextframe.evaluate import evaluate as run
        from nextframe.pages.report import write_report

        results = run(asked, model, data, out, device, batch, settings)
        print(f"{results.headline()}\nreport: {write_report(out / 'report.html', results, out, data)}")

    tyro.cli(evaluate_protocol, args=arguments, prog=f"nextframe evaluate {name}")


def export(model: Path, out: Path) -> None:
    """A small copy of a world model to share or ship: configuration and bfloat16 weights.

    Args:
        model: Run of a world model.
        out: Folder to make; it works wherever a run does.
    """
    from nextframe.runs import export as run

    run(model, out)


def convert(
    source: tyro.conf.Positional[Path],
    out: Path,
    to_official: tyro.conf.FlagCreatePairsOff[bool] = False,
    autoencoder: Path | None = None,
    latent_size: int | None = None,
) -> None:
    """Make a run of a published checkpoint (guyuchao/FAR_Models), or with --to-official one of a run.

    nextframe convert FAR_B_Long_DMLab_Action64-c09441dc.pth --autoencoder DCAE_DMLab_Res64-17035ae5.pth --out RUN

    nextframe convert RUN --to-official --out FILE.pth

    Which model it is (long or short, its size, what it is conditioned on) is found out from the file itself.

    Args:
        source: State dict of a published transformer or DC-AE, .pth or .safetensors; with --to-official, a run.
        out: Folder to make: RUN for a transformer, RUN/autoencoder for its autoencoder. With --to-official a file.
        to_official: Write the published layout. What is converted forth and back is the same to the last bit.
        autoencoder: DC-AE file, or run of an autoencoder, to go into RUN with a transformer; it can be added later.
        latent_size: Rows and columns of the latents, which cannot be seen in a file; 8, as published, if not given.
    """
    from nextframe.convert import convert_published, convert_to_official

    if not to_official:
        convert_published(source, out, latent_size, autoencoder)
    elif autoencoder is None and latent_size is None:
        convert_to_official(source, out)
    else:
        raise UserError("--to-official takes RUN and --out FILE alone: leave out --autoencoder and --latent-size")


def bench(arguments: list[str]) -> None:
    """Measure speed and memory: nextframe bench train|sample|play --preset far-b-long"""
    choices = {name: (lambda rest, name=name: _bench_work(name, rest)) for name in WORKLOADS}
    summaries = {name: (kind.__doc__ or "").splitlines()[0] for name, kind in WORKLOADS.items()}
    _choose("work", arguments, choices, "nextframe bench", summaries)


def _bench_work(name: str, arguments: list[str]) -> None:
    flat = (tyro.conf.OmitArgPrefixes,)
    workload = tyro.cli(WORKLOADS[name], args=arguments, prog=f"nextframe bench {name}", config=flat)
    from nextframe.bench.measure import bench as run

    run(workload)


@dataclass(frozen=True)
class Verb:
    """A word of the command line. `run` takes the options as arguments, or, if `raw`, what was typed."""

    run: Callable[..., None]
    raw: bool = False

    @property
    def summary(self) -> str:
        return (self.run.__doc__ or "").splitlines()[0]


VERBS = {
    "demo": Verb(demo),
    "doctor": Verb(doctor),
    "record": Verb(record, raw=True),
    "inspect": Verb(inspect),
    "train": Verb(train, raw=True),
    "encode": Verb(encode),
    "sample": Verb(sample),
    "evaluate": Verb(evaluate, raw=True),
    "export": Verb(export),
    "bench": Verb(bench, raw=True),
    "convert": Verb(convert),
}

RESUMES = ("demo", "record", "train", "encode", "evaluate")


def main() -> None:
    """Entry point of `nextframe`. Exit status: 0 done, 1 a bug, 2 something the user can put right, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    keep_freed_memory()
    try:
        run_command(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    except KeyboardInterrupt:
        resumes = " ".join(sys.argv[1:2]) in RESUMES
        print("\nstopped" + ("; the same command goes on from here" if resumes else ""), file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; leave nothing for the interpreter to complain about at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def run_command(arguments: list[str]) -> None:
    """Run one command. Raises UserError for words that are not known."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
    elif arguments[0] == "--version":
        print(f"nextframe {VERSION}")
    else:
        name, rest = arguments[0], arguments[1:]
        verb = VERBS.get(name)
        if verb is None:
            raise UserError(unknown("command", name, VERBS) + "; see nextframe --help")
        if verb.raw:
            verb.run(rest)
        else:
            tyro.cli(verb.run, args=rest, prog=f"nextframe {name}")


def overview() -> str:
    """What `nextframe --help` prints."""
    lines = ["nextframe: footage in, a world to walk in out", "", "usage: nextframe COMMAND ...", ""]
    lines += [f"  {name:<10} {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join([*lines, "", "nextframe COMMAND --help says more; nextframe --version."])


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """`no COMMAND 'trian', did you mean 'train'?`"""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"there is no {what} {name!r}" + (f", did you mean {near[0]!r}?" if near else f": choose {', '.join(known)}")


def _choose(
    what: str,
    arguments: list[str],
    choices: dict[str, Callable[[list[str]], None]],
    command: str,
    summaries: dict[str, str],
) -> None:
    """Run the choice that the first argument names, with the rest."""
    if not arguments or arguments[0] in ("-h", "--help"):
        longest = max(map(len, choices))
        print(f"usage: {command} {what.upper()} ...\n")
        print("\n".join(f"  {name:<{longest}}  {summaries[name]}" for name in choices))
        print(f"\n{command} {what.upper()} --help lists the settings of one.")
        if not arguments:
            raise UserError(f"name a {what}: {', '.join(choices)}")
    elif arguments[0] not in choices:
        raise UserError(unknown(what, arguments[0], choices))
    else:
        choices[arguments[0]](arguments[1:])


def _record_maze(arguments: list[str]) -> None:
    tyro.cli(record_maze, args=arguments, prog="nextframe record maze")


def seconds_of(duration: str) -> float:
    """Seconds of `90s`, `10m`, `1h30m` or `45`. Raises UserError for anything else."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", duration.strip())
    if not duration.strip() or match is None:
        raise UserError(f"--budget {duration!r} is no duration: write 90s, 10m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does: saved, cleaned up, resumable."""
    raise KeyboardInterrupt
