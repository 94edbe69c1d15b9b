"""GPTQ, pruning order and refit against slow, plain forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.gptq import Hessian, round_with_feedback
from compress.importance import Added
from compress.prune import compensated, kept_columns, removal_order
from compress.quantize import quantize
from space.errors import UserError
from space.rates import Packed
from tests.compress.test_coding import random_inputs, random_weight


def plain_gptq(weight: Tensor, hessian: Hessian, step: float) -> Tensor:
    """Optimal brain quantisation in column order: round one, spread its error by the inverse, drop it there."""
    left = weight.double().clone()
    inverse = torch.linalg.inv(hessian.damped())
    for column in range(weight.shape[1]):
        value = (left[:, column] / step).round() * step
        error = (left[:, column] - value) / inverse[column, column]
        left -= error[:, None] * inverse[column]
        left[:, column] = value
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column].clone()
        inverse[column, column] = 1.0
    return left.float()


@pytest.mark.parametrize("columns", [7, 128, 150])
def test_feedback_is_optimal_brain_quantisation_in_column_order(columns: int) -> None:
    weight, hessian, step = random_weight(9, columns, columns), random_inputs(columns, columns), 0.7
    found = round_with_feedback(
        weight, hessian.factor, lambda block, offset, _column: (block[offset] / step).round() * step
    )
    wanted = plain_gptq(weight, hessian, step)
    # the blocks add in another order: a value on the edge may go the other way
    assert hessian.error(weight - found) == pytest.approx(hessian.error(weight - wanted), rel=0.02)
    assert (found == wanted.to(found.dtype)).float().mean() > 0.97 or torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("rate", [Packed(2, 32), Packed(3, 64), Packed(4, 128)], ids=str)
def test_feedback_lowers_the_error_of_packed_matrices(rate: Packed) -> None:
    weight, hessian = random_weight(64, 192, 1), random_inputs(192, 1)
    alone = Hessian(torch.diag(hessian.diagonal))
    errors = [hessian.error(weight - quantize(weight, rate, one).values()) for one in (hessian, alone)]
    assert errors[0] < 0.92 * errors[1]


def test_the_refit_is_least_squares_on_the_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 30, generator=generator) @ torch.randn(30, 30, generator=generator)
    output, columns = random_weight(5, 30, 0), torch.arange(0, 30, 2)
    hessian = Hessian(inputs.T @ inputs / 400)
    found = compensated(output, hessian, columns).matrix
    wanted = torch.linalg.lstsq(inputs[:, columns], inputs @ output.T).solution.T
    assert torch.linalg.norm(found - wanted) < 0.1 * torch.linalg.norm(wanted)
    errors = [(inputs[:, columns] @ one.T - inputs @ output.T).square().sum() for one in (found, wanted)]
    assert errors[1] <= errors[0] < 1.05 * errors[1]


def test_the_refit_with_a_bias_and_what_is_gone_is_least_squares_too() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(600, 20, generator=generator) @ torch.randn(20, 20, generator=generator) + 3
    output, bias, columns = random_weight(5, 20, 0), random_weight(1, 5, 1)[0], torch.arange(0, 20, 2)
    gone = inputs @ random_weight(20, 5, 2) + torch.randn(600, 5, generator=generator) + 1
    hessian = Hessian(inputs.T @ inputs / 600, inputs.mean(0))
    found = compensated(output, hessian, columns, bias=bias, gone=Added(inputs.T @ gone / 600, gone.mean(0)))
    target = inputs @ output.T + bias + gone
    padded = torch.cat([inputs[:, columns], torch.ones(600, 1)], dim=1)
    best = (padded @ torch.linalg.lstsq(padded, target).solution - target).square().sum()
    assert found.bias is not None
    error = (inputs[:, columns] @ found.matrix.T + found.bias - target).square().sum()
    assert best <= error < 1.05 * best
    plain = compensated(output, Hessian(hessian.moments), columns).matrix
    assert error < 0.5 * (inputs[:, columns] @ plain.T + bias - target).square().sum()


@pytest.mark.parametrize("block", [1, 3])
def test_the_order_removes_what_costs_least_once_the_others_make_up_for_it(block: int) -> None:
    output, hessian = random_weight(6, 12, 7), random_inputs(12, 7)
    damped = Hessian(hessian.damped().float())
    order = removal_order(output, hessian, block).tolist()
    left = list(range(12 // block))
    for gone in order[:-1]:

        def loss(candidate: int) -> float:
            kept = [one for one in left if one != candidate]
            columns = (torch.tensor(kept)[:, None] * block + torch.arange(block)).reshape(-1)
            full = torch.zeros_like(output)
            full[:, columns] = compensated(output, hessian, columns).matrix
            return damped.error(output - full)

        assert loss(gone) <= min(map(loss, left)) * 1.001
        left.remove(gone)
    assert sorted(order) == list(range(12 // block))


def test_kept_columns_are_those_that_go_last() -> None:
    assert kept_columns(torch.tensor([2, 0, 3, 1]), 2, 2).tolist() == [2, 3, 6, 7]


def test_odd_inputs_are_named() -> None:
    moments = random_inputs(6, 0).moments
    moments[:, 2] = moments[2] = 0
    moments[:, 4], moments[4] = moments[:, 1], moments[1].clone()
    moments[4, 4] = moments[1, 4] = moments[4, 1] = moments[1, 1]
    found = Hessian(moments).findings("decoder.0.ffn")
    assert found == [
        "decoder.0.ffn: 1 of 6 input channels are never active",
        "decoder.0.ffn: 1 of 6 input channels repeat another",
    ]
    assert torch.isfinite(Hessian(moments).factor).all()
    assert torch.isfinite(Hessian(torch.zeros(4, 4)).factor).all()
    assert torch.isfinite(Hessian(torch.ones(5, 5)).factor).all()
    moments[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"decoder\.0\.ffn: its inputs"):
        Hessian(moments).findings("decoder.0.ffn")
