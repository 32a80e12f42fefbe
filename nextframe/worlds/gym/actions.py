"""The actions of an environment as a dataset has them: the number of a name, or a vector of numbers with names."""

from enum import IntEnum
from typing import Any

import numpy as np

from nextframe.data.episodes import ActionKind
from nextframe.errors import UserError
from nextframe.worlds.gym.registry import load_gymnasium

LONGEST = 256  # numbers of a vector: beyond that, nobody has recorded enough to learn them
UNBOUNDED = 1e6  # bounds beyond this say nothing of what is usual: a number drawn between them would be absurd


class Actions:
    """Between an environment's actions and those of a dataset.

    kind, names: as in `DatasetInfo`. An action space that is Discrete has ids; any other is a vector, flattened as
    `gymnasium.spaces.flatten` does: a choice among n inside it is n numbers, one of which is 1.
    Raises UserError for spaces that are no such numbers.
    """

    def __init__(self, environment: Any):
        self._spaces = load_gymnasium().spaces
        self.space = environment.action_space
        self._check(self.space)
        self.kind: ActionKind = "id" if isinstance(self.space, self._spaces.Discrete) else "vector"
        names = self._names(self.space, _labels(environment.unwrapped, self.kind), "")
        if self.kind == "id":  # without a path before them
            names = [name.removeprefix("=") for name in names]
        self.names = tuple(names)
        if self.kind == "vector" and not 1 <= len(names) <= LONGEST:
            raise UserError(f"its actions are {len(names)} numbers: choose an environment with 1 to {LONGEST}")

    def given(self, action: int | np.ndarray) -> Any:
        """What the environment is given for a recorded action. Raises ValueError for an id that there is not."""
        if self.kind == "id":
            if not 0 <= action < len(self.names):
                raise ValueError(f"there is no action {action}: choose 0 to {len(self.names) - 1}")
            return int(action) + int(self.space.start)
        flat = self._spaces.flatten_space(self.space)
        # Rounding to float32 must not lead over a bound.
        numbers = np.clip(np.asarray(action, np.float64), flat.low, flat.high).astype(flat.dtype)
        return self._spaces.unflatten(self.space, numbers)

    def taken(self, action: Any) -> int | np.ndarray:
        """What is recorded for an action of the environment's. Raises ValueError when it has no such action."""
        spaces, space = self._spaces, self.space
        if isinstance(space, spaces.Discrete):
            action = np.asarray(action)
            action = action.item() if action.size == 1 else action
        elif not isinstance(space, (spaces.Dict, spaces.Tuple)):
            numbers = np.asarray(action)
            action = numbers.astype(space.dtype)
            if space.dtype.kind != "f" and not np.array_equal(action, numbers):  # probabilities, say
                raise ValueError(f"{numbers} are not whole numbers, as in {space}")
        if not space.contains(action):
            raise ValueError(f"{action!r} is not in {space}")
        if self.kind == "id":
            return int(action) - int(space.start)
        return np.asarray(spaces.flatten(space, action), np.float32)

    def ranges(self) -> list[tuple[float, float]]:
        """From where to where each number of a vector goes; -1 to 1 where the environment sets no bounds."""
        if self.kind == "id":
            return []
        flat = self._spaces.flatten_space(self.space)
        free = _unbounded(flat)
        bounds = np.where(free, -1.0, flat.low), np.where(free, 1.0, flat.high)
        return list(zip(*(bound.astype(float).tolist() for bound in bounds), strict=True))

    def sample(self, generator: np.random.Generator) -> int | np.ndarray:
        """A random action, recorded form: each number uniform between its bounds, or normal where it has none."""
        if self.kind == "id":
            return int(generator.integers(len(self.names)))
        flat = self._spaces.flatten_space(self.space)
        self.space.seed(int(generator.integers(2**31)))
        numbers = np.asarray(self._spaces.flatten(self.space, self.space.sample()), np.float64)
        free = _unbounded(flat)
        normal = generator.standard_normal(len(numbers))
        return np.where(free, np.clip(normal, flat.low, flat.high), numbers).astype(np.float32)

    def _check(self, space: Any) -> None:
        spaces = self._spaces
        if isinstance(space, (spaces.Dict, spaces.Tuple)):
            for _, part in _parts(space):
                self._check(part)
        elif not isinstance(space, (spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete, spaces.Box)):
            raise UserError(f"its actions are {type(space).__name__}, no fixed count of numbers: choose another one")

    def _names(self, space: Any, labels: dict[str, list[str]], path: str) -> list[str]:
        """One name per id or number of `space`, which lies at `path`, in the order of `flatten`."""
        spaces = self._spaces
        if isinstance(space, (spaces.Dict, spaces.Tuple)):
            before = f"{path}." if path else ""
            return [name for key, part in _parts(space) for name in self._names(part, labels, f"{before}{key}")]
        if isinstance(space, spaces.Discrete):
            names = [f"{path}={space.start + choice}" for choice in range(space.n)]
        elif isinstance(space, spaces.MultiDiscrete):
            counts = np.ravel(space.nvec)
            names = [f"{path}[{part}]={choice}" for part, count in enumerate(counts) for choice in range(count)]
        else:
            names = [f"{path}[{','.join(map(str, place))}]" for place in np.ndindex(space.shape)]
        known = labels.get(path, [])
        return known if len(known) == len(names) else names


def _unbounded(flat: Any) -> np.ndarray:
    """Which numbers of a flat space have no bounds that say anything."""
    return (abs(flat.low) > UNBOUNDED) | (abs(flat.high) > UNBOUNDED)


def _parts(space: Any) -> list[tuple[str, Any]]:
    """The parts of a Dict or Tuple, as it orders them."""
    parts = space.spaces
    return [(str(key), parts[key]) for key in (parts if isinstance(parts, dict) else range(len(parts)))]


def _labels(environment: Any, kind: ActionKind) -> dict[str, list[str]]:
    """What an environment itself calls its actions, by path; the whole action space has the path ""."""
    meanings: Any = getattr(environment, "get_action_meanings", None)
    if kind == "id" and callable(meanings):  # ALE
        names: Any = meanings()
        return {"": [str(name).lower() for name in names]}
    actions = getattr(environment, "actions", None)
    if kind == "id" and isinstance(actions, type) and issubclass(actions, IntEnum):  # MiniGrid
        members = sorted(actions.__members__.values())
        return {"": [action.name.lower() for action in members]}
    if hasattr(environment, "num_binary_buttons") and hasattr(environment, "game"):  # ViZDoom: deltas come first
        buttons = [button.name.lower() for button in environment.game.get_available_buttons()]
        deltas, keys = buttons[: environment.num_delta_buttons], buttons[environment.num_delta_buttons :]
        if combinations := getattr(environment, "button_map", None):  # of Discrete: which keys each number presses
            pressed = [[key for key, down in zip(keys, row, strict=True) if down] for row in combinations]
            keys = ["+".join(down) or "noop" for down in pressed]
        return {"binary": keys, "continuous": deltas, "": deltas or keys}
    return {}
