"""A plan carried out: prune, heal, merge, quantise; the model that comes back computes what its checkpoint stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from compress.heal import HealSettings, heal
from compress.prune import Moments, pruned_model
from compress.units import UnitWeights, encode, put
from compress.vocabulary import Curriculum
from models.anatomy import places
from models.loading import Source
from space.plan import Plan
from space.size import units


@dataclass(frozen=True)
class Bank:
    """Measured facts about the source: input moments of every matrix, and lessons for healing."""

    moments: Moments
    curriculum: Curriculum


@dataclass(frozen=True)
class Compressed:
    """A model that holds the stored values in float32, and the stored form of every unit."""

    model: PreTrainedModel
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
    lessons = bank.curriculum.of(plan.vocabulary) if heal_steps else ()
    model = heal(model, lessons, heal_steps, seed=seed, settings=settings or HealSettings(), progress=progress)
    with torch.no_grad():
        stored = []
        for unit, place in zip(units(source.layout, plan), places(model, plan), strict=True):
            weights = encode(unit, place, moments[unit.name])
            put(weights, place)
            stored.append(weights)
    return Compressed(model, plan, tuple(stored))
