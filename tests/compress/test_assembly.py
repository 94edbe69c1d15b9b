"""Plans put together in place compute what carrying them out one by one does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compress.assembly import Assembler
from compress.pipeline import Bank, compress
from compress.shelf import Shelf
from models.inputs import make_batch, target_logits
from models.loading import Source, pad_token
from space.plan import Plan
from tests.tiny import TINY, load_tiny, random_plans, tiny_bank, tiny_rows

_TOLERANCE = 0.03


@pytest.fixture(scope="module", params=TINY)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def bank(source: Source) -> Bank:
    return tiny_bank(source)


def _logits(source: Source, model: torch.nn.Module, plan: Plan) -> torch.Tensor:
    rows = [
        replace(row, prompt=_trimmed(source, row.prompt, plan), target=_trimmed(source, row.target, plan))
        for row in tiny_rows(source)
    ]
    with torch.no_grad():
        return target_logits(model, make_batch(rows, pad_token(model)))


def _trimmed(source: Source, ids: tuple[int, ...], plan: Plan) -> tuple[int, ...]:
    pieces = source.vocabulary.pieces(plan.vocabulary)
    return tuple(piece for token in ids for piece in pieces[token])


def test_a_model_assembled_after_others_is_that_of_its_plan(source: Source, bank: Bank, tmp_path: Path) -> None:
    whole = {name: value.clone() for name, value in source.model.state_dict().items()}
    shelf = Shelf(tmp_path)
    assembler = Assembler(source, bank, shelf, _TOLERANCE)
    again = Assembler(source, bank, Shelf(tmp_path), _TOLERANCE)
    for plan in random_plans(source, 6):
        wanted = _logits(source, compress(source, plan, bank, seed=0, tolerance=_TOLERANCE, filling=False).model, plan)
        assembled = assembler.assembled(plan)
        assert torch.equal(_logits(source, assembled.model, plan), wanted)
        made = again.shelf.made
        assert torch.equal(_logits(source, again.assembled(plan).model, plan), wanted)
        assert again.shelf.made == made, "all pieces were in the folder"
    assert all(torch.equal(value, whole[name]) for name, value in source.model.state_dict().items())
