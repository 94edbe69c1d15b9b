"""The pool without processes: the driver evaluates plans itself, one after the other."""

from __future__ import annotations

from search.pools.pool import Evaluator, Event, Reached, Task, Word, Worker


class InProcess:
    """One worker, the driver itself: it works while it is asked for events.

    The same seed gives the same trials in the same order. What kills a worker kills the driver.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._worker = Worker(evaluator)
        self._next: Word | None = None
        self._busy = False

    @property
    def free(self) -> int:
        return 0 if self._busy else 1

    def begin(self, task: Task) -> None:
        assert not self._busy
        self._busy = True
        self._next = task

    def answer(self, number: int, goes_on: bool) -> None:
        self._next = goes_on

    def events(self, seconds: float) -> list[Event]:
        if self._next is None:
            return []
        word, self._next = self._next, None
        event = self._worker.told(word)
        self._busy = isinstance(event, Reached)
        return [event]

    def close(self) -> None:
        """Nothing is left behind."""
