"""Commands about the whole: the demo, and the doctor."""

import re
from pathlib import Path

from nextframe.errors import UserError


def demo(
    out: Path | None = None, train: bool = False, budget: str | None = None, episodes: int = 8, device: str = "auto"
) -> None:
    """Walk the shipped model through mazes it has never seen, and write a report.

    Args:
        out: Folder for all it makes, and OUT/report.html; runs/demo, or runs/demo-train, if not given.
        train: Start from nothing instead: record, train an autoencoder and a world model, predict, report.
        budget: Time for --train, e.g. 90s, 2h, at least 30s; 10m if not given.
        episodes: Mazes to predict; with --train at most one for each minute of the budget, but two at least.
        device: auto, cpu, cuda or cuda:N.
    """
    if budget is not None and not train:
        raise UserError("--budget is time for --train: add it, or leave --budget out")
    seconds = seconds_of(budget or "10m")
    from nextframe import demo as demos

    if train:
        demos.demo_train(out or Path("runs/demo-train"), seconds, episodes, device)
    else:
        demos.demo(out or Path("runs/demo"), episodes, device)


def doctor() -> None:
    """What this machine can do, what is missing, and how to get it."""
    from nextframe.doctor import doctor as run

    run()


def seconds_of(duration: str) -> float:
    """Seconds of `90s`, `10m`, `1h30m` or `45`. Raises UserError for anything else."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", duration.strip())
    if not duration.strip() or match is None:
        raise UserError(f"--budget {duration!r} is no duration: write 90s, 10m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds
