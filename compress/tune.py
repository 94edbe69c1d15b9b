"""Tuning after quantisation: what the rounding lost is trained back in what costs no bytes, or through the rounding.

With the integers fixed, biases, norms and the scales of rows are trained. Through the rounding, the weights behind the
integers are trained as well: they are rounded on the way forward and not on the way back (straight-through estimator,
Bengio et al. 2013, arXiv 1308.3432), at the steps and scales that are stored, so that what is trained is what is kept.
They begin between the stored values and the weights before quantisation: in the middle of a step hardly any would ever
leave it, at its edge all would at once, and with them what error feedback had achieved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from compress.coding import CodedMatrix
from compress.heal import Coach, Lesson, train
from compress.quantize import PackedMatrix
from compress.units import Matrix, UnitWeights, biases, put, vectors, weight
from models.anatomy import Place, places, tied
from models.devices import HOST
from space.plan import Plan
from space.size import larger_bytes, larger_header_bytes, linear_bytes

# Peak learning rates of biases, norms and row scales, and of the weights behind the integers.
_FREE_RATE, _THROUGH_RATE = 1e-3, 5e-4
# Weights behind integers begin within this share of the way to where they would be rounded to others; at two packed
# bits what is nearer to the edge does harm first.
_INSIDE = {CodedMatrix: 0.95, PackedMatrix: 0.8}
# Rounding is moved away from zero or towards it by up to this share of a step, to keep to a matrix's bytes.
_MOST_SHIFT, _SHIFTS = 0.3, 12


class _Rounded(nn.Module):
    """A weight on the grid of its stored form; gradients pass as if it was not rounded."""

    def __init__(self, steps: Tensor, low: float, high: float) -> None:
        super().__init__()
        self.steps, self.low, self.high = steps, low, high

    def forward(self, latent: Tensor) -> Tensor:
        rounded = (latent / self.steps).round().clamp(self.low, self.high) * self.steps
        return latent + (rounded - latent).detach()


def tune(
    model: PreTrainedModel,
    plan: Plan,
    stored: Sequence[UnitWeights],
    lessons: Sequence[Lesson],
    *,
    steps: int,
    coach: Coach,
    before: Sequence[Sequence[Tensor]] | None = None,
    filling: bool = True,
) -> tuple[UnitWeights, ...]:
    """Trains a model that holds stored values for `steps` steps; the new stored form is put into it and returned.

    Through the rounding, where the matrices `before` quantisation are given, unit by unit; else with the integers
    fixed. All units together take at most the bytes that their rates allow, and, unless `filling`, so does each matrix.
    """
    # a table that is two things at once stays as it is
    shared = tied(model)
    with ExitStack() as undone:
        free: list[nn.Parameter] = []
        latent: list[nn.Parameter] = []
        scales: dict[nn.Module, nn.Parameter] = {}
        for index, (weights, place) in enumerate(zip(stored, places(model, plan), strict=True)):
            for parameter in vectors(place):
                parameter.requires_grad_(True)
                free.append(parameter)
            for position, (module, matrix) in enumerate(zip(place.matrices, weights.matrices, strict=True)):
                if isinstance(matrix, Tensor) or (shared and isinstance(module, nn.Embedding)):
                    continue
                if before is not None:
                    latent.append(_rounded(module, matrix, before[index][position]))
                elif isinstance(module, nn.Linear):
                    scales[module] = nn.Parameter(torch.ones(len(weight(module)), device=weight(module).device))
                    undone.callback(module.register_forward_hook(_scaled(scales[module])).remove)
        groups = [([*free, *scales.values()], _FREE_RATE), (latent, _THROUGH_RATE)]
        train(model, lessons, groups, steps, coach)
    model.requires_grad_(False)
    found: list[UnitWeights] = []
    spare_bytes = sum(weights.spare_bytes for weights in stored) - larger_header_bytes([x.unit for x in stored])
    with torch.no_grad():
        for weights, place in zip(stored, places(model, plan), strict=True):
            found.append(_stored_again(weights, place, scales, spare_bytes if filling else None))
            spare_bytes += found[-1].spare_bytes - weights.spare_bytes
    return tuple(found)


def _rounded(module: nn.Module, matrix: CodedMatrix | PackedMatrix, before: Tensor) -> nn.Parameter:
    """Makes a module's weight the rounded form of a parameter, which is returned."""
    shape = weight(module).shape
    steps = _steps(matrix).to(before.device).view(shape)
    middle = float("inf") if isinstance(matrix, CodedMatrix) else float(1 << (matrix.rate.bits - 1))
    weight(module).requires_grad_(True)
    parametrize.register_parametrization(module, "weight", _Rounded(steps, -middle, middle - 1), unsafe=True)
    found = _latent(module)
    half = _INSIDE[type(matrix)] * steps.abs() / 2
    found.data += (before.view(shape) - found.data).clamp(-half, half)
    found.requires_grad_(True)
    return found


def _latent(module: nn.Module) -> nn.Parameter:
    found = module.get_parameter("parametrizations.weight.original")
    assert isinstance(found, nn.Parameter)
    return found


def _steps(matrix: CodedMatrix | PackedMatrix) -> Tensor:
    """The distance of neighbouring values, entry by entry, in the shape of `values`; packed ones may be negative."""
    if isinstance(matrix, CodedMatrix):
        return replace(matrix, symbols=torch.ones_like(matrix.symbols)).values()
    one_up = torch.full_like(matrix.codes, (1 << (matrix.rate.bits - 1)) + 1)
    return replace(matrix, codes=one_up).values()


def _scaled(scales: Tensor) -> Callable[[nn.Module, object, Tensor], Tensor]:
    """A hook that makes a linear's output that of a weight whose rows are scaled."""

    def hook(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        scaled = output * scales
        for bias in biases(module):
            scaled = scaled + (1 - scales) * bias
        return scaled

    return hook


def _stored_again(
    weights: UnitWeights, place: Place, scales: dict[nn.Module, nn.Parameter], spare_bytes: int | None
) -> UnitWeights:
    """The unit in its stored form, with what was trained; its values are put into its place.

    Each coded matrix may take the bytes it took and of those that are to spare, or what its rate says if that is None.
    """
    found: list[Matrix] = []
    for module, matrix, linear in zip(place.matrices, weights.matrices, weights.unit.linears, strict=True):
        taken = matrix.size_bytes if isinstance(matrix, CodedMatrix) else 0
        rate_bytes = linear_bytes(linear, weights.unit.rate)
        most = rate_bytes if spare_bytes is None else min(taken + spare_bytes, larger_bytes(rate_bytes))
        most = max(taken, most)
        if isinstance(matrix, Tensor):
            found.append(matrix)
        elif parametrize.is_parametrized(module, "weight"):
            latent = _latent(module).data.to(HOST)
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
            found.append(_rounded_again(matrix, latent.reshape(len(latent), -1), most))
        elif module in scales:
            found.append(_rescaled(matrix, scales[module].data.to(HOST), most))
        else:
            found.append(matrix)
        if spare_bytes is not None and isinstance(found[-1], CodedMatrix):
            spare_bytes += taken - found[-1].size_bytes
    again = UnitWeights(weights.unit, tuple(found), tuple(x.detach().bfloat16().to(HOST) for x in vectors(place)))
    put(again, place)
    return again


def _rescaled(matrix: CodedMatrix | PackedMatrix, factors: Tensor, most_bytes: int) -> Matrix:
    return matrix.rescaled(factors, most_bytes) if isinstance(matrix, CodedMatrix) else matrix.rescaled(factors)


def _rounded_again(matrix: CodedMatrix | PackedMatrix, latent: Tensor, most_bytes: int) -> Matrix:
    """The integers of trained weights (rows, columns); where they are coded, as finely as the bytes allow."""
    wanted = latent / _steps(matrix)
    if isinstance(matrix, PackedMatrix):
        middle = 1 << (matrix.rate.bits - 1)
        return replace(matrix, codes=(wanted.round().clamp(-middle, middle - 1) + middle).to(torch.uint8))
    wanted = wanted.T.contiguous() if matrix.transposed else wanted
    low, high, best = -_MOST_SHIFT / 4, _MOST_SHIFT, matrix
    for _ in range(_SHIFTS):
        shift = (low + high) / 2
        symbols = wanted.sign() * (wanted.abs() + 0.5 - shift).floor().clamp_min(0)
        found = replace(matrix, symbols=symbols.to(torch.int16))
        if found.size_bytes <= most_bytes:
            high, best = shift, found
        else:
            low = shift
    return best
