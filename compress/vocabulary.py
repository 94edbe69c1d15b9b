"""Lessons for a trimmed vocabulary: the same texts in the tokens that stay, and the source's predictions over them.

A token that goes is spelt by what stays. Where the source predicted it, its probability belongs to
its first piece: that is the distribution of the next piece under the source. Within a spelt token the next piece is
certain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compress.heal import Lesson
from compress.predictions import NEVER, Predictions, kept_whole, predictions_of
from models.inputs import Row
from models.vocabulary import Vocabulary


@dataclass(frozen=True)
class Curriculum:
    """Lessons in the source's vocabulary, and in any other of its sizes, made when first asked for."""

    lessons: Sequence[Lesson]
    vocabulary: Vocabulary
    _trimmed: dict[int, Sequence[Lesson]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of(self, size: int) -> Sequence[Lesson]:
        """The lessons where `size` tokens stay, in the same order."""
        if size == self.vocabulary.rows:
            return self.lessons
        if size not in self._trimmed:
            pieces = self.vocabulary.pieces(size)
            first = torch.tensor([piece[0] if piece else size for piece in pieces])
            self._trimmed[size] = [_trimmed(lesson, pieces, first, size) for lesson in self.lessons]
        return self._trimmed[size]


def _trimmed(lesson: Lesson, pieces: Sequence[tuple[int, ...]], first: Tensor, size: int) -> Lesson:
    spelt = [pieces[token] for token in lesson.row.target]
    predictions = []
    for prediction, parts in zip(_projected(lesson.teacher, first, size), spelt, strict=True):
        predictions.append(prediction)
        for part in parts[1:]:
            certain = torch.full((size,), NEVER)
            certain[part] = 0.0
            predictions.append(certain)
    row = Row(
        lesson.row.speech,
        tuple(piece for token in lesson.row.prompt for piece in pieces[token]),
        tuple(piece for parts in spelt for piece in parts),
    )
    hidden = lesson.hidden if len(predictions) == len(lesson.row.target) else None
    return Lesson(row, predictions_of(torch.stack(predictions)), lesson.source_tokens, hidden, lesson.audio)


def _projected(teacher: Predictions, first: Tensor, size: int) -> Tensor:
    """Log-probabilities of the tokens that stay (predictions, size): each has those it is the `first` piece of."""
    # one column more for rows that stand for no token
    found = torch.zeros(len(teacher), size + 1).index_add_(1, first, teacher.probabilities(len(first)))[:, :size]
    if teacher.rest is not None and kept_whole(size):
        # whose first pieces the unknown ones are nobody knows
        found = found / found.sum(1, keepdim=True).clamp_min(math.exp(NEVER))
    return found.clamp_min(math.exp(NEVER)).log()
