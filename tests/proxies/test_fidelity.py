"""Rank correlations of cheap scores: known orders, parity with scipy, intervals that hold what they are of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from proxies.fidelity import best_quarter, fidelity, halves


def test_the_same_order_is_one_and_the_reverse_is_minus_one() -> None:
    full = [3.0, 1.0, 2.0, 5.0, 4.0]
    same, reverse = fidelity([math.exp(x) for x in full], full, 0), fidelity([-x for x in full], full, 0)
    assert same.plans == 5
    assert [same.spearman.value, same.kendall.value, same.spearman.low, same.spearman.high] == pytest.approx([1.0] * 4)
    assert [reverse.spearman.value, reverse.kendall.value] == pytest.approx([-1.0] * 2)


def test_scipy_says_the_same_and_the_interval_holds_it() -> None:
    rng = np.random.default_rng(1)
    full = rng.normal(size=40)
    cheap = full + 0.7 * rng.normal(size=40)
    found = fidelity(list(cheap), list(full), 3)
    assert found.spearman.value == pytest.approx(spearmanr(cheap, full).statistic)
    assert found.kendall.value == pytest.approx(kendalltau(cheap, full).statistic)
    low, value, high = found.spearman.low, found.spearman.value, found.spearman.high
    assert low is not None
    assert high is not None
    assert value is not None
    assert low < value < high < low + 0.6
    assert found == fidelity(list(cheap), list(full), 3)
    assert found != fidelity(list(cheap), list(full), 4)


def test_scores_that_are_all_equal_say_nothing() -> None:
    found = fidelity([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], 0)
    assert found.spearman.value is None
    assert found.kendall.low is None


def test_three_plans_are_too_few() -> None:
    with pytest.raises(ValueError, match="3 plans"):
        fidelity([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0)


def test_halves_agree_as_far_as_plans_differ_beside_the_noise_of_utterances() -> None:
    """Of two halves of 24 utterances, each of whose scores has unit noise, by how far plans differ."""
    rng = np.random.default_rng(2)
    worth, noise = rng.normal(size=200), rng.normal(size=(200, 48))
    for scale, expected in ((0.0, 0.0), (0.2, 0.2**2 / (0.2**2 + 1 / 24)), (50.0, 1.0)):
        found = halves((scale * worth[:, None] + noise).tolist(), 0)
        assert found.plans == 200
        assert found.spearman.value == pytest.approx(expected, abs=0.1)
        assert found.spearman.low is not None
        assert found.spearman.high is not None
        assert found.spearman.low <= found.spearman.value <= found.spearman.high
    assert found == halves((50 * worth[:, None] + noise).tolist(), 0)


def test_halves_of_too_few_plans_or_of_equal_ones_say_nothing() -> None:
    assert halves([[float(i), i + 0.5] for i in range(5)], 0).spearman.value == pytest.approx(1.0)
    assert halves([[1.0, 1.0]] * 5, 0).spearman.value is None
    with pytest.raises(ValueError, match="3 plans"):
        halves([[1.0, 2.0]] * 3, 0)


def test_the_best_quarter_has_the_lowest_scores() -> None:
    full = [float(x) for x in (9, 2, 7, 4, 1, 8, 3, 6, 5, 0, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)]
    assert sorted(full[i] for i in best_quarter(full)) == [0, 1, 2, 3, 4]
    assert len(best_quarter(full[:8])) == 4
