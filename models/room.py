"""Batches where memory is short: one that there is no memory for is halved, and later ones are made as small.

On a GPU torch raises OutOfMemoryError, after which what the batch held can be had again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from models.inputs import Row

_Found = TypeVar("_Found")


def positions(rows: Sequence[Row], batch: Sequence[int]) -> int:
    """Of a batch of these rows, with padding."""
    return len(batch) * max(len(rows[i].prompt) + len(rows[i].target) for i in batch)


def utterances(rows: Sequence[Row], batch: Sequence[int]) -> list[int]:
    """Of each of a batch's rows: rows that hear the same have the same number."""
    return [id(rows[i].speech or rows[i]) for i in batch]


def until_it_fits(run: Callable[[], _Found], halve: Callable[[], bool]) -> _Found:
    """What `run` returns, which is called again, once `halve` has made its batches smaller, where memory ran out.

    Raises torch.OutOfMemoryError where `halve` says that there is nothing to make smaller.
    """
    while True:
        try:
            return run()
        except torch.OutOfMemoryError:
            if not halve():
                raise
        # not before the exception is gone, whose traceback holds what the batch held
        torch.cuda.empty_cache()


class Room:
    """How many positions the batches of one kind of pass may have, learnt from those that there was no memory for.

    A batch is indices of rows. It is cut between utterances, whose rows share the encoder's pass, and between rows of
    one utterance only where they are too many by themselves, and never where `whole_utterances` must stay.
    """

    def __init__(self, *, whole_utterances: bool = False) -> None:
        self.most_positions = math.inf
        self._whole = whole_utterances

    def each(
        self, rows: Sequence[Row], batch: Sequence[int], run: Callable[[Sequence[int]], _Found]
    ) -> Iterator[tuple[Sequence[int], _Found]]:
        """A batch in parts that fit, in order, and what `run` makes of each.

        Raises torch.OutOfMemoryError where a single row does not fit.
        """
        left = deque([batch])

        def run_first() -> _Found:
            left.extendleft(reversed(self._parts(rows, left.popleft())))
            return run(left[0])

        while left:
            found = self._in_room(run_first, lambda: self._shrinks(rows, left[0]))
            yield left.popleft(), found

    def backward(
        self, rows: Sequence[Row], loss: Callable[[Sequence[int]], Tensor], reset: Callable[[], object]
    ) -> None:
        """Gradients of a loss that is the sum of those of parts of the rows; `reset` forgets those of an attempt.

        Raises torch.OutOfMemoryError where a single row, or utterance that stays whole, does not fit.
        """
        everything = range(len(rows))

        def run() -> None:
            reset()
            for part in self._parts(rows, everything):
                torch.autograd.backward(loss(part))

        self._in_room(run, lambda: any(self._shrinks(rows, part) for part in self._largest_first(rows, everything)))

    def _in_room(self, run: Callable[[], _Found], halve: Callable[[], bool]) -> _Found:
        """What could not be made to fit says nothing about other batches."""
        before = self.most_positions
        try:
            return until_it_fits(run, halve)
        except torch.OutOfMemoryError:
            self.most_positions = before
            raise

    def _largest_first(self, rows: Sequence[Row], batch: Sequence[int]) -> list[Sequence[int]]:
        return sorted(self._parts(rows, batch), key=lambda part: positions(rows, part), reverse=True)

    def _parts(self, rows: Sequence[Row], batch: Sequence[int]) -> list[Sequence[int]]:
        """A batch in parts that there may be memory for, or that cannot be cut."""
        halves = self._halves(rows, batch) if positions(rows, batch) > self.most_positions else ()
        return [part for half in halves for part in self._parts(rows, half)] or [batch]

    def _shrinks(self, rows: Sequence[Row], batch: Sequence[int]) -> bool:
        """Makes room for no more than half of a batch; whether it can be cut."""
        halves = self._halves(rows, batch)
        if halves:
            self.most_positions = max(positions(rows, half) for half in halves)
        return bool(halves)

    def _halves(self, rows: Sequence[Row], batch: Sequence[int]) -> tuple[Sequence[int], ...]:
        """Nothing where a batch cannot be cut."""
        heard = utterances(rows, batch)
        cuts = [at for at in range(1, len(batch)) if heard[at - 1] != heard[at]]
        if not cuts and not self._whole:
            cuts = list(range(1, len(batch)))
        if not cuts:
            return ()
        middle = min(cuts, key=lambda at: abs(2 * at - len(batch)))
        return batch[:middle], batch[middle:]
