"""Checkpoints that are written while training goes on."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.checkpoint._state_dict_stager import StateDictStager

from nextframe import ranks
from nextframe.checkpoint import CHECKPOINTS
from nextframe.devices import thread_start
from nextframe.files import sweep
from nextframe.pieces import Position, State, write_checkpoint


class Saver:
    """Copies what is to be saved, and writes the copy in a thread of its own: one at a time. See `saving`."""

    def __init__(self, run: Path, position: Position, pool: ThreadPoolExecutor) -> None:
        self._run, self._newest, self._pool = run, position, pool
        self._group = ranks.another_group()
        # Its memory is kept from one checkpoint to the next: new memory takes ten times as long to fill.
        # (`DefaultStager`, which is public, copies once and never again in torch 2.11.)
        self._copier = StateDictStager()
        self._writing: Future[None] | None = None

    def save(self, state: State, position: Position) -> None:
        """Begin to write; returns when `state` may change again. All processes save together, and none a step twice.

        Raises UserError when the write before failed.
        """
        self.wait()
        if position.step == self._newest.step:
            return
        if ranks.rank() == 0:
            sweep(self._run / CHECKPOINTS)
        ranks.barrier()  # nobody writes before what was left by a kill is swept away
        copy = self._copier.stage(state)
        assert isinstance(copy, dict)
        self._writing = self._pool.submit(write_checkpoint, self._run, copy, position, self._newest, self._group)
        self._newest = position

    def failed(self) -> bool:
        """Whether the write that was begun last has failed: then `wait` says how."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def wait(self) -> None:
        """Wait for what is being written. Raises UserError, in all processes, when it could not be."""
        if self._writing is not None:
            self._writing.result()


@contextmanager
def saving(run: Path, position: Position, device: torch.device) -> Iterator[Saver]:
    """Yield a saver for a run that stands at `position`, and was saved there. Where the block ends well all is written.

    Raises UserError when it could not be.
    """
    with ThreadPoolExecutor(1, "checkpoint", thread_start(device)) as pool:
        saver = Saver(run, position, pool)
        yield saver
        saver.wait()
