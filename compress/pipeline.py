"""A plan carried out: prune, heal, merge, quantise; the model that comes back computes what its checkpoint stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import Qwen2AudioForConditionalGeneration

from compress.heal import HealSettings, Lesson, heal
from compress.prune import Moments, pruned_model
from compress.units import UnitWeights, encode, put
from models.qwen2_audio import Source, places
from space.plan import Plan
from space.size import units


@dataclass(frozen=True)
class Bank:
    """Measured facts about the source: input moments of every matrix, and lessons for healing."""

    moments: Moments
    lessons: Sequence[Lesson]


@dataclass(frozen=True)
class Compressed:
    """A model that holds the stored values in float32, and the stored form of every unit."""

    model: Qwen2AudioForConditionalGeneration
    plan: Plan
    stored: tuple[UnitWeights, ...]


def compress(
    source: Source,
    plan: Plan,
    bank: Bank,
    *,
    heal_steps: int,
    seed: int,
    settings: HealSettings | None = None,
    progress: Callable[[int], None] = lambda _step: None,
) -> Compressed:
    """Carries a plan out with `heal_steps` steps of healing (a trial heals as its plan says, a finalist longer)."""
    model, moments = pruned_model(source, plan, bank.moments)
    model = heal(model, bank.lessons, heal_steps, seed=seed, settings=settings or HealSettings(), progress=progress)
    with torch.no_grad():
        stored = []
        for unit, place in zip(units(source.layout, plan), places(model, plan), strict=True):
            weights = encode(unit, place, moments[unit.name])
            put(weights, place)
            stored.append(weights)
    return Compressed(model, plan, tuple(stored))
