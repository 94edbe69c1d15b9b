"""When a search goes on to its finalists before its last trial: time is up, nothing gets better, or Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.rungs import BYTES, Score, grains, nondominated_ranks


@dataclass
class Stopping:
    """Reasons to ask for no more trials: `hours` of this run, or `patience` ended trials without a better front.

    As a context it also takes Ctrl-C: once ends the search behind the running trial, `say` is told so; twice raises
    KeyboardInterrupt, at once.
    """

    bound_bytes: int
    hours: float | None = None
    patience: int | None = None
    say: Callable[[str], None] = lambda _line: None
    _asked: bool = field(default=False, init=False)
    _started: float = field(default_factory=time.monotonic, init=False)
    _before: Any = field(default=None, init=False)

    def reason(self, trials: Sequence[FrozenTrial]) -> str | None:
        """Why a study of these trials ends now; None where it goes on."""
        if self._asked:
            return "stopped by Ctrl-C"
        if self.hours is not None and time.monotonic() - self._started >= 3600 * self.hours:
            return f"{self.hours:g} hours are over"
        if self.patience is not None and trials_since_better(trials, self.bound_bytes) >= self.patience:
            return f"no better front in {self.patience} trials"
        return None

    def __enter__(self) -> Stopping:
        # only a main thread may have handlers
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _interrupted(self, _signal: int, _frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        self.say("the running trial is finished, then come the finalists; Ctrl-C again leaves at once")


def trials_since_better(trials: Sequence[FrozenTrial], bound_bytes: int) -> int:
    """How many ended trials there are behind the last one that made the front better, with bytes in grains."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    scores = [
        Score(trial.values[0], grains(trial.user_attrs[BYTES], bound_bytes))
        if trial.state == TrialState.COMPLETE
        else Score(float("nan"), 0)
        for trial in ended
    ]
    seen: set[Score] = set()
    last = -1
    for i, (rank, score) in enumerate(zip(nondominated_ranks(scores), scores, strict=True)):
        if rank == 0 and score not in seen:
            seen.add(score)
            last = i
    return len(ended) - 1 - last
