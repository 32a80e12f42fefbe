"""The one error a user is meant to see, and words that such lines share."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something the user can put right. The message is one line: what is wrong, where, and the way out.

    The command line prints it without a traceback and exits with status 2. Everything else that is raised is a bug
    and keeps its traceback.
    """


class Stopped(KeyboardInterrupt):
    """Asked to give way (SIGTERM), and nothing is lost: the same command goes on from here."""


def reason_of(error: Exception) -> str:
    """What a library, or the system, says is wrong, on one line, and not too long a one."""
    said = getattr(error, "strerror", None) or error
    return " ".join(str(said).split())[:300] or type(error).__name__


def counted(number: int, thing: str) -> str:
    """`1 episode`, `1,024 episodes`"""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def some_of(names: Sequence[str], most: int) -> str:
    """`a, b and 3 more`"""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """The end of a line about a name that is not known: the nearest one that is, or else this."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else otherwise


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """`there is no command 'trian', did you mean 'train'?`"""
    known = list(known)
    return f"there is no {what} {name!r}" + did_you_mean(name, known, f": choose {', '.join(known)}")
