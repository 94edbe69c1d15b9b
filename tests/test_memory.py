"""Where memory is short: batches are smaller, results are those of whole ones, and the wall is hit a few times only."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from compress.adapt import AdaptSettings, adapt, mean_loss
from compress.assembly import Assembler
from compress.heal import Coach, HealSettings, Lesson, heal, make_lessons
from compress.pipeline import Bank
from compress.shelf import Shelf
from compress.vocabulary import Curriculum
from corpora.roles import Example
from models.anatomy import decoder
from models.inputs import Row
from models.loading import Source
from models.room import Room
from proxies.divergence import divergence
from proxies.prefixes import Prefixes
from scoring.translate import translate
from space.plan import Heal, Plan, uniform_plan
from space.rates import Coded
from tests.tiny import tiny_rows

# Of six utterances' rows the longest has some 70 positions; all together have some 800.
COUNT, MEMORY = 6, 170


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of the memory there is, nor afterwards."""
    for name in ("proxies.divergence._ROOM", "scoring.translate._ROOM", "compress.heal._SOURCE"):
        monkeypatch.setattr(name, Room())
    for name in ("compress.adapt._TRAINING", "compress.adapt._HELD_OUT"):
        monkeypatch.setattr(name, Room())
    monkeypatch.setattr("compress.heal._TRAINING", Room(whole_utterances=True))


@contextmanager
def scarce(model: PreTrainedModel, memory: int, *, backward: bool = False) -> Iterator[list[int]]:
    """A model that has memory for so many positions, forward or in the midst of a backward pass; those that failed."""
    failed: list[int] = []

    def check(size: int) -> None:
        if size > memory:
            failed.append(size)
            raise torch.OutOfMemoryError("CUDA out of memory")

    def passed(_module: nn.Module, states: tuple[torch.Tensor, ...]) -> None:
        check(states[0].shape[:2].numel())

    text = decoder(model)
    with (
        text.layers[0].register_full_backward_pre_hook(passed)
        if backward
        else text.norm.register_forward_pre_hook(passed)
    ):
        yield failed


@pytest.fixture(scope="module")
def rows(source: Source) -> list[Row]:
    return tiny_rows(source, COUNT)


@pytest.fixture(scope="module")
def lessons(source: Source, rows: list[Row]) -> list[Lesson]:
    return make_lessons(source.model, rows)


@pytest.fixture(scope="module")
def plan(source: Source) -> Plan:
    return uniform_plan(source.layout, Coded(2.0))


def test_lessons_are_the_same(source: Source, rows: list[Row], lessons: list[Lesson]) -> None:
    with scarce(source.model, MEMORY) as failed:
        found = make_lessons(source.model, rows)
        assert 0 < len(failed) <= 5
        make_lessons(source.model, rows)
        assert len(failed) <= 5
    for one, other in zip(found, lessons, strict=True):
        assert one.row is other.row
        for name in ("hidden", "audio"):
            first, second = getattr(one, name), getattr(other, name)
            assert (first is None) == (second is None)
            if first is not None:
                torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
        student = torch.zeros(len(one.row.target), source.layout.vocabulary).log_softmax(-1)
        assert float(one.teacher.divergence(student)) == pytest.approx(float(other.teacher.divergence(student)), 1e-4)


def test_divergence_is_the_same(source: Source, bank: Bank, lessons: list[Lesson], plan: Plan) -> None:
    model = Assembler(source, bank, Shelf(), 0.03).assembled(plan).model
    wanted = divergence(model, lessons)
    with scarce(model, MEMORY) as failed:
        for _ in range(3):
            assert divergence(model, lessons) == pytest.approx(wanted, rel=1e-4)
    assert 0 < len(failed) <= 5


def test_what_is_behind_prefixes_is_the_same(source: Source, bank: Bank, lessons: list[Lesson], plan: Plan) -> None:
    prefixes = Prefixes(source.layout, Curriculum(lessons, source.vocabulary), 2)
    candidate = Assembler(source, bank, Shelf(), 0.03).assembled(plan)
    sizes = (2, COUNT)
    # near 0 a divergence is a difference of 32-bit numbers around 1, of which two neighbours are 1.2e-7 apart
    wanted = pytest.approx([*prefixes.divergences(candidate, plan.vocabulary, sizes)], rel=1e-4, abs=2e-7)
    prefixes.forget()
    with scarce(candidate.model, MEMORY) as failed:
        for _ in range(2):
            assert [*prefixes.divergences(candidate, plan.vocabulary, sizes)] == wanted
        assert 0 < len(failed) <= 4
        # what was kept since serves the next
        layers = prefixes.layers_run
        assert [*prefixes.divergences(candidate, plan.vocabulary, sizes)] == wanted
        assert prefixes.layers_run == layers
    prefixes.forget()
    with scarce(candidate.model, 10), pytest.raises(torch.OutOfMemoryError):
        prefixes.divergence(candidate, plan.vocabulary, COUNT)


def test_translations_are_the_same(source: Source) -> None:
    rng, heard = np.random.default_rng(3), source.layout.encoder is not None
    examples = [
        Example(
            str(n),
            "talk",
            rng.standard_normal(9000 + 4000 * n).astype(np.float32) * 0.1 if heard else "a small model " * (n + 1),
            {},
        )
        for n in range(COUNT)
    ]
    wanted = translate(source.model, source.processor, examples, "de")
    with scarce(source.model, MEMORY) as failed:
        done: list[int] = []
        found = translate(source.model, source.processor, examples, "de", progress=done.append)
        assert found == wanted
        assert sum(done) == COUNT
        assert translate(source.model, source.processor, examples, "de") == wanted
    assert 0 < len(failed) <= 5


def gradients(model: PreTrainedModel) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_of_healing_has_the_same_gradients(
    source: Source, lessons: list[Lesson], monkeypatch: pytest.MonkeyPatch, *, backward: bool
) -> None:
    """Before they are clipped; two directions of an utterance are no two utterances."""
    found: list[list[torch.Tensor]] = []

    def caught(parameters: list[nn.Parameter], _most: float) -> None:
        found.append([one.grad.clone() for one in parameters if one.grad is not None])

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", caught)
    # a round and a half a step: some utterances come twice
    settings, plan = HealSettings(batch_rows=3 * COUNT), Heal(2, 0, 1.0)
    # not at its teacher, where gradients are next to nothing
    start = copy.deepcopy(source.model)
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.mul_(1.05)
    heal(copy.deepcopy(start), lessons, plan, Coach(1, settings))
    model = copy.deepcopy(start)
    with scarce(model, 2 * MEMORY, backward=backward) as failed:
        heal(model, lessons, plan, Coach(1, settings))
    assert 0 < len(failed) <= 5
    for one, other in zip(found[0], found[2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_adaptation_has_the_same_losses(source: Source, rows: list[Row]) -> None:
    settings = AdaptSettings("full", steps=4, rank=0, peak_rate=1e-3, batch_rows=2 * COUNT, seed=3)
    wanted = adapt(copy.deepcopy(source.model), rows, rows, settings)[1].losses
    model = copy.deepcopy(source.model)
    with scarce(model, MEMORY) as failed:
        found = adapt(model, rows, rows, settings)[1].losses
    assert found == pytest.approx(wanted, rel=1e-4)
    assert 0 < len(failed) <= 6
    with scarce(model, 10), pytest.raises(torch.OutOfMemoryError):
        mean_loss(model, rows, 4)
