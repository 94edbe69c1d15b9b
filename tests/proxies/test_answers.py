"""Answers beside divergences: every token's share is told once, in the order of rows, whatever batches were made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.assembly import Assembler
from compress.heal import make_lessons
from compress.pipeline import Bank
from compress.predictions import Predictions
from compress.shelf import Shelf
from compress.vocabulary import Curriculum
from models.loading import Source
from proxies.answers import LIKELY, Answers, likely, told
from proxies.linear import Linear
from proxies.prefixes import Prefixes
from tests.tiny import random_plans, tiny_rows

UTTERANCES = 5


@pytest.fixture(scope="module")
def curriculum(source: Source) -> Curriculum:
    return Curriculum(make_lessons(source.model, tiny_rows(source, UTTERANCES)), source.vocabulary)


def test_what_is_told_of_tokens_adds_up_to_one() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(7, 100).mul(4).log_softmax(1), torch.randn(7, 100).mul(4).log_softmax(1)
    ids = likely(Predictions(teacher), student)
    assert torch.equal(ids, torch.maximum(teacher, student).topk(LIKELY, 1).indices)
    found = told(student, ids)
    assert torch.allclose(found.exp().sum(1), torch.ones(7), atol=1e-5)
    assert torch.equal(found[:, :-1], student.gather(1, ids))


def test_a_tiny_rest_is_no_rounding_of_the_others() -> None:
    logs = torch.tensor([[0.0, -40.0, -18.0, -19.0]]).double().log_softmax(1).float()
    assert float(told(logs, torch.tensor([[0, 1]]))[0, -1]) == pytest.approx(-17.687, abs=1e-2)


def test_large_vocabularies_share_the_rest() -> None:
    logs = torch.randn(3, 50).log_softmax(1)
    kept, ids = logs.topk(40, 1)
    rest = (1 - kept.exp().sum(1)).log()
    found = Predictions(kept, ids.int(), rest).whole(50)
    assert torch.allclose(found.exp().sum(1), torch.ones(3), atol=1e-5)
    assert torch.equal(found.gather(1, ids), kept)


def test_answers_are_of_the_divergence_and_in_the_order_of_rows(
    source: Source, bank: Bank, curriculum: Curriculum
) -> None:
    assembler = Assembler(source, bank, Shelf(), 0.03)
    plans = [replace(plan, vocabulary=source.layout.vocabulary_sizes[-1]) for plan in random_plans(source, 4)]
    own = Answers(0.0)
    for plan in plans:
        candidate = assembler.assembled(plan)
        found, other = (
            Prefixes(source.layout, curriculum, 2, most).answers(candidate, plan.vocabulary, UTTERANCES, own)
            for most in (500, 90)
        )
        divergence = Prefixes(source.layout, curriculum, 2, 500).divergence(candidate, plan.vocabulary, UTTERANCES)
        assert found.divergence == pytest.approx(divergence, rel=1e-6)
        assert found.logs is not None
        assert other.logs is not None
        assert found.source is not None
        assert torch.allclose(found.logs, other.logs, atol=1e-3)
        assert len(found.logs) == found.source_tokens
        if own.ids is not None:
            assert found.ids is own.ids
        else:
            alone = Linear(found, torch.zeros(1, *found.logs.shape))
            lumped = float(alone.divergences(np.zeros((1, 1)))[0])
            assert 0 < lumped <= divergence * (1 + 1e-3), "less is told apart"
            own = found
