"""A unit's weights in their stored form: matrices at the unit's rate, then biases and norms in bf16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.coding import TOLERANCE, CodedMatrix, code_matrix
from compress.coding import to_bytes as coded_bytes
from compress.gptq import Hessian, moved
from compress.quantize import PackedMatrix, pack, quantize
from models import modeling_tightfit as reader
from models.anatomy import Place
from models.devices import HOST
from space.rates import Coded
from space.size import Unit, larger_bytes, linear_bytes, unit_bytes

# bf16 as it is, codes with scales, or symbols for the entropy coder.
Matrix = Tensor | PackedMatrix | CodedMatrix


@dataclass(frozen=True)
class UnitWeights:
    """A unit in its stored form; `vectors` are biases, then norms, in bf16."""

    unit: Unit
    matrices: tuple[Matrix, ...]
    vectors: tuple[Tensor, ...]

    @property
    def spare_bytes(self) -> int:
        """Bytes that its coded matrices leave of what the rate says; negative where they have of what others left."""
        return sum(
            linear_bytes(linear, self.unit.rate) - stored.size_bytes
            for linear, stored in zip(self.unit.linears, self.matrices, strict=True)
            if isinstance(stored, CodedMatrix)
        )


def weight(module: nn.Module) -> Tensor:
    """A module's weight in its own shape, outside of autograd."""
    found = module.weight
    assert isinstance(found, Tensor)
    return found.data


def biases(module: nn.Module) -> list[nn.Parameter]:
    """A module's bias, if it has one."""
    return [found for found in (getattr(module, "bias", None),) if isinstance(found, nn.Parameter)]


def bias(module: nn.Module) -> Tensor | None:
    """A module's bias outside of autograd, None where it has none."""
    found = biases(module)
    return found[0].data if found else None


def matrix(module: nn.Module) -> Tensor:
    """A module's weight as (outputs, inputs); convolution kernels are flattened."""
    return weight(module).reshape(len(weight(module)), -1)


def vectors(place: Place) -> list[nn.Parameter]:
    """The parameters of a place that stay in 16 bits: biases of its matrices, then weights and biases of its norms."""
    return reader.vectors(place.matrices, place.norms)


def encode(
    unit: Unit, place: Place, hessians: Sequence[Hessian], tolerance: float = TOLERANCE, spare_bytes: int | None = 0
) -> UnitWeights:
    """What a place of a carved model is stored as; `hessians` are those of the inputs of each matrix.

    Everything is computed where the place is; the stored form is in host memory. A coded matrix takes what its rate
    allows and what those before it left, `spare_bytes` at the first one, or up to a share `tolerance` less. Where
    `spare_bytes` is None all keep to what their rate allows.
    """
    stored: list[Matrix] = []
    near = moved(hessians, weight(place.matrices[0]).device) if place.matrices else ()
    for index, (module, hessian) in enumerate(zip(place.matrices, near, strict=True)):
        found = encode_matrix(matrix(module), unit, index, hessian, tolerance, spare_bytes=spare_bytes or 0)
        if spare_bytes is not None and isinstance(found, CodedMatrix):
            spare_bytes += linear_bytes(unit.linears[index], unit.rate) - found.size_bytes
        stored.append(found)
    return UnitWeights(unit, tuple(stored), tuple(x.detach().bfloat16().to(HOST) for x in vectors(place)))


def encode_matrix(
    values: Tensor, unit: Unit, index: int, hessian: Hessian, tolerance: float, *, spare_bytes: int = 0
) -> Matrix:
    """Matrix `index` of a unit (rows, columns) in its stored form, in host memory; the Hessian is where it is."""
    if isinstance(unit.rate, Coded):
        rate_bytes = linear_bytes(unit.linears[index], unit.rate)
        most = min(rate_bytes + max(0, spare_bytes), larger_bytes(rate_bytes))
        return code_matrix(values, hessian, most, tolerance)
    return values.bfloat16().to(HOST) if unit.rate.bits == 16 else quantize(values, unit.rate, hessian)


def stored_values(stored: Matrix, device: torch.device = HOST) -> Tensor:
    """A matrix in float32 on a device, as it is read back; it goes there in its stored form."""
    stored = stored.to(device)
    return stored.float() if isinstance(stored, Tensor) else stored.values()


def put(weights: UnitWeights, place: Place) -> None:
    """Writes a unit's stored values into its place: from here on the model computes what the checkpoint holds."""
    for module, stored in zip(place.matrices, weights.matrices, strict=True):
        values = weight(module)
        values.copy_(stored_values(stored, values.device).view(values.shape))
    for parameter, vector in zip(vectors(place), weights.vectors, strict=True):
        parameter.data.copy_(vector.view(parameter.shape))


def to_bytes(weights: UnitWeights) -> bytes:
    """The unit's tensor as stored, which `models.modeling_tightfit.read_unit` reads: each matrix, then the vectors.

    Exactly as many bytes as `unit_bytes` says; where its rate is a coded one at most that less its spare bytes.
    """
    data = b"".join([*map(_matrix_bytes, weights.matrices), *map(_raw, weights.vectors)])
    most, coded = unit_bytes(weights.unit) - weights.spare_bytes, isinstance(weights.unit.rate, Coded)
    assert len(data) <= most if coded else len(data) == most, f"{weights.unit.name}: {len(data)} bytes, not {most}"
    return data


def _matrix_bytes(stored: Matrix) -> bytes:
    if isinstance(stored, CodedMatrix):
        return coded_bytes(stored)
    if isinstance(stored, PackedMatrix):
        return pack(stored.codes, stored.rate.bits) + _raw(stored.scales)
    return _raw(stored)


def _raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()
