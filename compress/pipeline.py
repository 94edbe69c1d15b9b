"""A plan carried out: prune, heal, merge, quantise; the model that comes back computes what its checkpoint stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compress.coding import TOLERANCE
from compress.heal import Coach, HealSettings, heal
from compress.importance import Behind, Hessians
from compress.prune import pruned_model
from compress.tune import tune
from compress.units import UnitWeights, encode, matrix, put
from compress.vocabulary import Curriculum
from models.anatomy import places
from models.loading import Source
from space.plan import Plan
from space.size import larger_header_bytes, units


@dataclass(frozen=True)
class Bank:
    """Measured facts about the source: Hessians of all matrices, removal orders, what is behind each sublayer, and
    lessons for healing.
    """

    hessians: Hessians
    orders: Mapping[str, Tensor]
    behind: Mapping[str, Behind]
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
    coach: Coach | None = None,
    tolerance: float = TOLERANCE,
    filling: bool = True,
) -> Compressed:
    """Carries a plan out: a share of the steps of healing before quantisation, the others through it.

    The coach, where one is given, has the seed of its own. A coded matrix takes what its rate allows, or up to a share
    `tolerance` less; when `filling`, also what those before it left.
    """
    coach = coach or Coach(seed, HealSettings())
    with torch.no_grad():
        model, hessians = pruned_model(source, plan, bank.hessians, bank.orders, bank.behind)
    lessons = bank.curriculum.of(plan.vocabulary) if plan.heal.steps else ()
    steps = coach.settings.before(plan.heal.steps)
    model = heal(model, lessons, replace(plan.heal, steps=steps), coach.stage("before", 0))
    through = plan.heal.steps - steps
    weights = [[matrix(x).clone() for x in place.matrices] for place in places(model, plan)] if through else None
    stored = quantized(source, plan, model, hessians, tolerance, filling=filling)
    if through:
        coach = coach.stage("through", steps)
        stored = tune(model, plan, stored, lessons, steps=through, coach=coach, before=weights, filling=filling)
    return Compressed(model, plan, stored)


@torch.no_grad()
def quantized(
    source: Source, plan: Plan, model: PreTrainedModel, hessians: Hessians, tolerance: float, *, filling: bool = True
) -> tuple[UnitWeights, ...]:
    """The stored form of every unit of a model in a plan's shapes, whose values are put into it.

    When `filling`, what a coded matrix leaves of its bytes the next ones may take: none can be coded to the byte, and
    the entropy of few values jumps from step to step.
    """
    found = list(units(source.layout, plan))
    stored, spare_bytes = [], -larger_header_bytes(found)
    for unit, place in zip(found, places(model, plan), strict=True):
        weights = encode(unit, place, hessians[unit.name], tolerance, spare_bytes if filling else None)
        spare_bytes += weights.spare_bytes
        put(weights, place)
        stored.append(weights)
    return tuple(stored)
