"""What trials are stopped by: the default where it loses nothing, more of them or another gate where it misleads."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from search.gates import DEFAULT, FIRST_UTTERANCES, GATES, RUNG_UTTERANCES, SURVIVAL, Gate
from search.rungs import Score
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


def chosen(
    ranks: Mapping[tuple[str, int], Sequence[float]], seconds: Mapping[tuple[str, int], float], heal: float = 30.0
) -> Gate:
    """Of proxies with first rungs of so many utterances, which cost so many seconds; the second costs six more.

    Both rungs rank alike.
    """
    found = {}
    for (proxy, first), one in seconds.items():
        shares = shares_for(ranked(list(ranks[proxy, first]), list(ranks[proxy, first])), 0)
        found[Gate(proxy, (first, RUNG_UTTERANCES[-1]), shares)] = Cost((one, one + 6.0), heal).of(shares)
    return gate_for(found)


def of_default_size(values: Mapping[str, Any]) -> dict[tuple[str, int], Any]:
    return {(proxy, DEFAULT.utterances[0]): value for proxy, value in values.items()}


def test_another_proxy_is_the_gate_where_the_default_misleads_and_it_does_not() -> None:
    alike = of_default_size(dict.fromkeys(GATES, 1.0))
    assert chosen(of_default_size(dict.fromkeys(GATES, RIGHT)), alike) == DEFAULT
    ranks = of_default_size({"divergence": WRONG, "loss": WRONG, "chrF": RIGHT})
    assert chosen(ranks, of_default_size({"divergence": 1.0, "loss": 1.0, "chrF": 4.0})) == replace(
        DEFAULT, proxy="chrF"
    )


def test_a_proxy_that_saves_no_time_is_not_taken() -> None:
    """Translating costs more than the healings that the default does not spare."""
    ranks = of_default_size({"divergence": WRONG, "loss": WRONG, "chrF": RIGHT})
    assert chosen(ranks, of_default_size({"divergence": 1.0, "loss": 1.0, "chrF": 90.0})).proxy == "divergence"
    nearly = of_default_size({"divergence": 1.0, "loss": 0.95, "chrF": 4.0})
    assert chosen(of_default_size(dict.fromkeys(GATES, RIGHT)), nearly, heal=0.0) == DEFAULT


def of_sizes(shares: Mapping[int, tuple[float, float]], heal: float = 30.0) -> Gate:
    """Of first rungs of so many utterances, each with what loses little; an utterance costs a quarter of a second.

    The second rung goes on for six seconds: it has the states that the first one left.
    """
    costs = {first: Cost((first / 4, first / 4 + 6.0), heal) for first in shares}
    return gate_for({Gate("divergence", (first, 48), found): costs[first].of(found) for first, found in shares.items()})


def test_more_utterances_are_heard_where_few_mislead() -> None:
    """The first 8 say so little that none may be ended by them; by 16 half of the trials are."""
    lax = {4: (1.0, 0.5), 8: (1.0, 0.5), 16: (0.5, 0.5), 24: (0.5, 0.5)}
    assert of_sizes(lax) == Gate("divergence", (16, 48), (0.5, 0.5))


def test_fewer_utterances_are_heard_where_they_rank_as_well_and_much_is_saved() -> None:
    alike = dict.fromkeys((4, 8, 16, 24), (0.5, 0.5))
    assert of_sizes(alike).utterances == (8, 48), "healing is what takes time"
    assert of_sizes(alike, heal=0.0).utterances == (4, 48)


SIZES = [(proxy, first) for proxy in GATES for first in FIRST_UTTERANCES]


@settings(max_examples=200)
@given(st.lists(st.floats(0.01, 1e4), min_size=len(SIZES), max_size=len(SIZES)), st.randoms(use_true_random=False))
def test_the_gate_is_the_cheapest_or_the_default(seconds: list[float], rng: random.Random) -> None:
    gates = [Gate(proxy, (first, 48), rng.choice(LADDER)) for proxy, first in SIZES]
    found = dict(zip(gates, seconds, strict=True))
    taken = gate_for(found)
    default = next(one for one in gates if (one.proxy, one.utterances) == (DEFAULT.proxy, DEFAULT.utterances))
    if taken != default:
        assert found[taken] == min(seconds) < 0.9 * found[default]
    else:
        assert min(seconds) >= 0.9 * found[default]


def test_seconds_of_a_trial_are_those_of_the_rungs_it_reaches() -> None:
    cost = Cost((1.0, 5.0), 100.0)
    assert cost.of((1.0, 1.0)) == 105.0
    assert cost.of((0.5, 0.1)) == 1.0 + 0.5 * 4.0 + 0.05 * 100.0
