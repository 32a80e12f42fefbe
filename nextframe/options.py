"""What several commands share: options, each declared once, and how a word of the command line is understood."""

import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nextframe.config import SampleConfig, Solver
from nextframe.errors import UserError, unknown
from nextframe.hub import local_run
from nextframe.protocol import Protocol


@dataclass(frozen=True)
class SamplingOptions:
    """How frames are drawn; what is not given is for the protocol, or else the model's own settings, to say."""

    steps: int | None = None
    """Steps per frame; if not given, as all of these, what the protocol (evaluate) or the model's own settings say."""
    solver: Solver | None = None
    """How a step is made; euler in the published models."""
    guidance: float | None = None
    """1 is none, 0 without the condition."""
    seed: int | None = None
    """Of the noise; in evaluate it is added to each of --seeds."""
    memory: int | None = None
    """Most frames the model sees at once, at least its window; older ones are forgotten. If not given: all; in
    play, as many as its training clips have."""
    slide: int | None = None
    """Long models: frames by which the window moves at a time, 1 in the published ones."""
    riflex: tyro.conf.FlagCreatePairsOff[bool] = False
    """Beyond the trained length: slow the temporal frequency that would repeat (RIFLEx). Not in play, which has no
    known end."""
    temporal_decay: float | None = None
    """Taken from the attention logits per frame of distance (FlexRoPE)."""
    graphs: Literal["auto", "on", "off"] | None = None
    """Record frames and replay them (CUDA graphs); auto: on a GPU."""

    def settings(self, protocol: Protocol, model: Path) -> SampleConfig:
        """The sampling settings for a run. Raises UserError when it is none, or has no such settings."""
        from nextframe.runs import world_config  # imports torch

        config = world_config(local_run(model))
        given = {name: value for name, value in vars(self).items() if value is not None and value is not False}
        return protocol.settings(config.sample).overridden(**given)


FLAT = tyro.conf.arg(name="")
"""Of an argument: its fields are options of the command, without a word before them."""
OWN_SETTINGS = SamplingOptions()
Sampling = Annotated[SamplingOptions, FLAT]


def changed(protocol: Protocol, **given: Any) -> Protocol:
    """A protocol with other settings. Raises UserError for impossible ones."""
    try:
        return replace(protocol, **given)
    except ValueError as error:
        raise UserError(f"protocol: {error}") from None


def program() -> str:
    """How nextframe is called from here."""
    if shutil.which("nextframe"):
        return "nextframe"
    called = min(sys.argv[0], os.path.relpath(sys.argv[0]), key=len)
    return shlex.quote(called) if Path(called).stem == "nextframe" else f"{sys.executable} -m nextframe"


def say_next(what: str, *command: str | Path) -> None:
    """What one may want to do now, as a line to type: `look at them: nextframe inspect DATA`."""
    print(f"{what}: {program()} {shlex.join(map(str, command))}")


def listed(summaries: Mapping[str, str]) -> str:
    """Names, and what they are beside them, no wider than the terminal."""
    indent = max(map(len, summaries)) + 4
    room = max(shutil.get_terminal_size((1000, 24)).columns - indent, 20)  # without a terminal, lines are not broken
    texts = {name: f"\n{'':<{indent}}".join(textwrap.wrap(text, room)) for name, text in summaries.items()}
    return "\n".join(f"{f'  {name}':<{indent}}{text}" for name, text in texts.items())


def choose(
    what: str,
    arguments: list[str],
    choices: dict[str, str],
    command: str,
    run: Callable[[str, list[str]], None],
) -> None:
    """Run the choice that the first argument names, with the rest. `choices`: what each is, in a line."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {command} {what.upper()} ...\n")
        print(listed(choices))
        print(f"\n{command} {what.upper()} --help lists the settings of one.")
        if not arguments:
            raise UserError(f"name a {what} of the list: {command} {what.upper()} ...")
    elif arguments[0].startswith("-"):
        raise UserError(f"name a {what} before {arguments[0]}: {command} {what.upper()} {arguments[0]} ...")
    elif arguments[0] not in choices:
        raise UserError(unknown(what, arguments[0], choices))
    else:
        run(arguments[0], arguments[1:])
