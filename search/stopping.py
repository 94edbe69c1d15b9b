"""When a search goes on to its finalists before its last trial: time is up, nothing gets better, or Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import FrameType
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.baselines import START_KINDS
from search.rungs import Score, nondominated_ranks, settled

_SAID = b"the running trial is finished, then come the finalists; Ctrl-C again leaves at once\n"


@dataclass
class Stopping:
    """Reasons to ask for no more trials: `hours` since `started`, or `patience` trials of this run and no better front.

    `size` is what a trial weighs as far as fronts go, in whatever unit.

    As a context it also takes Ctrl-C: once ends the search behind the running trial and says so on standard error,
    twice raises KeyboardInterrupt, at once.
    """

    hours: float | None = None
    patience: int | None = None
    size: Callable[[FrozenTrial], int] = lambda _trial: 0
    started: float = field(default_factory=time.monotonic)
    _asked: bool = field(default=False, init=False)
    _ended_before: int | None = field(default=None, init=False)
    _before: Any = field(default=None, init=False)

    @property
    def over(self) -> bool:
        """Whether it ends whatever its trials came to."""
        return self._asked or self._late

    @property
    def _late(self) -> bool:
        return self.hours is not None and time.monotonic() - self.started >= 3600 * self.hours

    def reason(self, trials: Sequence[FrozenTrial]) -> str | None:
        """Why a study of these trials ends now; None where it goes on."""
        if self._ended_before is None:
            self._ended_before = sum(trial.state.is_finished() for trial in trials)
        if self._asked:
            return "stopped by Ctrl-C"
        if self._late:
            return f"{self.hours:g} hours are over"
        patience = self.patience
        if patience is not None and trials_since_better(trials, self.size, self._ended_before) >= patience:
            return f"no better front in {patience} trials"
        return None

    def __enter__(self) -> Stopping:
        # only a main thread may have handlers; who started this with Ctrl-C ignored wants it ignored
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _interrupted(self, _signal: int, _frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        # whatever else is being written at this moment
        os.write(2, _SAID)


def trials_since_better(
    trials: Sequence[FrozenTrial], size: Callable[[FrozenTrial], int], ended_before: int = 0
) -> int:
    """How many trials of samplers ended behind the last one that made the front better, and behind `ended_before`.

    The front is that of settled losses (decision 0026) and of sizes. What counts is when a trial ended, not its number:
    one that heals takes as long as dozens that do not.
    """
    ended = [trial for trial in trials if trial.state.is_finished()]
    ended.sort(key=lambda trial: trial.datetime_complete or datetime.min)
    scores = [
        Score(trial.values[0], size(trial)) if trial.state == TrialState.COMPLETE else Score(float("nan"), 0)
        for trial in settled(ended)
    ]
    seen: set[Score] = set()
    last = -1
    for i, (rank, score) in enumerate(zip(nondominated_ranks(scores), scores, strict=True)):
        if rank == 0 and score not in seen:
            seen.add(score)
            last = i
    behind = ended[max(last + 1, ended_before) :]
    return sum(not any(kind in trial.user_attrs for kind in START_KINDS) for trial in behind)
