"""What ends a search before its last trial: against plain formulas."""

from __future__ import annotations

import os
import signal

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from search.rungs import Score
from search.stopping import Stopping, trials_since_better
from tests.search.test_rungs import dominates

ENDED = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=20)


def trial(divergence: int, grains: int, *, pruned: bool) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        values=None if pruned else [float(divergence), 20.0 * grains],
        user_attrs={"bytes": 20 * grains},
    )


@given(ENDED)
def test_patience_counts_from_the_last_trial_that_made_the_front_better(ended: list[tuple[int, int, bool]]) -> None:
    trials = [trial(x, size, pruned=pruned) for x, size, pruned in ended]
    front: list[Score] = []
    since = 0
    for x, size, pruned in ended:
        score = Score(float(x), size)
        since += 1
        if not pruned and score not in front and not any(dominates(other, score) for other in front):
            front, since = [*(other for other in front if not dominates(score, other)), score], 0
    found = trials_since_better(trials, 1000)
    # a score that was in the front once and is not now made it better then, but what it was beaten by did later
    assert found == since


def test_running_trials_do_not_count() -> None:
    running = optuna.trial.create_trial(state=TrialState.RUNNING)
    assert trials_since_better([trial(1, 1, pruned=False), running], 1000) == 0


def test_ctrl_c_is_asked_for_once_and_raised_twice() -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Stopping(1000, say=said.append) as stopping:  # noqa: PT012
        assert stopping.reason([]) is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.reason([]) == "stopped by Ctrl-C"
        os.kill(os.getpid(), signal.SIGINT)
    assert len(said) == 1
    assert signal.getsignal(signal.SIGINT) == before
