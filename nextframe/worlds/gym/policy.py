"""Who chooses the actions: chance, or a function of the user's."""

from collections.abc import Callable
from typing import Any

import numpy as np

from nextframe.errors import UserError
from nextframe.worlds.gym.registry import import_by_name, where_and_why
from nextframe.worlds.gym.settings import RANDOM
from nextframe.worlds.gym.world import GymWorld

Policy = Callable[[GymWorld, np.random.Generator], int | np.ndarray]
"""Given a world and where randomness comes from, the next action, as recorded."""


def make_policy(name: str, hold: float) -> Policy:
    """A policy for one episode. Raises UserError when the user's cannot be found."""
    return RandomPolicy(hold) if name == RANDOM else GivenPolicy(name)


class RandomPolicy:
    """Takes a random action and keeps to it for `hold` frames on average: a new one every frame goes nowhere."""

    def __init__(self, hold: float):
        self.hold = hold
        self.kept: int | np.ndarray | None = None

    def __call__(self, world: GymWorld, generator: np.random.Generator) -> int | np.ndarray:
        if self.kept is None or generator.random() < 1 / self.hold:
            self.kept = world.actions.sample(generator)
        return self.kept


class GivenPolicy:
    """Asks `FUNCTION(observation, info, generator)` of MODULE:FUNCTION for an action of the environment's.

    A class is called without arguments at the start of each episode, and then what it gave is asked: so a policy that
    remembers starts every episode anew.
    """

    def __init__(self, name: str):
        self.name = name
        found = find_policy(name)
        self.choose: Callable[..., Any] = found
        if isinstance(found, type):
            self.choose = self._ask(found)

    def __call__(self, world: GymWorld, generator: np.random.Generator) -> int | np.ndarray:
        action = self._ask(self.choose, world.observation, world.info, generator)
        try:
            return world.actions.taken(action)
        except (ValueError, TypeError) as error:
            raise UserError(f"policy {self.name} gave no action of the environment's ({error}): mend it") from error

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            raise UserError(f"policy {self.name} failed ({where_and_why(error)}): mend it") from error


def find_policy(name: str) -> Callable[..., Any]:
    """What MODULE:FUNCTION names. Raises UserError when it is not there, or cannot be called."""
    module_name, _, function = name.partition(":")
    found: Any = import_by_name(module_name, f"policy {name}")
    for part in function.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        what = "has no" if found is None else "cannot call"
        raise UserError(f"policy {name}: {module_name} {what} {function!r}: write a function of that name")
    return found
