"""Where each unit's weights live in a model, and carving a model into the shapes of a plan."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from models import modeling_tightfit as reader
from models.modeling_tightfit import audio_tower, decoder
from space.plan import Plan

__all__ = ["Place", "audio_tower", "carve", "carved_copy", "decoder", "places", "tied"]


@dataclass(frozen=True)
class Place:
    """Where a unit lives in a model: its matrices in the order of `space.size.units`, then its norms."""

    name: str
    matrices: tuple[nn.Module, ...]
    norms: tuple[nn.Module, ...]


def tied(model: PreTrainedModel) -> bool:
    """Whether lm_head is the embedding."""
    return bool(model.lm_head.weight is decoder(model).embed_tokens.weight)


def carve(model: PreTrainedModel, plan: Plan) -> None:
    """Gives a source-shaped model the shapes of a plan in place; weights of what is narrowed are left undefined."""
    reader.carve(model, json.loads(plan.to_json()))


def carved_copy(model: PreTrainedModel, plan: Plan) -> PreTrainedModel:
    """A copy of the source in the plan's shapes; whatever the plan leaves whole has the source's weights."""
    carved = copy.deepcopy(model)
    carve(carved, plan)
    return carved


def places(model: PreTrainedModel, plan: Plan) -> Iterator[Place]:
    """Where each unit of `space.size.units` lives in a model carved by the plan, in the same order."""
    for name, _, matrices, norms in reader.places(model, json.loads(plan.to_json())):
        yield Place(name, matrices, norms)
