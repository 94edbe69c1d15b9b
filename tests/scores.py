"""Divergences alone, in the form that marginals are measured with."""

from __future__ import annotations

from collections.abc import Callable

from proxies.answers import Answers
from proxies.marginals import Score
from space.plan import Plan


def alone(score: Callable[[Plan], float]) -> Score:
    """Answers without log-probabilities."""
    return lambda plan, _own: Answers(score(plan))
