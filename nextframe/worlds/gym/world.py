"""An environment as a world: reset it, give it an action, and it is a frame further."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from nextframe.data.video import fitted
from nextframe.errors import UserError
from nextframe.worlds.gym.actions import Actions
from nextframe.worlds.gym.registry import make, where_and_why
from nextframe.worlds.gym.settings import GymSettings
from nextframe.worlds.vizdoom import launcher

USUAL_FPS = 30.0


class GymWorld:
    """One environment. Use it in a `with`, or `close` it: what it has started ends then.

    settings: `policy`, `hold`, `frames` and `least_frames` are for those who walk in it.
    folder: for the files of an engine that starts at the first `reset`; there must be nothing in it.

    actions: what can be done. fps: frames per second. After `reset` and `step`: observation and info, as the
    environment gave them; reward, summed over the repeated steps; terminated, whether the environment's own rules ended
    the episode, and not a limit of time.
    """

    def __init__(self, settings: GymSettings, folder: Path):
        self.settings = settings
        self.environment = make(settings.environment)
        try:
            self.actions = Actions(self.environment)
        except UserError as error:
            self.close()
            raise UserError(f"gym:{settings.environment} cannot be recorded: {error}") from error
        reported = (self.environment.metadata or {}).get("render_fps") or USUAL_FPS
        self.fps = settings.fps or float(reported) / settings.action_repeat
        self.folder = folder.absolute()
        self.observation: Any = None
        self.info: dict[str, Any] = {}
        self.reward = 0.0
        self.terminated = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.environment.close()

    def reset(self, seed: int) -> np.ndarray:
        """Begin an episode; its first frame, uint8 [size, size, 3]."""
        _lead_vizdoom(self.environment.unwrapped, self.folder)
        self.observation, self.info = self._asked(self.environment.reset, seed=seed)
        self.reward, self.terminated = 0.0, False
        return self._frame()

    def step(self, action: int | np.ndarray) -> tuple[np.ndarray, bool]:
        """Take an action, as recorded; the frame it leads to, and whether the episode has ended.

        Some environments have nothing to show any more when it has: that frame may be black. Raises ValueError for an
        action that there is not.
        """
        self.reward, ended = 0.0, False
        for _ in range(self.settings.action_repeat):
            outcome = self._asked(self.environment.step, self.actions.given(action))
            self.observation, reward, self.terminated, truncated, self.info = outcome
            self.reward += float(reward)
            if ended := bool(self.terminated or truncated):
                break
        return self._frame(), ended

    def _asked(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """What the environment answers. Raises UserError where it fails: it is anybody's code."""
        try:
            return method(*arguments, **named)
        except Exception as error:
            failed = f"gym:{self.settings.environment} failed ({where_and_why(error)})"
            raise UserError(f"{failed}: mend it, or choose another environment") from error

    def _frame(self) -> np.ndarray:
        name = f"gym:{self.settings.environment}"
        picture = self._asked(_drawn, self.environment)
        if picture is None:
            picture = _image_in(self.observation)
        if picture is None:
            raise UserError(f"{name} renders no rgb frames, nor observes any: choose another environment")
        picture = np.asarray(picture)
        if picture.ndim == 2:
            picture = picture[:, :, None]
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3, 4):
            kind = f"{picture.dtype} {picture.shape}"
            raise UserError(f"{name} renders {kind}, not uint8 [height, width, 3]: choose another environment")
        rgb = picture[:, :, :3] if picture.shape[2] > 1 else np.repeat(picture, 3, axis=2)
        try:
            return fitted(rgb, self.settings.size, self.settings.fit)
        except ValueError as error:
            raise UserError(f"{name} renders what {error}: choose another environment, or --fit squeeze") from None


def _drawn(environment: Any) -> Any:
    try:
        return environment.render()
    except NotImplementedError:  # gymnasium's word for an environment that draws nothing
        return None


def _image_in(observation: Any) -> np.ndarray | None:
    """The observation, or the first part of it, that is an image."""
    if isinstance(observation, dict):
        return next((image for part in observation.values() if (image := _image_in(part)) is not None), None)
    is_array = isinstance(observation, np.ndarray) and observation.dtype == np.uint8
    if is_array and (observation.ndim == 2 or (observation.ndim == 3 and observation.shape[2] in (1, 3, 4))):
        return observation
    return None


def _lead_vizdoom(environment: Any, folder: Path) -> None:
    """Have ViZDoom's engine end with this process, and keep its files in `folder`, as that of the mazes does."""
    vizdoom, game = sys.modules.get("vizdoom"), getattr(environment, "game", None)
    if vizdoom is None or game is None or not isinstance(game, vizdoom.DoomGame) or game.is_running():
        return
    game.set_vizdoom_path(str(launcher(Path(str(vizdoom.__file__)).parent / "vizdoom", folder)))
    game.set_doom_config_path(str(folder / "engine.ini"))
