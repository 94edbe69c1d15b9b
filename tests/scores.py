"""Scores that marginals are measured with: divergences alone, and log-probabilities that add up."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from proxies.answers import Answers
from proxies.marginals import Score
from space.choices import Option, choices, choices_of
from space.limits import Limits
from space.plan import Plan, Sublayer
from space.policy import Loss

PREDICTIONS, TOKENS = 12, 6


def alone(score: Callable[[Plan], float]) -> Score:
    """Answers without log-probabilities."""
    return lambda plan, _own: Answers(score(plan))


def adding_up(limits: Limits, loss: Loss) -> Score:
    """Every option moves log-probabilities by errors of its own, the larger the more it costs.

    Those of a sublayer by errors of its size and of its rate.
    """
    wholes = {name: of[-1] for name, of in choices(limits.layout).items()}
    source = _noise("source", 2.0).log_softmax(1)

    def moved(name: str, option: Option) -> Tensor:
        whole = wholes[name]
        if not isinstance(option, Sublayer) or not isinstance(whole, Sublayer) or not option.kept:
            return errors(name, option)
        return errors(name, replace(whole, kept=option.kept)) + errors(name, replace(whole, rate=option.rate))

    def errors(name: str, option: Option) -> Tensor:
        size = 0.5 * loss(name, option) ** 0.5
        return _noise(name, size) + _noise(f"{name} {option}", size)

    def score(plan: Plan, own: Answers | None) -> Answers:
        options = choices_of(limits.layout, plan).items()
        logs = (source + sum(moved(name, option) for name, option in options)).log_softmax(1)
        divergence = float((source.exp() * (source - logs)).sum()) / PREDICTIONS
        ids = torch.zeros(PREDICTIONS, TOKENS - 1, dtype=torch.long) if own is None else own.ids
        return Answers(divergence, logs, source, ids, PREDICTIONS)

    return score


def _noise(of: str, size: float) -> Tensor:
    rng = torch.Generator().manual_seed(zlib.crc32(of.encode()))
    return size * torch.randn(PREDICTIONS, TOKENS, generator=rng)
