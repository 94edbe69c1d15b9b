"""Divergence from the teacher: mean KL(source || candidate) over the target tokens of teacher-forced rows, in nats."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import Qwen2AudioForConditionalGeneration

from compress.heal import Lesson
from models.inputs import make_batch, target_logits


@torch.no_grad()
def divergence(model: Qwen2AudioForConditionalGeneration, lessons: Sequence[Lesson], batch_rows: int = 48) -> float:
    """Mean over tokens, so rows of different length weigh by their tokens. Lower is better; 0 for the source itself."""
    pad = model.generation_config.pad_token_id
    total, tokens = 0.0, 0
    for start in range(0, len(lessons), batch_rows):
        chosen = lessons[start : start + batch_rows]
        student = target_logits(model, make_batch([x.row for x in chosen], pad)).log_softmax(-1)
        teacher = torch.cat([x.teacher for x in chosen])
        total += float(nn.functional.kl_div(student, teacher, log_target=True, reduction="sum"))
        tokens += len(teacher)
    return total / tokens
