"""A plan carried out: prune, heal, merge, quantise; the model that comes back computes what its checkpoint stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compress.coding import TOLERANCE
from compress.heal import HealSettings, heal
from compress.importance import Hessians
from compress.prune import pruned_model
from compress.tune import tune
from compress.units import UnitWeights, encode, put
from compress.vocabulary import Curriculum
from models.anatomy import places
from models.loading import Source
from space.plan import Plan
from space.size import units


@dataclass(frozen=True)
class Bank:
    """Measured facts about the source: Hessians of all matrices, removal orders, and lessons for healing."""

    hessians: Hessians
    orders: dict[str, Tensor]
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
    seed: int,
    settings: HealSettings | None = None,
    progress: Callable[[int], None] = lambda _step: None,
    tolerance: float = TOLERANCE,
) -> Compressed:
    """Carries a plan out: a share of the steps of healing before quantisation, the others through it.

    A coded matrix takes what its rate allows, or up to a share `tolerance` less.
    """
    settings = settings or HealSettings()
    with torch.no_grad():
        model, hessians = pruned_model(source, plan, bank.hessians, bank.orders)
    lessons = bank.curriculum.of(plan.vocabulary) if plan.heal.steps else ()
    before = replace(plan.heal, steps=round(settings.before_share * plan.heal.steps))
    model = heal(model, lessons, before, seed=seed, settings=settings, progress=progress)
    with torch.no_grad():
        stored = []
        for unit, place in zip(units(source.layout, plan), places(model, plan), strict=True):
            weights = encode(unit, place, hessians[unit.name], tolerance)
            put(weights, place)
            stored.append(weights)
    tuned = tuple(stored)
    if through := plan.heal.steps - before.steps:
        tuned = tune(
            model, plan, tuned, lessons, through, through=True, seed=seed + 1, settings=settings,
            progress=lambda step: progress(before.steps + step),
        )  # fmt: skip
    return Compressed(model, plan, tuned)
