"""The shelf gives back what was put on it, makes again what is damaged, and keeps to its bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.coding import code_matrix
from compress.gptq import Hessian
from compress.quantize import quantize
from compress.shelf import Piece, Shelf
from compress.units import stored_values
from space.rates import Packed


def _piece(seed: int, rows: int = 16) -> Piece:
    torch.manual_seed(seed)
    weight = torch.randn(rows, 24)
    hessian = Hessian(torch.eye(24), torch.zeros(24))
    table = Hessian(torch.ones(rows) / rows)
    coded = code_matrix(weight, hessian, 6 * rows)
    lookup = code_matrix(weight, table, 6 * rows)
    wide = code_matrix(1000 * weight, hessian, 45 * rows)
    packed = quantize(weight, Packed(3, 8), hessian)
    return Piece((coded, lookup, wide, packed, weight.bfloat16()), (torch.randn(5).bfloat16(),))


def _refuse() -> Piece:
    raise AssertionError("it is on the shelf")


def _same(one: Piece, other: Piece) -> bool:
    values = [[stored_values(matrix) for matrix in piece.matrices] + list(piece.vectors) for piece in (one, other)]
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(*values, strict=True))


def test_a_piece_comes_back_as_it_was_put(tmp_path: Path) -> None:
    piece = _piece(0)
    assert Shelf(tmp_path).piece("a", lambda: piece) is piece
    found = Shelf(tmp_path).piece("a", _refuse)
    assert _same(found, piece)
    assert [type(x) for x in found.matrices] == [type(x) for x in piece.matrices]


@pytest.mark.parametrize("damage", [b"", b"not a piece", None])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    piece = _piece(0)
    Shelf(tmp_path).piece("a", lambda: piece)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-3] if damage is None else damage)
    shelf = Shelf(tmp_path)
    assert _same(shelf.piece("a", lambda: piece), piece)
    assert shelf.made == 1
    assert _same(Shelf(tmp_path).piece("a", _refuse), piece)


@pytest.mark.parametrize("place", [0.05, 0.3, 0.6, 0.999])
def test_a_flipped_bit_is_noticed(tmp_path: Path, place: float) -> None:
    piece = _piece(0)
    Shelf(tmp_path).piece("a", lambda: piece)
    (file,) = tmp_path.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 1
    file.write_bytes(data)
    shelf = Shelf(tmp_path)
    assert _same(shelf.piece("a", lambda: piece), piece)
    assert shelf.made == 1


def test_what_was_not_asked_for_the_longest_time_goes_first(tmp_path: Path) -> None:
    piece = _piece(0, rows=64)
    Shelf(tmp_path).piece("0", lambda: piece)
    most = 4 * sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) + 100
    shelf = Shelf(tmp_path, most_bytes=most, memory_bytes=1)
    for i in range(1, 4):
        shelf.piece(str(i), lambda: piece)
    for age, path in enumerate(sorted(tmp_path.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (1000 + age, 1000 + age))
    shelf.piece("0", _refuse)
    shelf.piece("4", lambda: piece)
    assert shelf.size_bytes() <= most
    assert shelf.has("0")
    assert shelf.has("4")
    assert not Shelf(tmp_path).has("1")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 6), max_size=30), st.integers(1, 4))
def test_memory_keeps_to_its_bytes(asked: list[int], room: int) -> None:
    pieces = [Piece((), (torch.zeros(50, dtype=torch.bfloat16) + i,)) for i in range(7)]
    shelf = Shelf(None, memory_bytes=100 * room)
    for i in asked:
        assert torch.equal(shelf.piece(str(i), lambda i=i: pieces[i]).vectors[0], pieces[i].vectors[0])  # type: ignore[misc]
    latest = list(dict.fromkeys(str(i) for i in reversed(asked)))[:room]
    assert [shelf.has(name) for name in latest] == [True] * len(latest)
    assert sum(shelf.has(str(i)) for i in range(7)) == len(latest)
