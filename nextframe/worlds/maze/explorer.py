"""An agent that visits a maze, looks around, and comes back; and the arithmetic of where an action leads."""

import math
import random
from collections import deque

import numpy as np

from nextframe.worlds.maze.map import NEIGHBOURS, Cell, Pose, cell_centre, free_cells
from nextframe.worlds.maze.settings import (
    BACKWARD,
    CELL,
    CLEARANCE,
    FORWARD,
    HEADINGS,
    NOOP,
    STEP,
    TURN_LEFT,
    TURN_RIGHT,
    MazeSettings,
)

STRAY = 24  # map units off the middle of a corridor
REACHED = 0.7 * STEP  # nearer than this a waypoint counts as reached; steps of STEP cannot jump over it


def move(grid: np.ndarray, pose: Pose, action: int) -> Pose:
    """Where `action` leads from `pose`. Walls are slid along; x and y stay whole map units."""
    x, y, heading = pose
    if action == TURN_LEFT:
        return x, y, (heading + 1) % HEADINGS
    if action == TURN_RIGHT:
        return x, y, (heading - 1) % HEADINGS
    if action in (FORWARD, BACKWARD):
        angle = 2 * math.pi * heading / HEADINGS
        length = STEP if action == FORWARD else -STEP
        right, up = round(length * math.cos(angle)), round(length * math.sin(angle))
        if _is_clear(grid, x + right, y):
            x += right
        if _is_clear(grid, x, y + up):
            y += up
    return x, y, heading


def _is_clear(grid: np.ndarray, x: int, y: int) -> bool:
    """Whether the square of side 2 CLEARANCE round (x, y) touches no wall."""
    rows = (y - CLEARANCE) // CELL, (y + CLEARANCE) // CELL
    columns = (x - CLEARANCE) // CELL, (x + CLEARANCE) // CELL
    return all(grid[row, column] for row in rows for column in columns)


def explore(seed: int, grid: np.ndarray, start: Pose, settings: MazeSettings) -> tuple[list[int], list[Pose]]:
    """Walk for an episode: the pose at each frame, and the action taken there, which leads to the next."""
    explorer = _Explorer(random.Random(f"explorer {seed}"), grid, settings)
    actions, poses, pose = [], [], start
    for _ in range(settings.frames):
        action = explorer.act(pose)
        actions.append(action)
        poses.append(pose)
        pose = move(grid, pose, action)
    return actions, poses


class _Explorer:
    """Walks shortest paths to goals, new ones or places it has been to, and does something else now and then."""

    def __init__(self, rng: random.Random, grid: np.ndarray, settings: MazeSettings):
        self.rng, self.grid, self.revisit, self.linger = rng, grid, settings.revisit, settings.linger
        # Most episodes keep to the middle of corridors, where a return is to exactly the same views; the rest do not,
        # so that a model meets every direction a person may walk in.
        self.stray = STRAY if rng.random() < 0.3 else 0
        self.visited: list[Cell] = []
        self.waypoints: deque[tuple[int, int]] = deque()
        self.planned: deque[int] = deque()
        self.last: Pose | None = None

    def act(self, pose: Pose) -> int:
        """The action to take at `pose`."""
        x, y, _ = pose
        cell = (y // CELL, x // CELL)
        if cell not in self.visited:
            self.visited.append(cell)
        while not self.planned:
            if self.waypoints and math.dist(self.waypoints[0], (x, y)) < REACHED:
                self.waypoints.popleft()
            elif self.linger and self.rng.random() < self.linger:
                self._plan_look()
            elif self.waypoints and self.rng.random() > 0.01:
                self._plan_steering(pose)
            else:
                self._plan_aside()
                self._choose_goal(cell)
        return self.planned.popleft()

    def _plan_steering(self, pose: Pose) -> None:
        """Towards the next waypoint: turns until it lies ahead, then a step; or straight back when it lies behind."""
        x, y, heading = pose
        right, up = self.waypoints[0][0] - x, self.waypoints[0][1] - y
        error = math.atan2(up, right) * HEADINGS / (2 * math.pi) - heading
        error = (error + HEADINGS / 2) % HEADINGS - HEADINGS / 2
        if abs(error) > HEADINGS / 2 - 0.6 and self.rng.random() < 0.6:
            self.planned.extend([BACKWARD] * max(1, round(math.hypot(right, up) / STEP)))
        elif abs(error) > 0.6:
            self.planned.extend([TURN_LEFT if error > 0 else TURN_RIGHT] * round(abs(error)))
        elif pose == self.last:  # the way is blocked: we strayed too near a corner
            self.waypoints.clear()
        else:
            self.planned.append(FORWARD)
            self.last = pose

    def _plan_aside(self) -> None:
        """What a visitor does between two walks: mostly looks around, sometimes peeps aside, backs off or pauses."""
        turn = self.rng.choice((TURN_LEFT, TURN_RIGHT))
        back = TURN_LEFT + TURN_RIGHT - turn
        quarter = HEADINGS // 4
        glance = self.rng.randint(1, 2 * quarter)
        asides = (
            (0.30, []),
            (0.15, [turn] * glance + [NOOP] + [back] * glance),
            (0.15, [turn] * glance + [FORWARD, BACKWARD] + [back] * glance),
            (0.10, [turn] * quarter),
            (0.08, [turn] * HEADINGS),
            (0.07, [NOOP] * self.rng.randint(2, 4)),
            (0.10, [BACKWARD] * self.rng.randint(1, 4)),
            (0.05, [FORWARD] * self.rng.randint(1, 3)),
        )
        weights = [weight for weight, _ in asides]
        self.planned.extend(self.rng.choices([plan for _, plan in asides], weights)[0])

    def _plan_look(self) -> None:
        """A look around on the spot that ends at the view it began with: away and back, or once round."""
        turn = self.rng.choice((TURN_LEFT, TURN_RIGHT))
        back = TURN_LEFT + TURN_RIGHT - turn
        away = self.rng.randint(2, HEADINGS // 2)
        wait = [NOOP] * self.rng.choice((0, 0, 1, 8))
        rest = [turn] * (HEADINGS - away) if self.rng.random() < 0.4 else [back] * away
        self.planned.extend([turn] * away + wait + rest)

    def _choose_goal(self, cell: Cell) -> None:
        """A new path: to a place seen before, or to a new one."""
        seen = [place for place in self.visited if place != cell]
        new = [place for place in free_cells(self.grid) if place != cell and place not in self.visited]
        goal = self.rng.choice(seen if seen and (not new or self.rng.random() < self.revisit) else new)
        shift = self.rng.randint(-self.stray, self.stray), self.rng.randint(-self.stray, self.stray)
        centres = [cell_centre(place) for place in self._path(cell, goal)]
        self.waypoints = deque((x + shift[0], y + shift[1]) for x, y in centres)

    def _path(self, start: Cell, goal: Cell) -> list[Cell]:
        """The cells of a shortest path, without the first."""
        came_from, queue = {start: start}, deque([start])
        while goal not in came_from:
            row, column = queue.popleft()
            for down, right in self.rng.sample(NEIGHBOURS, 4):
                near = (row + down, column + right)
                if self.grid[near] and near not in came_from:
                    came_from[near] = (row, column)
                    queue.append(near)
        path = [goal]
        while path[-1] != start:
            path.append(came_from[path[-1]])
        return path[-2::-1]
