"""The ViZDoom engine as a camera: a frame is a function of a maze and a pose, and of nothing else."""

import os
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from nextframe.errors import UserError
from nextframe.worlds.maze.map import Maze, Pose, map_name, wad_bytes
from nextframe.worlds.maze.settings import HEADINGS, MazeSettings

OVERSAMPLE = (4, 3)  # rendered pixels per frame pixel, across and down: a 4:3 view with 90 degrees across, made square
TICS = 2  # in the very tic of a warp the eye is on the floor, so a frame takes two

INSTANCE = "instance"  # the file with the name of an engine's shared memory
LAUNCHER = """#!/bin/sh
'''exec' "{python}" "$0" "$@" # for Python this line and the next are a string: a path may have spaces
' '''
# The engine must not outlive the process that uses it, however that ends: the kernel kills it (PR_SET_PDEATHSIG = 1).
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != {parent}:
    sys.exit("the process that started this engine has ended")
os.chdir({folder!r})  # it makes a folder _vizdoom where it starts
with open({note!r}, "w") as note:
    note.write(sys.argv[sys.argv.index("+viz_instance_id") + 1])
os.execv({engine!r}, [{engine!r}, *sys.argv[1:]])
"""


def clear_after_kill(folder: Path) -> None:
    """Free the shared memory (10 MB) of engines that had their files under `folder` and whose user was killed."""
    for note in folder.rglob(INSTANCE):
        if instance := note.read_text():
            for block in Path("/dev/shm").glob(f"ViZDoom*{instance}"):
                block.unlink()


def load_vizdoom() -> Any:
    """The vizdoom module. Raises UserError when it is not installed."""
    try:
        import vizdoom
    except ModuleNotFoundError as error:
        if error.name != "vizdoom":
            raise
        raise UserError("mazes are rendered by ViZDoom, which is not installed: pip install vizdoom") from error
    return vizdoom


def launcher(engine: Path, folder: Path) -> Path:
    """A program that runs the engine in `folder`, and ends it with this process; see `clear_after_kill`."""
    if sys.platform != "linux":
        return engine
    script = folder / "engine"
    facts = {"python": sys.executable, "parent": os.getpid(), "engine": str(engine), "folder": str(folder)}
    script.write_text(LAUNCHER.format(**facts, note=INSTANCE))
    script.chmod(stat.S_IRWXU)
    return script


class MazeCamera:
    """Films mazes. Use it in a `with`: the engine is a process and files, and both go when the block ends.

    mazes: all that this engine can show, `enter` chooses one.
    folder: an existing empty folder for the engine's files.
    """

    def __init__(self, mazes: list[Maze], settings: MazeSettings, folder: Path):
        self.mazes = mazes
        self.size = settings.size
        self.folder = folder.absolute()
        self.maze = mazes[0]
        self.pose: Pose = self.maze.start
        (self.folder / "mazes.wad").write_bytes(wad_bytes(mazes))
        self.game = self._make_game(load_vizdoom())

    def _make_game(self, vizdoom: Any) -> Any:
        game = vizdoom.DoomGame()
        package = Path(vizdoom.__file__).parent
        game.set_vizdoom_path(str(launcher(package / "vizdoom", self.folder)))
        game.set_doom_game_path(str(package / "freedoom2.wad"))
        game.set_doom_scenario_path(str(self.folder / "mazes.wad"))
        game.set_doom_map(map_name(0))
        game.set_doom_config_path(str(self.folder / "engine.ini"))  # or _vizdoom.ini lands in the working directory
        width, height = self.size * OVERSAMPLE[0], self.size * OVERSAMPLE[1]
        game.set_screen_resolution(getattr(vizdoom.ScreenResolution, f"RES_{width}X{height}"))
        game.set_screen_format(vizdoom.ScreenFormat.DOOM_256_COLORS8)
        for part in ("hud", "weapon", "crosshair", "decals", "particles", "effects_sprites", "messages", "corpses"):
            getattr(game, f"set_render_{part}")(False)
        game.set_render_screen_flashes(False)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        game.set_available_buttons([vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
        variables = vizdoom.GameVariable
        game.set_available_game_variables([variables.POSITION_X, variables.POSITION_Y, variables.ANGLE])
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_episode_timeout(0)
        game.set_episode_start_time(10)  # the first tics of a map ignore what the player does
        game.set_seed(0)
        game.add_game_args("+movebob 0 +viz_nocheat 0")
        return game

    def __enter__(self) -> Self:
        self.game.init()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.game.close()

    def enter(self, number: int) -> None:
        """Go to the start of maze `number`."""
        self.maze = self.mazes[number]
        self.pose = self.maze.start
        self.game.set_doom_map(map_name(number))
        self.game.new_episode()

    def frame(self, pose: Pose) -> np.ndarray:
        """What is seen from `pose`: uint8 [size, size, 3]."""
        x, y, heading = pose
        if (x, y) != self.pose[:2]:
            self.game.send_game_command(f"warp {x} {y}")
        turn = (heading - self.pose[2] + HEADINGS // 2) % HEADINGS - HEADINGS // 2
        self.game.make_action([-turn * 360 / HEADINGS / TICS], TICS)
        self.pose = pose
        state = self.game.get_state()
        reached = np.asarray(state.game_variables)
        if abs(reached - (x, y, heading * 360 / HEADINGS)).max() > 0.001:
            raise RuntimeError(f"the engine stands at {reached}, not at {pose}")
        view = state.screen_buffer
        image = Image.frombuffer("P", (view.shape[1], view.shape[0]), view, "raw", "P", 0, 1)
        image.putpalette(self.maze.look.colours.tobytes())
        return np.asarray(image.convert("RGB").reduce(OVERSAMPLE))
