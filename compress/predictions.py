"""What the source predicts: of a large vocabulary the likeliest tokens of each prediction, and the rest's mass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Tokens of a prediction that are kept one by one; a vocabulary of no more is kept whole. What a large vocabulary's
# other tokens share is a few thousandths, and kept whole the predictions would take more than the model.
LIKELIEST = 1024
# In place of the logarithm of 0.
NEVER = -30.0
_LEAST = 1e-12


@dataclass(frozen=True)
class Predictions:
    """Log-probabilities of some predictions (predictions, tokens): of all tokens in order where there are no `ids`.

    Else of those in `ids` (predictions, tokens), and `rest` (predictions,) is that of all others together.
    """

    logs: Tensor
    ids: Tensor | None = None
    rest: Tensor | None = None

    def __len__(self) -> int:
        return len(self.logs)

    def divergence(self, student: Tensor) -> Tensor:
        """KL(these || student), summed; `student` are log-probabilities (predictions, vocabulary).

        All others count as one token, which makes it at most what it is over the whole vocabulary.
        """
        if self.ids is None or self.rest is None:
            return nn.functional.kl_div(student, self.logs, log_target=True, reduction="sum")
        found = student.gather(1, self.ids.long())
        others = (1 - found.exp().sum(1)).clamp_min(_LEAST).log()
        one_by_one = nn.functional.kl_div(found, self.logs, log_target=True, reduction="sum")
        return one_by_one + nn.functional.kl_div(others, self.rest, log_target=True, reduction="sum")

    def probabilities(self, vocabulary: int) -> Tensor:
        """Of all tokens (predictions, vocabulary), as far as they are known one by one."""
        if self.ids is None:
            return self.logs.exp()
        return self.logs.new_zeros(len(self), vocabulary).scatter_(1, self.ids.long(), self.logs.exp())

    def whole(self, vocabulary: int) -> Tensor:
        """Log-probabilities of all tokens (predictions, vocabulary); those that are not known share the rest alike."""
        if self.ids is None or self.rest is None:
            return self.logs
        share = self.rest - math.log(max(1, vocabulary - self.ids.shape[1]))
        return share[:, None].repeat(1, vocabulary).scatter_(1, self.ids.long(), self.logs)

    def split(self, lengths: Sequence[int]) -> list[Predictions]:
        """Consecutive predictions, so many each."""
        parts = [torch.split(x, list(lengths)) if x is not None else (None,) * len(lengths) for x in self._tensors()]
        return [Predictions(logs, ids, rest) for logs, ids, rest in zip(*parts, strict=True) if logs is not None]

    def to(self, device: torch.device) -> Predictions:
        return Predictions(*(x.to(device) if x is not None else None for x in self._tensors()))  # type: ignore[arg-type]

    def copied(self) -> Predictions:
        """With tensors that share no memory with others."""
        return Predictions(*(x.clone() if x is not None else None for x in self._tensors()))  # type: ignore[arg-type]

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.logs, self.ids, self.rest


def kept_whole(vocabulary: int) -> bool:
    """Whether all tokens of so many are kept one by one."""
    return vocabulary <= LIKELIEST


def predictions_of(logs: Tensor) -> Predictions:
    """Log-probabilities (predictions, vocabulary) as they are kept."""
    if kept_whole(logs.shape[1]):
        return Predictions(logs)
    kept, ids = logs.topk(LIKELIEST, dim=1)
    rest = (1 - kept.double().exp().sum(1)).clamp_min(0).log().clamp_min(NEVER)
    return Predictions(kept, ids.int(), rest.float())


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Predictions one after the other; all are of one vocabulary."""
    ids = [part.ids for part in parts if part.ids is not None]
    rest = [part.rest for part in parts if part.rest is not None]
    assert len(ids) in (0, len(parts)), "some of these predictions are whole"
    logs = torch.cat([part.logs for part in parts])
    return Predictions(logs, torch.cat(ids), torch.cat(rest)) if ids else Predictions(logs)
