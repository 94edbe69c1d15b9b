"""Pruning by importance: which heads and channels stay, and their rows and columns moved into a carved model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.units import biases, matrix, weight
from models.anatomy import Place, carved_copy, places
from models.loading import Source, renumber_ids
from space.layout import Layout, Tower
from space.plan import Plan, Sublayer, uniform_plan
from space.size import WHOLE

# Second moments E[x^2] of the inputs of each matrix of a unit (None where the input is a token, not a vector).
Moments = Mapping[str, tuple[Tensor | None, ...]]


def channel_importance(output: nn.Module, moments: Tensor) -> Tensor:
    """Expected squared output that each input column of a projection carries alone: E[x_j^2] * |W_j|^2."""
    return moments * matrix(output).pow(2).sum(0)


def kept_columns(importance: Tensor, kept: int, block: int) -> Tensor:
    """Ascending columns of the `kept` blocks of `block` columns with the largest importance."""
    blocks = importance.view(-1, block).sum(1)
    chosen = blocks.topk(kept).indices.sort().values
    return (chosen[:, None] * block + torch.arange(block)).reshape(-1)


def pruned_model(
    source: Source, plan: Plan, moments: Moments
) -> tuple[PreTrainedModel, dict[str, tuple[Tensor | None, ...]]]:
    """A model in the plan's shapes with the source's most important heads and channels, and its matrices' moments.

    Rows of embedding and lm_head are those of the tokens that stay.
    """
    model = carved_copy(source.model, plan)
    renumber_ids(model, source.vocabulary, plan.vocabulary)
    rows = torch.tensor(source.vocabulary.kept(plan.vocabulary))
    whole = {place.name: place for place in places(source.model, uniform_plan(source.layout, WHOLE))}
    remaining: dict[str, tuple[Tensor | None, ...]] = {}
    for place in places(model, plan):
        remaining[place.name] = moments[place.name]
        tower, sublayer = _sublayer(place.name, plan, source.layout)
        if sublayer is None or tower is None:
            if place.name in ("embedding", "lm_head") and len(rows) < source.vocabulary.rows:
                weight(place.matrices[0]).copy_(weight(whole[place.name].matrices[0])[rows])
            continue
        remaining[place.name] = _move(whole[place.name], place, tower, sublayer, moments[place.name])
    return model, remaining


def _sublayer(name: str, plan: Plan, layout: Layout) -> tuple[Tower | None, Sublayer | None]:
    """The tower and what stays of the sublayer a unit name stands for; nothing for tables."""
    if "." not in name:
        return None, None
    tower, index, part = name.split(".")
    return next(x for x in layout.towers if x.name == tower), getattr(getattr(plan, tower)[int(index)], part)


def _move(
    whole: Place, carved: Place, tower: Tower, sublayer: Sublayer, moments: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """Copies what stays of a sublayer. The last matrix loses columns, the others the rows that feed them."""
    attention = whole.name.endswith(".attention")
    last = moments[-1]
    assert last is not None
    block = tower.group * tower.head_dim if attention else 1
    columns = kept_columns(channel_importance(whole.matrices[-1], last), sublayer.kept, block)
    rows = columns
    if attention:
        heads = columns.view(sublayer.kept, -1)[:, :1] // block
        rows = (heads * tower.head_dim + torch.arange(tower.head_dim)).reshape(-1)
    for position, (old, new) in enumerate(zip(whole.matrices, carved.matrices, strict=True)):
        if position == len(whole.matrices) - 1:
            weight(new).copy_(weight(old)[:, columns])
            kept = torch.arange(len(weight(old)))
        else:
            kept = columns if attention and position == 0 else rows
            weight(new).copy_(weight(old)[kept])
        for old_bias, new_bias in zip(biases(old), biases(new), strict=True):
            new_bias.data.copy_(old_bias.data[kept])
    return (*moments[:-1], last[columns])
