"""What several changes of a plan make of its answers together, by what each makes of them alone; no model is run.

Log-probabilities are taken to move by the sum of what changes do, which errors do as long as they are small.
Divergences, nearly squares of these sums, do not add up: what two changes come to depends on how alike they are. Deng
et al. 2023 (CLADO, arXiv 2307.05657) measure it of pairs; of answers it follows.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proxies.answers import Answers

# Numbers of answers that are looked at together.
_MOST = 20_000_000


class Linear:
    """A plan's answers, and what each of some changes alone moves them by: `shifts` (changes, predictions, tokens).

    Which changes are made is a row of zeros and ones.
    """

    def __init__(self, own: Answers, shifts: Tensor) -> None:
        assert own.logs is not None
        assert own.source is not None
        self._own, self._source, self._tokens = own.logs, own.source, own.source_tokens
        self._shifts = shifts.float().flatten(1)
        self._at_once = max(1, _MOST // self._own.numel())

    def divergences(self, made: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each row (rows, changes), in nats a token of the source."""
        parts = torch.split(torch.tensor(made, dtype=torch.float32), self._at_once)
        return np.concatenate([self._divergences(part) for part in parts])

    def _divergences(self, made: Tensor) -> NDArray[np.float64]:
        logs, wanted = self._moved(made), self._source.softmax(1)
        surprise = logs.logsumexp(2) - (wanted * logs).sum(2)
        least = -(wanted * self._source.log_softmax(1)).sum(1)
        found: NDArray[np.float64] = ((surprise - least).sum(1).double() / self._tokens).numpy()
        return found

    def products(self, made: NDArray[np.float64]) -> NDArray[np.float64]:
        """What any two changes add together beyond what each does (changes, changes), behind those of a row.

        To second order: the covariance of their shifts among the tokens that are likely there.
        """
        weights = self._moved(torch.tensor(made[None], dtype=torch.float32))[0].softmax(1)
        shifts = self._shifts.view(-1, *self._own.shape)
        around = shifts - (shifts * weights).sum(2, keepdim=True)
        whitened = (around * (weights / self._tokens).sqrt()).flatten(1)
        found: NDArray[np.float64] = (whitened @ whitened.T).double().numpy()
        return found

    def _moved(self, made: Tensor) -> Tensor:
        """Log-probabilities (rows, predictions, tokens), but for a constant of each prediction."""
        return self._own + (made @ self._shifts).view(-1, *self._own.shape)
