"""Error feedback at a price: the plain formula, orders that do not matter, and what it gains at low rates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compress.coding import code_matrix, column_exponents, relative_steps, round_rows
from compress.gptq import Hessian
from compress.pricing import CLOSEST_MODEL, LEAST_ERROR, Priced, Pricing, priced
from tests.compress.test_coding import most, random_inputs, random_weight

# damping alone, as error feedback has it without a price
FREE = Pricing(-1000.0, 0.0, 0.01, 0.0)


@pytest.mark.parametrize("bits", [0.7, 1.2, 2.0])
@pytest.mark.parametrize("pricing", [CLOSEST_MODEL, LEAST_ERROR])
def test_wanted_values_minimise_error_and_price(bits: float, pricing: Pricing) -> None:
    weight, hessian = random_weight(7, 40, 1), random_inputs(40, 1)
    at_rate = priced(hessian, bits, pricing)
    moments = hessian.moments.double() + at_rate.damping * torch.eye(40)
    # (w - v) H (w - v) + p v v is least where v (H + p) = w H
    plain = torch.linalg.solve(moments + at_rate.price * torch.eye(40), moments @ weight.double().T).T
    assert at_rate.price > 0
    assert torch.allclose(at_rate.wanted(weight).values.double(), plain, atol=1e-4)


def test_spreads_stand_in_the_order_of_the_columns() -> None:
    hessian = Hessian(torch.diag(torch.tensor([4.0, 1.0, 9.0])))
    spreads = priced(hessian, 8.0, Pricing(-1000.0, 0.0, 1e-9, 0.0)).spreads
    assert torch.allclose(spreads, torch.tensor([0.5, 1.0, 1 / 3]))


def test_a_price_falls_with_the_rate_until_there_is_none() -> None:
    hessian = random_inputs(20, 2)
    prices = [priced(hessian, bits).price for bits in (0.7, 1.0, 1.5, 2.0, 3.0)]
    assert prices == sorted(prices, reverse=True)
    assert prices[0] > prices[-1] == 0.0


def test_a_matrix_does_not_depend_on_what_was_coded_before() -> None:
    weight, hessian = random_weight(40, 30, 3), random_inputs(30, 3)
    first = code_matrix(weight, hessian, most(weight, 1.2))
    code_matrix(weight, hessian, most(weight, 2.0))
    code_matrix(weight, hessian, most(weight, 1.2), pricing=LEAST_ERROR)
    assert torch.equal(code_matrix(weight, hessian, most(weight, 1.2)).values(), first.values())


def test_rare_tokens_are_not_made_smaller() -> None:
    weight, counts = random_weight(60, 8, 4), torch.tensor([0.0, *[1.0] * 59])
    assert torch.equal(priced(Hessian(counts), 0.7).wanted(weight.T).values, weight.T)


@pytest.mark.parametrize(("bits", "gain"), [(0.8, 0.85), (1.2, 0.9), (2.0, 1.0)])
def test_a_price_pays_at_low_rates(bits: float, gain: float) -> None:
    weight, hessian = random_weight(256, 96, 5), random_inputs(96, 5)

    def error(pricing: Pricing) -> float:
        return hessian.error(weight - code_matrix(weight, hessian, most(weight, bits), pricing=pricing).values())

    assert error(LEAST_ERROR) < gain * error(FREE)


def test_outputs_keep_their_size_where_rows_are_scaled_upright() -> None:
    weight, hessian = random_weight(256, 96, 6), random_inputs(96, 6)

    def share(upright: float) -> float:
        pricing = Pricing(-0.5, 4.0, 0.01, upright)
        values = code_matrix(weight, hessian, most(weight, 1.0), pricing=pricing).values()
        return float((values @ hessian.moments * weight).sum() / (weight @ hessian.moments * weight).sum())

    assert share(0.0) < share(0.7) < share(1.0)
    assert share(1.0) == pytest.approx(1.0, abs=0.02)


def test_rows_whose_inputs_are_silent_are_coded_all_the_same() -> None:
    # of such rows w H w is rounding's, and may be negative
    generator = torch.Generator().manual_seed(7)
    spoken = torch.randn(200, 8, generator=generator) @ torch.randn(8, 64, generator=generator)
    hessian = Hessian(spoken.T @ spoken / 200)
    silent = torch.linalg.svd(spoken, full_matrices=True).Vh[8:]
    weight = 30 * torch.randn(40, len(silent), generator=generator) @ silent
    found = code_matrix(weight, hessian, most(weight, 1.5))
    assert found.size_bytes <= most(weight, 1.5)
    assert found.of_rows.abs().max() <= 64
    assert torch.isfinite(found.values()).all()


def test_weak_columns_come_first_where_much_is_given_up() -> None:
    weight, hessian = random_weight(256, 96, 8), random_inputs(96, 8)
    high, low = priced(hessian, 0.8), priced(hessian, 3.0)
    powers = hessian.diagonal
    assert powers[high.order].diff().min() >= 0
    assert powers[low.order].diff().max() <= 0
    assert sorted(high.order.tolist()) == list(range(96))

    def error(at_rate: Priced) -> float:
        wanted = at_rate.wanted(weight)
        steps = 2.0 * relative_steps(column_exponents(at_rate))
        rounded = round_rows(wanted, at_rate, steps)
        return hessian.error(weight - rounded.symbols * steps)

    # at one step, some two deviations wide
    assert error(high) < error(replace(high, weak_first=False))
