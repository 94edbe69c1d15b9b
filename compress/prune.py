"""Pruning with compensation: which heads and channels stay, and what stays makes up for what goes.

A sublayer's last matrix reads its heads or channels. They are removed one after the other, always the one whose loss,
once the others have made up for it, is least (OBS: Hassibi and Stork 1993; in this form ZipLM: Kurtic et al. 2023,
arXiv 2302.04089, section 3). The matrix is then refit to the source's outputs on the calibrate role by ridge least
squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compress.gptq import Hessian
from compress.importance import Added, Behind, Hessians
from compress.units import bias, biases, matrix, weight
from models.anatomy import Place, carved_copy, places
from models.devices import device_of
from models.loading import Source, renumber_ids
from space.choices import PARTS
from space.layout import Layout, Tower
from space.plan import Plan, uniform_plan
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
    left = torch.ones(count, dtype=torch.bool, device=output.device)
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
    return (chosen[:, None] * block + torch.arange(block, device=order.device)).reshape(-1)


@dataclass(frozen=True)
class Refit:
    """A matrix (rows, kept columns) and its bias (rows,), where it has one."""

    matrix: Tensor
    bias: Tensor | None


def compensated(
    output: Tensor,
    hessian: Hessian,
    columns: Tensor,
    *,
    bias: Tensor | None = None,
    gone: Added | None = None,
) -> Refit:
    """The matrix and bias whose outputs from `columns` are closest to those of all columns (ridge least squares).

    Where sublayers behind it are `gone`, their outputs are made up for as well: linearly, as removed blocks are by
    Shopkhoev et al. 2025 (arXiv 2505.02819, section 2).
    """
    # a bias makes up for means, whatever the matrix does
    seen = hessian if bias is None else hessian.centred
    damped = seen.damped()
    wanted = damped[columns] @ output.double().T
    if gone is not None:
        wanted += gone.moments[columns].double()
    if bias is None:
        return Refit(_solved(damped, columns, wanted, output), None)
    mean = hessian.mean
    assert mean is not None, "the inputs of a matrix with a bias have a mean"
    outputs = output @ mean
    if gone is not None:
        wanted -= torch.outer(mean[columns], gone.mean)
        outputs = outputs + gone.mean
    found = _solved(damped, columns, wanted, output)
    return Refit(found, bias + outputs - found @ mean[columns])


def _solved(damped: Tensor, columns: Tensor, wanted: Tensor, like: Tensor) -> Tensor:
    found: Tensor = torch.linalg.solve(damped[columns][:, columns], wanted).T.to(like.dtype)
    return found


def blocks_of(name: str, tower: Tower) -> int:
    """How many inputs of a sublayer's last matrix go together: a key/value head's share, or a channel."""
    return tower.group * tower.head_dim if name.endswith(".attention") else 1


def removal_orders(source: Source, hessians: Hessians) -> dict[str, Tensor]:
    """Of every sublayer the order in which its heads or channels go."""
    whole = places(source.model, uniform_plan(source.layout, WHOLE))
    return {
        place.name: order_of(place, hessians[place.name][-1], blocks_of(place.name, tower))
        for place in whole
        if (tower := tower_of(place.name, source.layout))
    }


def order_of(place: Place, hessian: Hessian, block: int) -> Tensor:
    """The order in which the heads or channels of a sublayer go, given the Hessian of its last matrix."""
    last = place.matrices[-1]
    hessian = hessian.to(matrix(last).device)
    return removal_order(matrix(last), hessian.centred if biases(last) else hessian, block)


def pruned_model(
    source: Source, plan: Plan, hessians: Hessians, orders: Mapping[str, Tensor], behind: Mapping[str, Behind]
) -> tuple[PreTrainedModel, dict[str, tuple[Hessian, ...]]]:
    """A model in the plan's shapes with the source's heads and channels that go last, and its matrices' Hessians.

    What stays makes up for what goes, as far as it can; `behind` is the whole source's. Rows of embedding and lm_head
    are those of the tokens that stay. Hessians stay in host memory, but for that at work.
    """
    model = carved_copy(source.model, plan)
    renumber_ids(model, source.vocabulary, plan.vocabulary)
    device = device_of(model)
    rows = torch.tensor(source.vocabulary.kept(plan.vocabulary), device=device)
    whole = {place.name: place for place in places(source.model, uniform_plan(source.layout, WHOLE))}
    remaining: dict[str, tuple[Hessian, ...]] = {}
    for place in places(model, plan):
        remaining[place.name] = hessians[place.name]
        if tower := tower_of(place.name, source.layout):
            run = removed_behind(place.name, plan)
            columns = kept_columns(orders[place.name], kept_of(place.name, plan), blocks_of(place.name, tower))
            gone = behind[place.name].of(len(run)).to(device) if run else None
            remaining[place.name] = move(
                whole[place.name], place, tower, columns=columns, hessians=hessians[place.name], gone=gone
            )
        elif place.name in ("embedding", "lm_head") and len(rows) < source.vocabulary.rows:
            weight(place.matrices[0]).copy_(weight(whole[place.name].matrices[0])[rows])
            if place.name == "embedding":
                remaining[place.name] = (hessians[place.name][0].of(rows),)
    return model, remaining


def tower_of(name: str, layout: Layout) -> Tower | None:
    """The tower a unit is a sublayer of; None for tables."""
    tower, _, sublayer = name.partition(".")
    return next(one for one in layout.towers if one.name == tower) if sublayer else None


def kept_of(name: str, plan: Plan) -> int:
    """How many heads or channels stay of a sublayer."""
    tower, index, part = name.split(".")
    kept: int = getattr(getattr(plan, tower)[int(index)], part).kept
    return kept


def removed_behind(name: str, plan: Plan) -> list[str]:
    """The sublayers right behind one, up to the next that stays, in their order; all of them are removed."""
    tower = name.partition(".")[0]
    names = [f"{tower}.{index}.{part}" for index in range(len(getattr(plan, tower))) for part in PARTS]
    later = names[names.index(name) + 1 :]
    return list(takewhile(lambda other: not kept_of(other, plan), later))


def move(
    whole: Place,
    carved: Place,
    tower: Tower,
    *,
    columns: Tensor,
    hessians: tuple[Hessian, ...],
    gone: Added | None,
) -> tuple[Hessian, ...]:
    """Copies what stays of a sublayer, and returns its Hessians; where all stays, `carved` has it already.

    The last matrix keeps `columns` and is refit, also to what is `gone` behind it; the others keep the rows that feed
    it.
    """
    if len(columns) == hessians[-1].columns and gone is None:
        return hessians
    last = whole.matrices[-1]
    columns, hessian = columns.to(weight(last).device), hessians[-1].to(weight(last).device)
    for old, new, rows in zip(whole.matrices[:-1], carved.matrices[:-1], rows_of(whole, tower, columns), strict=True):
        weight(new).copy_(weight(old)[rows])
        for old_bias, new_bias in zip(biases(old), biases(new), strict=True):
            new_bias.data.copy_(old_bias.data[rows])
    refit = compensated(weight(last), hessian, columns, bias=bias(last), gone=gone)
    weight(carved.matrices[-1]).copy_(refit.matrix)
    if refit.bias is not None:
        biases(carved.matrices[-1])[0].data.copy_(refit.bias)
    return (*hessians[:-1], hessians[-1].of(columns))


def rows_of(whole: Place, tower: Tower, columns: Tensor) -> list[Tensor]:
    """Which rows stay of each matrix of a sublayer but the last: those that feed the `columns` of the last one."""
    if not whole.name.endswith(".attention"):
        return [columns] * (len(whole.matrices) - 1)
    block = blocks_of(whole.name, tower)
    heads = columns.view(-1, block)[:, :1] // block
    shared = (heads * tower.head_dim + torch.arange(tower.head_dim, device=columns.device)).reshape(-1)
    # queries have heads of their own, keys and values share theirs
    return [columns, *[shared] * (len(whole.matrices) - 2)]
