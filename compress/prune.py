"""Pruning with compensation: which heads and channels stay, and what stays makes up for what goes.

A sublayer's last matrix reads its heads or channels. They are removed one after the other, always the one whose loss,
once the others have made up for it, is least (OBS: Hassibi and Stork 1993; in this form ZipLM: Kurtic et al. 2023,
arXiv 2302.04089, section 3). The matrix is then refit to the source's outputs on the calibrate role by ridge least
squares.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.gptq import Hessian
from compress.importance import Hessians
from compress.units import biases, matrix, weight
from models.anatomy import Place, carved_copy, places
from models.loading import Source, renumber_ids
from space.layout import Layout, Tower
from space.plan import Plan, Sublayer, uniform_plan
from space.rates import WHOLE

# A step removes this share of the blocks there are, one at least.
_SHARE_A_STEP = 1 / 128


def removal_order(output: Tensor, hessian: Hessian, block: int) -> Tensor:
    """Blocks of `block` columns of a matrix (rows, columns) in the order in which they go."""
    columns = output.shape[1]
    count = columns // block
    weights = output.double().clone()
    inverse = torch.linalg.inv(hessian.damped())
    at_once = max(1, int(count * _SHARE_A_STEP))
    left = torch.ones(count, dtype=torch.bool)
    order: list[int] = []
    inside = torch.arange(columns, device=output.device).view(count, block)
    while len(order) < count:
        corners = inverse[inside[:, :, None], inside[:, None, :]]
        corners[~left] = torch.eye(block, dtype=corners.dtype, device=corners.device)
        by_block = weights.view(-1, count, block).permute(1, 0, 2)
        losses = (torch.linalg.solve(corners, by_block, left=False) * by_block).sum((1, 2))
        losses[~left] = torch.inf
        going = losses.topk(min(at_once, int(left.sum())), largest=False).indices
        gone = inside[going].reshape(-1)
        share = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])
        weights -= weights[:, gone] @ share
        inverse -= inverse[:, gone] @ share
        left[going] = False
        order += going.tolist()
    return torch.tensor(order)


def kept_columns(order: Tensor, kept: int, block: int) -> Tensor:
    """Ascending columns of the `kept` blocks of `block` columns that go last."""
    chosen = order[len(order) - kept :].sort().values
    return (chosen[:, None] * block + torch.arange(block)).reshape(-1)


def compensated(output: Tensor, hessian: Hessian, columns: Tensor) -> Tensor:
    """The matrix (rows, kept columns) whose outputs are closest to those of all columns (ridge least squares)."""
    damped = hessian.damped()
    refit = torch.linalg.solve(damped[columns][:, columns], damped[columns] @ output.double().T)
    found: Tensor = refit.T.to(output.dtype)
    return found


def blocks_of(name: str, tower: Tower) -> int:
    """How many inputs of a sublayer's last matrix go together: a key/value head's share, or a channel."""
    return tower.group * tower.head_dim if name.endswith(".attention") else 1


def removal_orders(source: Source, hessians: Hessians) -> dict[str, Tensor]:
    """Of every sublayer the order in which its heads or channels go."""
    orders = {}
    for place in places(source.model, uniform_plan(source.layout, WHOLE)):
        tower, _ = _sublayer(place.name, None, source.layout)
        if tower is not None:
            last = place.matrices[-1]
            orders[place.name] = removal_order(matrix(last), hessians[place.name][-1], blocks_of(place.name, tower))
    return orders


def pruned_model(
    source: Source, plan: Plan, hessians: Hessians, orders: dict[str, Tensor]
) -> tuple[PreTrainedModel, dict[str, tuple[Hessian, ...]]]:
    """A model in the plan's shapes with the source's heads and channels that go last, and its matrices' Hessians.

    Rows of embedding and lm_head are those of the tokens that stay.
    """
    model = carved_copy(source.model, plan)
    renumber_ids(model, source.vocabulary, plan.vocabulary)
    rows = torch.tensor(source.vocabulary.kept(plan.vocabulary))
    whole = {place.name: place for place in places(source.model, uniform_plan(source.layout, WHOLE))}
    remaining: dict[str, tuple[Hessian, ...]] = {}
    for place in places(model, plan):
        remaining[place.name] = hessians[place.name]
        tower, sublayer = _sublayer(place.name, plan, source.layout)
        if tower is not None and sublayer is not None:
            order = orders[place.name]
            remaining[place.name] = _move(
                whole[place.name], place, tower, kept=sublayer.kept, hessians=hessians[place.name], order=order
            )
        elif place.name in ("embedding", "lm_head") and len(rows) < source.vocabulary.rows:
            weight(place.matrices[0]).copy_(weight(whole[place.name].matrices[0])[rows])
            if place.name == "embedding":
                remaining[place.name] = (hessians[place.name][0].of(rows),)
    return model, remaining


def _sublayer(name: str, plan: Plan | None, layout: Layout) -> tuple[Tower | None, Sublayer | None]:
    """The tower and what stays of the sublayer a unit name stands for; nothing for tables."""
    if "." not in name:
        return None, None
    tower, index, part = name.split(".")
    found = next(x for x in layout.towers if x.name == tower)
    return found, None if plan is None else getattr(getattr(plan, tower)[int(index)], part)


def _move(
    whole: Place, carved: Place, tower: Tower, *, kept: int, hessians: tuple[Hessian, ...], order: Tensor
) -> tuple[Hessian, ...]:
    """Copies what stays of a sublayer. The last matrix loses columns and is refit, the others the rows that feed it."""
    attention, block = whole.name.endswith(".attention"), blocks_of(whole.name, tower)
    if kept == len(order):
        return hessians
    columns = kept_columns(order, kept, block)
    rows = columns
    if attention:
        heads = columns.view(kept, -1)[:, :1] // block
        rows = (heads * tower.head_dim + torch.arange(tower.head_dim)).reshape(-1)
    for position, (old, new) in enumerate(zip(whole.matrices, carved.matrices, strict=True)):
        if position == len(whole.matrices) - 1:
            weight(new).copy_(compensated(weight(old), hessians[-1], columns))
            stays = torch.arange(len(weight(old)))
        else:
            stays = columns if attention and position == 0 else rows
            weight(new).copy_(weight(old)[stays])
        _copy_bias(old, new, stays)
    return (*hessians[:-1], hessians[-1].of(columns))


def _copy_bias(old: nn.Module, new: nn.Module, stays: Tensor) -> None:
    for old_bias, new_bias in zip(biases(old), biases(new), strict=True):
        new_bias.data.copy_(old_bias.data[stays])
