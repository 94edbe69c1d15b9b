"""Healing: LoRA on the pruned model, distilled from the source's predictions and merged away, so it costs no bytes.

LoRA: Hu et al. 2021 (arXiv 2106.09685); distillation: Hinton et al. 2015 (arXiv 1503.02531).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.inputs import Row, make_batch, target_logits
from models.loading import pad_token


@dataclass(frozen=True)
class HealSettings:
    """`rank` of the LoRA, rows a step, peak learning rate, and the share of the references' loss in the objective."""

    rank: int = 32
    batch_rows: int = 16
    peak_rate: float = 6e-3
    reference_share: float = 0.3


@dataclass(frozen=True)
class Lesson:
    """A training row and the source's log-probabilities of its target tokens (tokens, vocabulary).

    `source_tokens` is how many tokens the target has in the source's vocabulary.
    """

    row: Row
    teacher: Tensor
    source_tokens: int


def heal(
    model: PreTrainedModel,
    lessons: Sequence[Lesson],
    steps: int,
    *,
    seed: int,
    settings: HealSettings,
    progress: Callable[[int], None] = lambda _step: None,
) -> PreTrainedModel:
    """Trains LoRA adapters for `steps` steps and merges them; the same seed gives the same weights."""
    if steps == 0:
        return model
    pad = pad_token(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=settings.rank, lora_alpha=settings.rank, lora_dropout=0.0, target_modules=_targets(model), bias="none"
        )
        adapted = get_peft_model(model, config)
        parameters = [p for p in adapted.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=settings.peak_rate, betas=(0.9, 0.98), weight_decay=0.0)
        groups = _by_utterance(lessons)
        groups_a_step = max(1, settings.batch_rows * len(groups) // len(lessons))
        order = _order(len(groups), steps * groups_a_step, seed)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.peak_rate * min((step + 1) / max(1, steps // 10), 1 - step / steps)
            chosen = [x for i in order[step * groups_a_step :][:groups_a_step] for x in groups[i]]
            loss = distillation_loss(adapted.get_base_model(), chosen, pad, settings.reference_share)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            progress(step + 1)
        merged: PreTrainedModel = adapted.merge_and_unload()
    merged.requires_grad_(False)
    return merged.eval()


def _targets(model: nn.Module) -> list[str]:
    """Names of the matrices that get an adapter: every linear of a sublayer, and the projector; not empty ones."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.numel() and "lm_head" not in name
    ]


def _by_utterance(lessons: Sequence[Lesson]) -> list[list[Lesson]]:
    """Lessons of one utterance together: its directions share the encoder's pass. Rows without speech stand alone."""
    groups: dict[int, list[Lesson]] = {}
    for lesson in lessons:
        groups.setdefault(id(lesson.row.speech or lesson), []).append(lesson)
    return list(groups.values())


def _order(count: int, wanted: int, seed: int) -> list[int]:
    """Indices of an endless shuffle, each epoch in a new order."""
    rng = random.Random(seed)
    order: list[int] = []
    while len(order) < wanted:
        order += rng.sample(range(count), count)
    return order


def distillation_loss(model: PreTrainedModel, lessons: Sequence[Lesson], pad: int, reference_share: float) -> Tensor:
    """Mean KL from the teacher over target tokens, mixed with the cross-entropy of the references."""
    batch = make_batch([lesson.row for lesson in lessons], pad)
    student = target_logits(model, batch).log_softmax(-1)
    teacher = torch.cat([lesson.teacher for lesson in lessons])
    divergence = nn.functional.kl_div(student, teacher, log_target=True, reduction="batchmean")
    references = nn.functional.nll_loss(student, batch.targets)
    return (1 - reference_share) * divergence + reference_share * references


@torch.no_grad()
def make_lessons(source: PreTrainedModel, rows: Sequence[Row], batch_rows: int) -> list[Lesson]:
    """The source's predictions on every row, computed once."""
    pad = pad_token(source)
    lessons = []
    for start in range(0, len(rows), batch_rows):
        chosen = rows[start : start + batch_rows]
        predicted = target_logits(source, make_batch(chosen, pad)).log_softmax(-1)
        parts = torch.split(predicted, [len(row.target) for row in chosen])
        lessons += [Lesson(row, part.clone(), len(row.target)) for row, part in zip(chosen, parts, strict=True)]
    return lessons
