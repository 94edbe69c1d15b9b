"""Coded rates: what is read back is what was meant, no byte over, and less error for more bytes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress import coding
from compress.coding import CodedMatrix, classes_of, code_matrix, to_bytes
from compress.gptq import Hessian
from models.modeling_tightfit import decode_matrix
from space.size import CODED_FRAME_BYTES


def random_inputs(columns: int, seed: int) -> Hessian:
    """Correlated inputs of very different power."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(4 * columns, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    powers = torch.logspace(-1, 1, columns)
    return Hessian((mixed * powers).T @ (mixed * powers) / (4 * columns))


def random_weight(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def most(weight: Tensor, bits: float) -> int:
    return CODED_FRAME_BYTES + int(weight.numel() * bits / 8)


def read(data: bytes, rows: int, columns: int) -> Tensor:
    values, rest = decode_matrix(memoryview(data + b"behind"), "c2", rows, columns)
    assert bytes(rest) == b"behind"
    return values


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 50),
    bits=st.floats(0.1, 12.0),
    seed=st.integers(0, 99),
    lookup=st.booleans(),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 300.0]),
)
def test_what_is_read_back_is_what_was_coded_and_no_byte_over(
    *, rows: int, columns: int, bits: float, seed: int, lookup: bool, scale: float
) -> None:
    weight = scale * random_weight(rows, columns, seed)
    counts = torch.arange(rows, dtype=torch.float32)
    hessian = Hessian((counts + 1) / (counts + 1).sum()) if lookup else random_inputs(columns, seed)
    found = code_matrix(weight, hessian, most(weight, bits))
    data = to_bytes(found)
    assert len(data) <= found.size_bytes <= most(weight, bits)
    assert torch.equal(read(data, rows, columns), found.values())


@pytest.mark.parametrize("bits", [0.7, 1.2, 2.0, 3.0, 5.0, 8.0])
def test_what_a_rate_allows_is_used(bits: float) -> None:
    weight = random_weight(192, 160, 1)
    found = code_matrix(weight, random_inputs(160, 1), most(weight, bits))
    assert len(to_bytes(found)) >= 0.995 * most(weight, bits)


def test_more_bytes_are_less_error() -> None:
    weight, hessian = random_weight(128, 96, 2), random_inputs(96, 2)
    errors = [
        hessian.error(weight - code_matrix(weight, hessian, most(weight, bits)).values()) for bits in (1, 2, 3, 4, 6, 8)
    ]
    assert all(later < 0.5 * earlier for earlier, later in pairwise(errors))


def test_close_to_the_rate_distortion_bound() -> None:
    # a quarter of a bit is the uniform quantiser's own; exponents of rows weigh on so few columns
    inputs = torch.randn(1000, 128, generator=torch.Generator().manual_seed(3)) * torch.logspace(-0.5, 0.5, 128)
    weight, hessian = random_weight(512, 128, 3), Hessian(inputs.T @ inputs / 1000)
    for bits in (2.0, 3.0, 4.0):
        found = code_matrix(weight, hessian, most(weight, bits))
        error = hessian.error(weight - found.values()) / weight.numel()
        # at these rates every direction gets bits: half the logarithm of geometric mean power over error
        bound = 0.5 * (np.linalg.slogdet(hessian.moments.double().numpy())[1] / 128 / np.log(2) - np.log2(error))
        assert 0 < 8 * len(to_bytes(found)) / weight.numel() - bound < 0.4


def test_tokens_that_are_often_looked_up_are_kept_more_closely() -> None:
    weight = random_weight(200, 64, 4)
    counts = torch.where(torch.arange(200) < 100, 100.0, 1.0)
    found = code_matrix(weight, Hessian(counts / counts.sum()), most(weight, 2.0))
    errors = (weight - found.values()).square().mean(1)
    assert found.transposed
    assert errors[:100].mean() < 0.2 * errors[100:].mean()


@pytest.mark.parametrize("allowed", [1.0, 0.98])
def test_rows_are_rescaled_as_finely_as_the_bytes_allow(allowed: float) -> None:
    weight = random_weight(96, 200, 5)
    found = code_matrix(weight, random_inputs(200, 5), most(weight, 2.0))
    bytes_before = found.size_bytes
    factors = 1 + 0.2 * torch.rand(96, generator=torch.Generator().manual_seed(0))
    again = found.rescaled(factors, int(allowed * bytes_before) + 30)
    assert isinstance(again, CodedMatrix)
    assert again.size_bytes <= max(bytes_before, int(allowed * bytes_before) + 30)
    assert torch.equal(again.symbols, found.symbols)
    wanted = found.values() * factors[:, None]
    if allowed == 1.0:
        assert (again.values() - wanted).norm() < 0.2 * (found.values() - wanted).norm()


def test_a_table_of_few_values_fills_its_bytes() -> None:
    """Sinusoidal positions, as the encoder has them: with steps by column their entropy jumps."""
    positions, frequencies = torch.arange(200.0)[:, None], torch.exp(-torch.arange(96) * 9.2 / 95)
    table = torch.cat([(positions * frequencies).sin(), (positions * frequencies).cos()], 1)
    tokens = Hessian(torch.rand(200, generator=torch.Generator().manual_seed(0)) + 0.1)
    for bits in (1.4, 2.0):
        most_bytes = round(bits * table.numel() / 8) + 50
        coded = code_matrix(table, tokens, most_bytes)
        assert 0.97 * most_bytes <= coded.size_bytes <= most_bytes


@pytest.mark.parametrize(("entries", "deviation", "largest"), [(200_000, 4, 1500), (400_000, 8, 1000), (3_000, 1, 3)])
def test_streams_of_few_large_symbols_among_many_small_ones_keep_to_the_bound(
    entries: int, deviation: float, largest: int
) -> None:
    """Symbols between them are in the table and not in the matrix: the coder gives each of them a chance."""
    drawn = deviation * torch.randn(entries // 100, 100, generator=torch.Generator().manual_seed(0))
    drawn[0, 0], drawn[-1, -1] = largest, -largest
    rows, columns = torch.zeros(len(drawn), dtype=torch.int32), torch.zeros(100, dtype=torch.int32)
    found = CodedMatrix(drawn.round().to(torch.int16), 1.0, rows, columns, 1, transposed=False)
    assert found.size_bytes - 8 <= len(to_bytes(found)) <= found.size_bytes


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 30),
    largest=st.sampled_from([0, 1, 300, coding.LARGEST_SYMBOL]),
    exponents=st.integers(0, 5),
    at_once=st.sampled_from([1, 90, 10**6]),
    seed=st.integers(0, 99),
)
def test_symbols_are_counted_class_by_class(
    *, rows: int, columns: int, largest: int, exponents: int, at_once: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.randint(-largest, largest + 1, (rows, columns), generator=generator).short()
    of_columns = torch.randint(-exponents, exponents + 1, (columns,), generator=generator).int()
    matrix = CodedMatrix(symbols, 1.0, torch.zeros(rows, dtype=torch.int32), of_columns, 32, transposed=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coding, "_COUNTED_AT_ONCE", at_once)
        found = classes_of(matrix)
    assert [table.last for table in found] == sorted(set(of_columns.tolist()))
    for table in found:
        seen = symbols[:, of_columns == table.last].reshape(-1).tolist()
        assert table.first == min(seen)
        assert len(table.counts) == max(2, max(seen) - min(seen) + 1)
        assert {table.first + i: count for i, count in enumerate(table.counts.tolist()) if count} == {
            one: seen.count(one) for one in set(seen)
        }
