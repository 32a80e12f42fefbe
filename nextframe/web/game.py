"""One visitor's walk: step, go back, branch, change how it is dreamed. Nothing here knows of a browser."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np

from nextframe.errors import UserError
from nextframe.metrics.image import pooled_psnr
from nextframe.web.dreamer import Dreamer, FrameSource, Made, dream
from nextframe.web.history import Action, Film, History, Step
from nextframe.web.starts import Start


class Game:
    """A history, what makes its frames, and the films that keep them. Close it: the films are files."""

    def __init__(self, source: FrameSource | Dreamer, start: Start, folder: Path) -> None:
        self.source = source
        size = start.video.shape[1]
        self.film, self.truth_film = Film(size, folder), Film(size, folder)
        steps = []
        for number, frame in enumerate(start.video):
            latents = None if start.latents is None else start.latents[number]
            pose = None if start.poses is None else start.poses[number]
            steps.append(Step(start.action_to(number), self.film.append(frame), latents, pose))
        self.history = History(steps)
        self.start = replace(start, video=start.video[:0].copy(), latents=None)  # they are kept by the steps now

    def check_next(self) -> None:
        """Raises UserError when the walk is full, or the world has ended."""
        self.history.check_room()
        branch = self.history.branch
        if branch.end is not None and self.history.frame == branch.length - 1:
            raise UserError(branch.end)

    def take(self, action: Action, made: Made) -> Made:
        """The frame that `action` leads to is made."""
        maze = self.start.maze
        pose = None if maze is None else maze.move(self.history.current().pose, action)
        place, kept = self.film.expect(made.frame, made.again)
        self.history.append(Step(action, place, made.latents, pose))
        if isinstance(self.source, Dreamer):
            self.source.took(self.history)
        self.history.branch.end = made.end
        return replace(made, frame=kept)

    def seek(self, frame: int) -> np.ndarray:
        """Go to any frame of this branch, and see it; a step from there begins a new branch. Raises UserError."""
        self.history.seek(frame)
        return self.shown()

    def enter(self, branch: int) -> np.ndarray:
        """Go to the end of a branch, and see it. Raises UserError when there is none."""
        self.history.enter(branch)
        return self.shown()

    def shown(self) -> np.ndarray:
        """The frame where one stands."""
        return self.film.read(self.history.current().place)

    def change(self, steps: int | None = None, guidance: float | None = None, solver: str | None = None) -> None:
        """Dream on with other settings. Raises UserError for impossible ones."""
        if not isinstance(self.source, Dreamer):
            raise UserError("the engine has no sampling settings: play a model")
        self.source.change(steps=steps, guidance=guidance, solver=solver)

    def note_truth(self, step: Step, truth: np.ndarray) -> None:
        """Keep the engine's frame beside a dreamed one, and how near they are."""
        step.truth_place = self.truth_film.append(truth)
        step.psnr = round(pooled_psnr(self.film.read(step.place), truth), 2)

    def truth(self, step: Step) -> np.ndarray | None:
        """The engine's frame, where there is one; of the clip, the clip's own."""
        if step.truth_place is not None:
            return self.truth_film.read(step.truth_place)
        return self.film.read(step.place) if step.place < self.history.context else None

    def close(self) -> None:
        self.source.rest()
        self.film.close()
        self.truth_film.close()


def step_games(asked: Sequence[tuple[Game, Action]], beside: Executor | None = None) -> list[Made | Exception]:
    """The frame that its action leads to, in each walk; what the model dreams is made in one pass.

    What one raises is in its place: UserError when its walk is full, or its world has ended.
    `beside`: where frames are decoded, while the next ones are made; None: here.
    """
    results: dict[int, Made | Exception] = {}
    dreamt: list[tuple[int, Dreamer]] = []
    for place, (game, action) in enumerate(asked):
        try:
            game.check_next()
            if isinstance(game.source, Dreamer):
                dreamt.append((place, game.source))
            else:
                results[place] = game.take(action, game.source.step(game.history, action))
        except Exception as error:
            results[place] = error
    try:
        made = dream([(source, asked[place][0].history, asked[place][1]) for place, source in dreamt], beside)
        for (place, _), one in zip(dreamt, made, strict=True):
            game, action = asked[place]
            results[place] = game.take(action, one)
    except Exception as error:
        left = [place for place, _ in dreamt if place not in results]
        if not left:
            raise
        alone = len(left) == 1  # it shows whose it is
        results |= {place: error if alone else step_games([asked[place]], beside)[0] for place in left}
    return [results[place] for place in range(len(asked))]
