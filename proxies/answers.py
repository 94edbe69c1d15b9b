"""Answers: what a candidate finds likely where the source's tokens are predicted, beside its divergence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compress.predictions import NEVER, Predictions

# Tokens of a prediction that are told one by one. Of more the sums of what changes come to are no nearer.
LIKELY = 16


@dataclass(frozen=True, eq=False)
class Answers:
    """A divergence, in nats a token of the source, and log-probabilities (predictions, tokens + 1) if they are known.

    They are of the tokens in `ids` (predictions, tokens), and in the last column of all others together; `source` has
    what the source says of the same, whose texts have `source_tokens`. Predictions are in the order of rows.
    """

    divergence: float
    logs: Tensor | None = None
    source: Tensor | None = None
    ids: Tensor | None = None
    source_tokens: int = 0


def likely(teacher: Predictions, student: Tensor) -> Tensor:
    """The tokens (predictions, tokens) that the source or a student finds likeliest.

    `student` are log-probabilities (predictions, vocabulary).
    """
    count = min(LIKELY, student.shape[1])
    return torch.maximum(teacher.whole(student.shape[1]), student).topk(count, dim=1).indices


def told(logs: Tensor, ids: Tensor) -> Tensor:
    """Of log-probabilities (predictions, vocabulary) those of `ids`, and of all others together.

    The others' are summed themselves: what is left of 1 would be nothing but its rounding.
    """
    others = logs.scatter(1, ids, float("-inf")).logsumexp(1, keepdim=True)
    return torch.cat([logs.gather(1, ids), others], dim=1).clamp_min(NEVER)
