"""The pool without processes: the driver evaluates plans itself, one after the other."""

from __future__ import annotations

from collections.abc import Callable

from search.pools.pool import Evaluator, Event, Reached, Task, Worker


class InProcess:
    """One worker, the driver itself: it works while it is asked for events.

    The same seed gives the same trials in the same order. What kills a worker kills the driver.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._worker = Worker(evaluator)
        self._next: Callable[[], Event] | None = None
        self._busy = False

    @property
    def free(self) -> int:
        return 0 if self._busy else 1

    def begin(self, task: Task) -> None:
        assert not self._busy
        self._busy = True
        self._next = lambda: self._worker.begin(task)

    def answer(self, number: int, goes_on: bool) -> None:
        self._next = lambda: self._worker.answer(goes_on)

    def events(self, seconds: float) -> list[Event]:
        if self._next is None:
            return []
        work, self._next = self._next, None
        event = work()
        self._busy = isinstance(event, Reached)
        return [event]

    def close(self) -> None:
        """Nothing is left behind."""
