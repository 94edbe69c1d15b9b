"""Predictions of which only the likeliest tokens are kept: against plain formulas, and through lessons and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import kl_div

from compress import predictions
from compress.facts import BankFolder
from compress.heal import make_lessons
from compress.predictions import joined, predictions_of
from compress.shelf import Shelf
from compress.vocabulary import Curriculum
from models.loading import Source
from proxies.divergence import divergence
from tests.tiny import load_tiny, tiny_rows

KEPT = 40


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "LIKELIEST", KEPT)


def logs(seed: int, spread: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(30, 200, generator=generator)).log_softmax(1)


def test_a_small_vocabulary_is_kept_whole() -> None:
    teacher, student = logs(0), logs(1)
    found = predictions_of(teacher)
    assert found.ids is None
    assert torch.equal(found.divergence(student), kl_div(student, teacher, log_target=True, reduction="sum"))
    assert torch.equal(found.probabilities(200), teacher.exp())


@pytest.mark.usefixtures("few")
def test_the_rest_counts_as_one_token() -> None:
    teacher, student = logs(0), logs(1)
    found = predictions_of(teacher)
    plain = 0.0
    for wanted, seen in zip(teacher.double().exp(), student.double().exp(), strict=True):
        chosen = wanted.argsort(descending=True)[:KEPT]
        p, q = ([*x[chosen].tolist(), 1 - float(x[chosen].sum())] for x in (wanted, seen))
        plain += sum(a * float(torch.tensor(a / b, dtype=torch.double).log()) for a, b in zip(p, q, strict=True))
    assert float(found.divergence(student)) == pytest.approx(plain, rel=1e-4)
    whole = float(kl_div(student, teacher, log_target=True, reduction="sum"))
    assert 0.9 * whole < plain <= whole
    assert float(found.divergence(teacher)) == pytest.approx(0, abs=1e-4)


def test_training_towards_what_is_kept_has_the_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, gradients = logs(0), []
    for kept in (teacher.shape[1], KEPT):
        monkeypatch.setattr(predictions, "LIKELIEST", kept)
        student = logs(1).requires_grad_(True)
        predictions_of(teacher).divergence(student.log_softmax(1)).backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        assert student.grad.isfinite().all()
        gradients.append(student.grad.flatten())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.usefixtures("few")
def test_parts_and_files_hold_the_same(source: Source, tmp_path: Path) -> None:
    found = predictions_of(logs(0))
    again = joined(found.split([3, 7, 20]))
    assert again.ids is not None
    assert again.rest is not None
    assert torch.equal(again.logs, found.logs)
    assert torch.equal(again.probabilities(200), found.probabilities(200))
    assert torch.equal(again.rest, found.rest if found.rest is not None else torch.empty(0))

    rows = tiny_rows(source)
    lessons = make_lessons(source.model, rows)
    folder = BankFolder(tmp_path / "bank", Shelf())
    folder.lessons("proxy", rows, lambda: lessons)

    def never() -> list[predictions.Predictions]:
        raise AssertionError("it is there")

    read = folder.lessons("proxy", rows, never)  # type: ignore[arg-type]
    for one, other in zip(lessons, read, strict=True):
        assert one.teacher.ids is not None
        assert other.teacher.ids is not None
        assert torch.equal(one.teacher.ids, other.teacher.ids)
        assert torch.equal(one.teacher.logs, other.teacher.logs)
    assert divergence(source.model, read) == pytest.approx(0, abs=1e-4)


def test_a_trimmed_vocabulary_keeps_what_is_known(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, size = tiny_rows(source), source.vocabulary.rows // 2
    whole = Curriculum(make_lessons(source.model, rows), source.vocabulary).of(size)
    for kept in (size - 20, size + 20):
        monkeypatch.setattr(predictions, "LIKELIEST", kept)
        found = Curriculum(make_lessons(source.model, rows), source.vocabulary).of(size)
        for one, other in zip(whole, found, strict=True):
            assert one.row.target == other.row.target
            assert (other.teacher.ids is None) == (kept > size)
            total = other.teacher.logs.exp().sum(1) + (0 if other.teacher.rest is None else other.teacher.rest.exp())
            torch.testing.assert_close(total, torch.ones(len(total)), atol=1e-3, rtol=0)
            wanted, seen = one.teacher.probabilities(size), other.teacher.probabilities(size)
            if kept < size:
                assert (seen <= wanted + 1e-5).all()
            assert torch.nn.functional.cosine_similarity(seen, wanted).min() > 0.8
