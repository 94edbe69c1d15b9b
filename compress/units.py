"""A unit's weights as bytes and back: matrices at the unit's rate, then biases and norms in bf16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.quantize import Quantized, pack, quantize, unpack
from models.anatomy import Place
from space.size import Unit, linear_bytes, unit_bytes


@dataclass(frozen=True)
class UnitWeights:
    """A unit in its stored form: a matrix is Quantized or bf16; `vectors` are biases, then norms, in bf16."""

    unit: Unit
    matrices: tuple[Quantized | Tensor, ...]
    vectors: tuple[Tensor, ...]


def weight(module: nn.Module) -> Tensor:
    """A module's weight in its own shape, outside of autograd."""
    found = module.weight
    assert isinstance(found, Tensor)
    return found.data


def biases(module: nn.Module) -> list[nn.Parameter]:
    """A module's bias, if it has one."""
    return [found for found in (getattr(module, "bias", None),) if isinstance(found, nn.Parameter)]


def matrix(module: nn.Module) -> Tensor:
    """A module's weight as (outputs, inputs); convolution kernels are flattened."""
    return weight(module).reshape(len(weight(module)), -1)


def vectors(place: Place) -> list[nn.Parameter]:
    """The parameters of a place that stay in 16 bits: biases of its matrices, then weights and biases of its norms."""
    of_matrices = [bias for module in place.matrices for bias in biases(module)]
    return of_matrices + [parameter for norm in place.norms for parameter in norm.parameters()]


def encode(unit: Unit, place: Place, moments: Sequence[Tensor | None]) -> UnitWeights:
    """What a place of a carved model is stored as; `moments` are the input second moments of each matrix."""
    stored: list[Quantized | Tensor] = []
    for module, moment in zip(place.matrices, moments, strict=True):
        whole = unit.rate.bits == 16
        stored.append(matrix(module).bfloat16() if whole else quantize(matrix(module), unit.rate, moment))
    return UnitWeights(unit, tuple(stored), tuple(x.detach().bfloat16() for x in vectors(place)))


def put(weights: UnitWeights, place: Place) -> None:
    """Writes a unit's stored values into its place: from here on the model computes what the checkpoint holds."""
    for module, stored in zip(place.matrices, weights.matrices, strict=True):
        values = stored.dequantized() if isinstance(stored, Quantized) else stored
        weight(module).copy_(values.view(weight(module).shape))
    for parameter, vector in zip(vectors(place), weights.vectors, strict=True):
        parameter.data.copy_(vector.view(parameter.shape))


def to_bytes(weights: UnitWeights) -> bytes:
    """The unit's tensor as stored: for each matrix packed codes and scales, then the vectors."""
    parts = []
    for stored in weights.matrices:
        if isinstance(stored, Quantized):
            parts += [pack(stored.codes, stored.rate.bits), _raw(stored.scales)]
        else:
            parts.append(_raw(stored))
    data = b"".join([*parts, *map(_raw, weights.vectors)])
    assert len(data) == unit_bytes(weights.unit), (
        f"{weights.unit.name}: {len(data)} bytes, not {unit_bytes(weights.unit)}"
    )
    return data


def from_bytes(data: bytes, unit: Unit, place: Place) -> UnitWeights:
    """Inverse of `to_bytes`; `place` gives the vectors' shapes. The data must have `unit_bytes(unit)` bytes."""
    offset = 0

    def take(count: int) -> bytearray:
        nonlocal offset
        offset += count
        return bytearray(data[offset - count : offset])

    stored: list[Quantized | Tensor] = []
    for linear in unit.linears:
        entries, scales = linear_bytes(linear, unit.rate)
        if unit.rate.bits == 16:
            stored.append(torch.frombuffer(take(entries), dtype=torch.bfloat16).view(linear.rows, linear.columns))
            continue
        codes = unpack(bytes(take(entries)), unit.rate.bits, linear.rows, linear.columns)
        steps = torch.frombuffer(take(scales), dtype=torch.float16).view(linear.rows, -1)
        stored.append(Quantized(codes, steps, unit.rate))
    kept = tuple(
        torch.frombuffer(take(2 * p.numel()), dtype=torch.bfloat16).view(p.shape).clone() for p in vectors(place)
    )
    return UnitWeights(unit, tuple(stored), kept)


def _raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()
