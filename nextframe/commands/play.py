"""The command that opens a world in the browser."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nextframe.errors import UserError
from nextframe.options import OWN_SETTINGS, Sampling
from nextframe.protocol import Protocol
from nextframe.web.address import listen


def play(
    model: Path,
    data: Path | None = None,
    sampling: Sampling = OWN_SETTINGS,
    real: bool = True,
    host: str = "127.0.0.1",
    port: int = 8000,
    sessions: int = 16,
    browser: bool = True,
    device: str = "auto",
) -> None:
    """Walk through a trained world in the browser, on the arrow keys: nextframe play --model RUN --data DATA

    nextframe record play is the real engine alone, to record a person's walk. See docs/play.md.

    Args:
        model: Run of a world model.
        data: Folder of episodes to go on from; without it, from pictures and clips that are uploaded.
        sampling: How frames are drawn.
        real: Where the footage is of mazes, the engine shows what the same actions lead to there.
        host: Address to listen at. Any but this machine's own asks for the token that is printed.
        port: Port to listen at.
        sessions: Visitors at once; others are told to come later.
        browser: Open the browser.
        device: auto, cpu, cuda or cuda:N.
    """

    def opened() -> Any:
        from nextframe.web.opening import open_model

        return open_model(model, data, sampling.settings(Protocol(), model), real, device)

    _show(opened, host, port, sessions, browser)


def play_world(world: str, chosen: dict[str, Any], host: str, port: int, sessions: int, browser: bool) -> None:
    """The real engine alone. `chosen`: settings of the recorder, by name; None: as usual."""

    def opened() -> Any:
        from nextframe.web.engine import EngineStage, world_settings

        return EngineStage(world_settings(world, **chosen))

    _show(opened, host, port, sessions, browser)


def _show(opened: Callable[[], Any], host: str, port: int, sessions: int, browser: bool) -> None:
    if sessions < 1:
        raise UserError(f"--sessions is {sessions}: choose 1 or more")
    try:
        from nextframe.web.serve import serve
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("fastapi", "pydantic", "starlette", "uvicorn", "websockets"):
            raise
        raise UserError(f"playing needs {error.name}, which is not installed: pip install 'nextframe[play]'") from None
    with listen(host, port) as listener:  # first, so that a port that is taken is told at once
        print("getting ready ...", file=sys.stderr)
        serve(opened(), listener, host, sessions, browser)
