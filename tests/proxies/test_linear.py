"""What changes come to together, beside the plain form, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from proxies.answers import Answers
from proxies.linear import Linear

CHANGES, PREDICTIONS, TOKENS, IN_ALL = 4, 5, 6, 7


def example(size: float) -> tuple[Answers, torch.Tensor]:
    torch.manual_seed(1)
    source = torch.randn(PREDICTIONS, TOKENS).mul(2).log_softmax(1)
    own = (source + 0.3 * torch.randn(PREDICTIONS, TOKENS)).log_softmax(1)
    return Answers(0.0, own, source, None, IN_ALL), size * torch.randn(CHANGES, PREDICTIONS, TOKENS)


def plain(own: Answers, shifts: torch.Tensor, made: np.ndarray) -> float:
    assert own.logs is not None
    assert own.source is not None
    total = 0.0
    for i in range(PREDICTIONS):
        logits = [
            float(own.logs[i, j]) + sum(float(shifts[k, i, j]) for k in range(CHANGES) if made[k])
            for j in range(TOKENS)
        ]
        whole = math.log(sum(map(math.exp, logits)))
        for j, logit in enumerate(logits):
            wanted = float(own.source[i, j])
            total += math.exp(wanted) * (wanted - (logit - whole))
    return total / IN_ALL


def test_divergences_are_those_of_sums_of_log_probabilities() -> None:
    own, shifts = example(0.5)
    rows = np.array([[i >> k & 1 for k in range(CHANGES)] for i in range(2**CHANGES)], dtype=float)
    found = Linear(own, shifts).divergences(rows)
    assert found == pytest.approx([plain(own, shifts, row) for row in rows], rel=1e-4)


def test_products_are_what_two_small_changes_add() -> None:
    own, shifts = example(0.02)
    linear = Linear(own, shifts)
    made = np.array([1.0, 0.0, 0.0, 0.0])
    products = linear.products(made)
    for i in range(1, CHANGES):
        for j in range(i + 1, CHANGES):
            one, other = np.eye(CHANGES)[i], np.eye(CHANGES)[j]
            both, first, second, none = (
                plain(own, shifts, row) for row in (made + one + other, made + one, made + other, made)
            )
            assert products[i, j] == pytest.approx(both - first - second + none, rel=0.1, abs=2e-6)
