"""The command line: one program, a verb each. torch is imported by the verbs that need it, not by `--help`."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import TextIOWrapper
from types import FrameType

import tyro

from nextframe.commands.footage import encode, inspect, record
from nextframe.commands.imports import import_footage
from nextframe.commands.measures import bench, compare, evaluate, sample, watch
from nextframe.commands.models import convert, export, train
from nextframe.commands.play import play
from nextframe.commands.whole import demo, doctor
from nextframe.errors import Stopped, UserError, unknown
from nextframe.memory import keep_freed_memory
from nextframe.options import listed
from nextframe.version import VERSION

USAGE_ERROR = 2
INTERRUPTED = 130


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
    "import": Verb(import_footage),
    "inspect": Verb(inspect),
    "train": Verb(train, raw=True),
    "watch": Verb(watch),
    "encode": Verb(encode),
    "sample": Verb(sample),
    "play": Verb(play),
    "evaluate": Verb(evaluate, raw=True),
    "compare": Verb(compare),
    "export": Verb(export),
    "bench": Verb(bench, raw=True),
    "convert": Verb(convert),
}

GOES_ON = "stopped; the same command goes on from here"
RESUMES = ("demo", "record", "import", "train", "encode", "evaluate")


def main() -> None:
    """Entry point of `nextframe`. Exit status: 0 done, 1 a bug, 2 something the user can put right, 130 interrupted.

    Training that was asked to give way (SIGTERM), whatever it was at, is done for now: 0.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    keep_freed_memory()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text; of stderr it is so anyway
    try:
        run_command(sys.argv[1:])
    except UserError as error:
        if _first_to_say(str(error)):
            _say(f"error: {error}")
        sys.exit(USAGE_ERROR)
    except KeyboardInterrupt as stop:
        verb = " ".join(sys.argv[1:2])
        goes_on = verb in RESUMES and sys.argv[1:3] != ["record", "play"]
        _say("\n" + (GOES_ON if goes_on else "stopped"))
        if verb != "train" or not isinstance(stop, Stopped):
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
        refuse_repeated(rest)
        verb = VERBS.get(name)
        if verb is None:
            raise UserError(unknown("command", name, VERBS) + "; see nextframe --help")
        if verb.raw:
            verb.run(rest)
        else:
            tyro.cli(verb.run, args=rest, prog=f"nextframe {name}")


def refuse_repeated(arguments: list[str]) -> None:
    """Raises UserError for a run or folder that is given twice, as if two could be. Of other options the last counts:
    so a setting is changed at the end of a long line."""
    options = [word.partition("=")[0] for word in arguments]
    for option in ("--model", "--data", "--autoencoder", "--initial", "--out"):
        if options.count(option) > 1:
            raise UserError(f"{option} is given twice: run the command once for each")


def overview() -> str:
    """What `nextframe --help` prints."""
    verbs = listed({name: verb.summary for name, verb in VERBS.items()})
    title, usage = "nextframe: footage in, a world to walk in out", "usage: nextframe COMMAND ..."
    return "\n\n".join([title, usage, verbs, "nextframe COMMAND --help says more; nextframe --version."])


def _first_to_say(text: str) -> bool:
    """Whether to print an error; see `ranks.first_to_say`. A process that is alone does not import torch for that."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    from nextframe.ranks import first_to_say

    return first_to_say(text)


def _say(text: str) -> None:
    """In one write, even unbuffered as launchers of several processes like it: theirs run into each other otherwise."""
    sys.stderr.write(text + "\n")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does: saved, cleaned up, resumable."""
    raise Stopped
