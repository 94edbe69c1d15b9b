"""Divergence from the teacher: KL(source || candidate) on teacher-forced rows, in nats a token of the source."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from compress.heal import Lesson
from compress.predictions import joined
from models.devices import device_of
from models.inputs import MOST_POSITIONS, by_length, make_batch, target_logits
from models.loading import pad_token
from models.room import Room

_ROOM = Room()


@torch.no_grad()
def divergence(model: PreTrainedModel, lessons: Sequence[Lesson], most_positions: int = MOST_POSITIONS) -> float:
    """Sum over target tokens by the tokens the targets have in the source's vocabulary.

    Rows of different length weigh by their tokens, and vocabularies of different size compare: the sum is the
    divergence of whole texts. Lower is better; 0 for the source itself.
    """
    pad, device = pad_token(model), device_of(model)
    rows = [lesson.row for lesson in lessons]

    def summed(batch: Sequence[int]) -> float:
        student = target_logits(model, make_batch([rows[i] for i in batch], pad).to(device)).log_softmax(-1)
        return float(joined([lessons[i].teacher for i in batch]).to(device).divergence(student))

    total = sum(found for batch in by_length(rows, most_positions) for _, found in _ROOM.each(rows, batch, summed))
    return total / sum(lesson.source_tokens for lesson in lessons)
