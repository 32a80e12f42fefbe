"""Environments by their IDs: found and made, or one line that says why not."""

import difflib
import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from nextframe.errors import UserError, did_you_mean

REGISTRARS = {
    "ALE/": ("ale_py", "'nextframe[gym]'"),
    "Vizdoom": ("vizdoom.gymnasium_wrapper", "'nextframe[maze]'"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
}
"""How IDs begin -> the module that registers them when it is imported, and what to install for it. Of others, the
module is written before the ID: `module:ID`."""

LIKENESS = 0.75
"""Of a name that is offered in place of one there is not; 1 is the same."""


def load_gymnasium() -> Any:
    """The gymnasium module. Raises UserError when it is not installed."""
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        if error.name != "gymnasium":
            raise
        raise UserError(
            "gym: worlds are made by Gymnasium, which is not installed: pip install 'nextframe[gym]'"
        ) from error
    gymnasium.logger.min_level = gymnasium.logger.ERROR  # each worker would advise about versions again
    return gymnasium


def where_and_why(error: BaseException) -> str:
    """`maze.py, line 12: ValueError: ...`, of an error in somebody else's code."""
    inside = traceback.extract_tb(error.__traceback__)[1:]  # the first is ours, that called it
    where = f"{Path(inside[-1].filename).name}, line {inside[-1].lineno}: " if inside else ""
    return where + one_line(error)


def one_line(error: BaseException) -> str:
    """An error of somebody else's, to be put into a line of ours."""
    return ": ".join(filter(None, [type(error).__name__, " ".join(str(error).split())]))


def import_by_name(module: str, what: str) -> ModuleType:
    """A module that a user named. Raises UserError, which begins with `what` it was named for, when it cannot be."""
    # Workers and installed commands do not look into the working directory. It comes last: it hides nothing.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not error.name or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{what}: {module} needs {error.name}, which is not installed: install it") from error
        raise UserError(f"{what}: no module {error.name!r} in {here} nor installed: go there, or install it") from error
    except Exception as error:
        raise UserError(f"{what}: {module} cannot be imported ({one_line(error)}): mend it") from error


def find(environment: str) -> str:
    """The ID by which gymnasium knows the environment from now on. Raises UserError when there is none."""
    registry = load_gymnasium().registry
    module, _, name = environment.rpartition(":")
    missing: dict[str, str] = {}
    if module:
        import_by_name(module, f"gym:{environment}")
    if name not in registry:
        for beginning, (registrar, package) in REGISTRARS.items():
            try:
                importlib.import_module(registrar)
            except Exception as error:  # what is wrong with one does not matter to the others
                missing[beginning] = f"{registrar} cannot be imported ({one_line(error)}): pip install {package}"
    _quieten()
    if name in registry:
        return name
    for beginning, reason in missing.items():
        if name.startswith(beginning):
            raise UserError(f"gym:{environment}: {reason}")
    otherwise = f": if a package registers it, write gym:PACKAGE:{name}"
    # Without their versions, by which all are alike.
    by_stem = {known.rpartition("-v")[0]: known for known in registry}
    near = difflib.get_close_matches(name.rpartition("-v")[0] or name, by_stem, cutoff=LIKENESS)
    raise UserError(
        f"there is no environment {name!r}{did_you_mean(name, [by_stem[stem] for stem in near], otherwise)}"
    )


def _quieten() -> None:
    if ale := sys.modules.get("ale_py"):  # it would greet from every worker
        ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)


def make(environment: str) -> Any:
    """An environment that renders to arrays, if it can. Raises UserError when it cannot be made."""
    gymnasium, name = load_gymnasium(), find(environment)
    for kind in ("VIDEO", "AUDIO"):
        os.environ.setdefault(f"SDL_{kind}DRIVER", "dummy")  # pygame draws into memory: it needs no screen
    try:
        return gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(f"gym:{environment} needs a package that is missing: {one_line(error)}") from error
    except Exception as error:  # an environment is anybody's code
        try:
            return gymnasium.make(name, disable_env_checker=True)  # it has no such mode: its observation may be a frame
        except Exception:  # then the mode was not what was wrong, and the first error says more
            raise UserError(f"gym:{environment} cannot be made ({one_line(error)}): put that right first") from error
