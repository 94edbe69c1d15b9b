"""What ends a search before its last trial: against plain formulas."""

from __future__ import annotations

import os
import signal
from datetime import datetime, timedelta

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from search.rungs import HEALED, Score, grains
from search.stopping import Stopping, trials_since_better
from tests.search.test_rungs import dominates

ENDED = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=20)


def trial(divergence: int, grains: int, *, pruned: bool) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        values=None if pruned else [float(divergence), 20.0 * grains],
        user_attrs={"bytes": 20 * grains, "removed": 0},
    )


def weight(of: FrozenTrial) -> int:
    """Grains of a bound of 200 bytes."""
    return grains(of.user_attrs["bytes"], 200)


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
    found = trials_since_better(trials, weight)
    # a score that was in the front once and is not now made it better then, but what it was beaten by did later
    assert found == since


def test_what_counts_is_when_trials_end() -> None:
    """Trial 1 heals while another worker has five trials stopped; then it makes the front better."""
    trials = [trial(5, 1, pruned=False), trial(1, 1, pruned=False), *(trial(9, 1, pruned=True) for _ in range(5))]
    trials[1].datetime_complete = datetime.now() + timedelta(minutes=1)
    assert trials_since_better(trials, weight) == 0
    assert trials_since_better(trials[:1] + trials[2:], weight) == 5
    # three of the five ended in an earlier run, which was killed with trial 1 at work
    trials[1] = trial(7, 1, pruned=True)
    trials[1].datetime_complete = datetime.now() + timedelta(minutes=1)
    assert trials_since_better(trials, weight, ended_before=6) == 1


def test_a_lucky_healing_makes_no_front_better() -> None:
    """Its loss is the least found, but as far from the source as it is others lose more than the best."""
    found = [(9.0, 0.01), *((12.0, 0.2) for _ in range(9)), (8.0, 0.2), (12.0, 0.2)]
    trials = []
    for loss, divergence in found:
        trials.append(trial(0, 1, pruned=False))
        trials[-1].values = [loss, 1.0]
        trials[-1].user_attrs[HEALED] = divergence
    assert trials_since_better(trials, weight) == 11
    for one in trials:
        one.user_attrs.clear()
        one.user_attrs["bytes"] = 1
    assert trials_since_better(trials, weight) == 1


def test_running_trials_do_not_count() -> None:
    running = optuna.trial.create_trial(state=TrialState.RUNNING)
    assert trials_since_better([trial(1, 1, pruned=False), running], weight) == 0


def test_starts_and_trials_of_earlier_runs_are_not_counted() -> None:
    trials = [trial(1, 1, pruned=False), *(trial(2, 1, pruned=False) for _ in range(3))]
    assert trials_since_better(trials, weight) == 3
    assert trials_since_better(trials, weight, ended_before=3) == 1
    trials[2].set_user_attr("baseline", "uniform")
    assert trials_since_better(trials, weight) == 2
    stopping = Stopping(patience=2, size=weight)
    assert stopping.reason(trials) is None
    assert stopping.reason([*trials, trial(2, 1, pruned=False)]) is None
    assert stopping.reason([*trials, *(trial(2, 1, pruned=False) for _ in range(2))]) == "no better front in 2 trials"


def test_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = Stopping(hours=0.5, started=0.0)
    monkeypatch.setattr("time.monotonic", lambda: 1799.0)
    assert stopping.reason([]) is None
    monkeypatch.setattr("time.monotonic", lambda: 1800.0)
    assert stopping.reason([]) == "0.5 hours are over"


def test_ctrl_c_is_asked_for_once_and_raised_twice(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Stopping() as stopping:  # noqa: PT012
        assert stopping.reason([]) is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.reason([]) == "stopped by Ctrl-C"
        os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err.count("Ctrl-C again leaves at once") == 1
    assert signal.getsignal(signal.SIGINT) == before
