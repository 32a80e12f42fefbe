"""The ViZDoom engine as a camera: a frame is a function of a maze and a pose, and of nothing else."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from nextframe.worlds.maze.map import Maze, Pose, map_name, wad_bytes
from nextframe.worlds.maze.settings import HEADINGS, MazeSettings
from nextframe.worlds.vizdoom import launcher, load_vizdoom

OVERSAMPLE = (4, 3)  # rendered pixels per frame pixel, across and down: a 4:3 view with 90 degrees across, made square
TICS = 2  # in the very tic of a warp the eye is on the floor, so a frame takes two


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
