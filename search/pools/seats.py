"""What pools have in common whose workers are elsewhere: a seat for each, into which another is put where one dies.

Their deaths are counted, replaced and told in one way, which is inherited: only hearing them differs.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from search.pools.pool import Broken, Event, Reached, Task, Word
from search.settings import WORKER_MINUTES
from space.errors import UserError

# A worker says nothing for so long at most while it evaluates, or it is taken to hang.
PATIENCE_SECONDS = 60 * WORKER_MINUTES
# Workers in a row that may die before they are ready.
_STILLBORN = 3


class Seat(ABC):
    """A worker's place: whether it is `ready`, and the number of the `task` it has."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Puts a worker into it, which is not waited for."""
        self.ready = False
        self.task: int | None = None
        self._since = time.monotonic()
        self._hire()

    @property
    def free(self) -> bool:
        return self.ready and self.task is None

    def say(self, word: Word) -> None:
        """Gives its worker a task, or the answer it waits for."""
        if isinstance(word, Task):
            self.task = word.number
        self._since = time.monotonic()
        self._send(word)

    def heard(self, event: Event | None) -> None:
        """Its worker said something, or, by None, that it is ready."""
        self._since = time.monotonic()
        if event is None:
            self.ready = True
        elif not isinstance(event, Reached):
            self.task = None

    def hangs(self, patience: float) -> bool:
        """Whether its worker has a task and said nothing for so many seconds."""
        return self.task is not None and time.monotonic() - self._since > patience

    @abstractmethod
    def kill(self) -> None:
        """Ends its worker, at once."""

    @abstractmethod
    def _hire(self) -> None: ...

    @abstractmethod
    def _send(self, word: Word) -> None: ...


_Seat = TypeVar("_Seat", bound=Seat)


class SeatedPool(Generic[_Seat]):
    """A pool but for how workers are heard. One that says nothing for `patience` seconds while it evaluates hangs."""

    def __init__(self, seats: Sequence[_Seat], patience: float) -> None:
        self._seats, self._patience, self._stillborn = seats, patience, 0

    @property
    def free(self) -> int:
        return sum(seat.free for seat in self._seats)

    def begin(self, task: Task) -> None:
        next(seat for seat in self._seats if seat.free).say(task)

    def answer(self, number: int, goes_on: bool) -> None:
        # one that died behind its last words has no task any more
        for seat in self._seats:
            if seat.task == number:
                seat.say(goes_on)

    def close(self) -> None:
        for seat in self._seats:
            seat.kill()

    def _heard(self, seat: _Seat, event: Event | None) -> list[Event]:
        """What a worker said; None is that it is ready."""
        seat.heard(event)
        if event is None:
            self._stillborn = 0
            return []
        return [event]

    def _lost(self, seat: _Seat, cause: str, advice: str, *, blamed: bool = True) -> list[Event]:
        """Puts another worker into the seat of one that died.

        Raises UserError, with some `advice`, where several that are to be `blamed` died in a row before they were
        ready.
        """
        if blamed and not seat.ready:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN:
                raise UserError(f"workers die before they are ready ({cause}); try {advice}")
        return self._replaced(seat, cause)

    def _hung(self, seat: _Seat) -> list[Event]:
        """Puts another worker into the seat of one that hangs."""
        return self._replaced(seat, "hung", f" for {self._patience:g} seconds")

    def _replaced(self, seat: _Seat, cause: str, more: str = "") -> list[Event]:
        task = seat.task
        seat.kill()
        seat.start()
        return [] if task is None else [Broken(task, f"its worker {cause}", f"its worker {cause}{more}")]
