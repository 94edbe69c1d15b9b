"""How many trials go on, by which proxy: the default where it loses nothing, more or another where it misleads."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from search.rungs import GATES, SURVIVAL, Score
from search.shares import LADDER, Cost, Ranked, gate_for, lost, shares_for

PLANS = 16


def ranked(first: list[float], second: list[float]) -> list[Ranked]:
    """Plans whose losses are 0, 1, 2 and so on, with these divergences at the rungs."""
    return [Ranked((Score(a, 10), Score(b, 10)), float(n)) for n, (a, b) in enumerate(zip(first, second, strict=True))]


def test_where_cheap_scores_rank_right_the_default_is_kept() -> None:
    right = [float(n) for n in range(PLANS)]
    assert shares_for(ranked(right, right), 0) == SURVIVAL
    assert lost(ranked(right, right), (1 / 8, 1 / 8), 0) == 0


def test_a_rung_that_misleads_ends_fewer() -> None:
    right = [float(n) for n in range(PLANS)]
    wrong = right[::-1]
    assert shares_for(ranked(wrong, right), 0)[0] == 1
    assert shares_for(ranked(right, wrong), 0)[1] == 1
    assert shares_for(ranked(wrong, wrong), 0) == (1.0, 1.0)


def test_a_little_noise_keeps_the_default() -> None:
    rng = random.Random(0)
    first, second = ([n + rng.uniform(0, width) for n in range(PLANS)] for width in (6, 2))
    assert shares_for(ranked(first, second), 0) == SURVIVAL


@settings(max_examples=5)
@given(st.permutations(range(PLANS)), st.permutations(range(PLANS)), st.integers(0, 9))
def test_the_choice_loses_little_and_is_the_first_that_does(first: list[int], second: list[int], seed: int) -> None:
    plans = ranked([float(x) for x in first], [float(x) for x in second])
    chosen = shares_for(plans, seed)
    found = [lost(plans, shares, seed) for shares in LADDER]
    assert [x <= 0.5 for x in found].index(True) == LADDER.index(chosen)
    assert found[-1] == 0


RIGHT = [float(n) for n in range(PLANS)]
WRONG = RIGHT[::-1]


def chosen(ranks: dict[str, list[float]], seconds: dict[str, float], heal: float = 30.0) -> tuple[str, object]:
    costs = {proxy: Cost((one / 6, one), heal) for proxy, one in seconds.items()}
    shares = {proxy: shares_for(ranked(ranks[proxy], ranks[proxy]), 0) for proxy in GATES}
    proxy = gate_for(shares, costs)
    return proxy, shares[proxy]


def test_another_proxy_is_the_gate_where_the_default_misleads_and_it_does_not() -> None:
    alike = dict.fromkeys(GATES, 1.0)
    assert chosen(dict.fromkeys(GATES, RIGHT), alike) == ("divergence", SURVIVAL)
    found = chosen({"divergence": WRONG, "loss": WRONG, "chrF": RIGHT}, {"divergence": 1.0, "loss": 1.0, "chrF": 4.0})
    assert found == ("chrF", SURVIVAL)


def test_a_proxy_that_saves_no_time_is_not_taken() -> None:
    """Translating costs more than the healings that the default does not spare."""
    ranks = {"divergence": WRONG, "loss": WRONG, "chrF": RIGHT}
    assert chosen(ranks, {"divergence": 1.0, "loss": 1.0, "chrF": 90.0})[0] == "divergence"
    nearly = dict(zip(GATES, (1.0, 0.95, 4.0), strict=True))
    assert chosen(dict.fromkeys(GATES, RIGHT), nearly, heal=0.0)[0] == "divergence"


def test_seconds_of_a_trial_are_those_of_the_rungs_it_reaches() -> None:
    cost = Cost((1.0, 5.0), 100.0)
    assert cost.of((1.0, 1.0)) == 105.0
    assert cost.of((0.5, 0.1)) == 1.0 + 0.5 * 4.0 + 0.05 * 100.0
