"""The engine's end of the pipe: `python -m nextframe.web.reality_process WORLD`. A line of JSON in, a frame out.

Of a maze one asks {"pose": [x, y, heading]}; of an environment {"reset": seed} or {"step": action}, and
{"replay": [actions]}, with a "reset" or without, for the frame after all of them. It ends when its input does.
"""

import json
import os
import struct
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from nextframe.errors import UserError

Answer = Callable[[dict[str, Any]], tuple[dict[str, Any], np.ndarray]]


def maze(world: dict[str, Any], folder: Path, stack: ExitStack) -> Answer:
    from nextframe.worlds.maze.engine import MazeCamera
    from nextframe.worlds.maze.map import make_maze
    from nextframe.worlds.maze.settings import MazeSettings

    settings = MazeSettings(**world["settings"])
    camera = stack.enter_context(MazeCamera([make_maze(world["seed"], settings)], settings, folder))
    camera.enter(0)

    def answer(question: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        x, y, heading = question["pose"]
        return {}, camera.frame((x, y, heading))

    return answer


def environment(world: dict[str, Any], folder: Path, stack: ExitStack) -> Answer:
    from nextframe.worlds.gym.settings import GymSettings
    from nextframe.worlds.gym.world import GymWorld

    inside = stack.enter_context(GymWorld(GymSettings(**world["settings"]), folder))
    facts = {
        "kind": inside.actions.kind,
        "names": inside.actions.names,
        "fps": inside.fps,
        "ranges": inside.actions.ranges(),
    }

    def answer(question: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        ended, frame = False, None
        if "reset" in question:
            frame = inside.reset(question["reset"])
        for action in question.get("replay", [question["step"]] if "step" in question else []):
            frame, ended = inside.step(_action(action))
        assert frame is not None  # who asks for nothing
        return {**facts, "ended": ended}, frame

    return answer


def _action(action: int | list[float]) -> int | np.ndarray:
    return action if isinstance(action, int) else np.asarray(action, np.float32)


def main() -> None:
    # What an engine prints must not get between the frames.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    world = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="nextframe-engine-") as folder, ExitStack() as stack:
        answer, error = None, ""
        try:  # at once, so that it is there when it is asked
            answer = {"maze": maze, "gym": environment}[world["world"]](world, Path(folder), stack)
        except UserError as failure:
            error = str(failure)
        for line in sys.stdin:
            header, pixels = {"error": error}, b""
            if answer is not None:
                try:
                    header, frame = answer(json.loads(line))
                    pixels = np.ascontiguousarray(frame).tobytes()
                    header = {**header, "size": frame.shape[0]}
                except UserError as failure:
                    header = {"error": str(failure)}
            words = json.dumps(header).encode()
            out.write(struct.pack(">II", len(words), len(pixels)) + words + pixels)
            out.flush()


if __name__ == "__main__":
    main()
