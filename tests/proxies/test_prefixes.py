"""Scores of candidates with shared prefixes are those of whole forward passes, and cost less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.nn.functional import cross_entropy

from compress.assembly import Assembler
from compress.heal import make_lessons
from compress.pipeline import Bank
from compress.recent import Recent
from compress.shelf import Shelf
from compress.vocabulary import Curriculum
from models.inputs import make_batch, target_logits
from models.loading import Source, pad_token
from proxies.divergence import divergence
from proxies.prefixes import Prefixes
from space.choices import choices, plan_of
from space.plan import REMOVED, Plan, Sublayer, uniform_plan
from space.rates import WHOLE, Coded
from tests.tiny import random_plans, tiny_rows

UTTERANCES = (2, 5)


@pytest.fixture(scope="module")
def curriculum(source: Source) -> Curriculum:
    return Curriculum(make_lessons(source.model, tiny_rows(source, UTTERANCES[-1])), source.vocabulary)


def _prefixes(source: Source, curriculum: Curriculum, states: Recent[Any, Tensor] | None = None) -> Prefixes:
    return Prefixes(source.layout, curriculum, 2, 500, states or Recent(10**9))


@pytest.mark.parametrize("most_bytes", [10**9, 30_000, 1])
def test_scores_are_those_of_whole_forward_passes(
    source: Source, bank: Bank, curriculum: Curriculum, most_bytes: int
) -> None:
    assembler = Assembler(source, bank, Shelf(), 0.03)
    prefixes = _prefixes(source, curriculum, Recent(most_bytes))
    plans = random_plans(source, 6)
    for plan in [*plans, *plans[-2:], plans[0]]:
        candidate = assembler.assembled(plan)
        found = prefixes.divergences(candidate, plan.vocabulary, UTTERANCES)
        for score, utterances in zip(found, UTTERANCES, strict=True):
            lessons = curriculum.of(plan.vocabulary)[: 2 * utterances]
            assert score == pytest.approx(divergence(candidate.model, lessons), rel=1e-4, abs=1e-6)
    assert prefixes.states.size_bytes <= max(most_bytes, *(size for _, size in prefixes.states._held.values()))


def test_vocabularies_share_what_was_heard(source: Source, bank: Bank) -> None:
    """Though targets are spelt longer where tokens are gone, and would be batched in another order."""
    rows = tiny_rows(source, UTTERANCES[-1])
    tokens = sorted(
        range(source.vocabulary.rows),
        key=lambda token: len(source.vocabulary.pieces(source.layout.vocabulary_sizes[0])[token]),
    )
    short, long = tokens[len(tokens) // 2], tokens[-1]
    rows = [
        replace(row, target=((long,) * (9 - i // 2) if i // 2 % 2 else (short,) * (10 + i // 2)))
        for i, row in enumerate(rows)
    ]
    curriculum = Curriculum(make_lessons(source.model, rows), source.vocabulary)
    assembler, prefixes = Assembler(source, bank, Shelf(), 0.03), _prefixes(source, curriculum)
    whole = uniform_plan(source.layout, WHOLE)
    trimmed = replace(whole, vocabulary=source.layout.vocabulary_sizes[0])
    for plan in (whole, trimmed, whole):
        candidate = assembler.assembled(plan)
        found = prefixes.divergences(candidate, plan.vocabulary, UTTERANCES)
        for score, utterances in zip(found, UTTERANCES, strict=True):
            wanted = divergence(candidate.model, curriculum.of(plan.vocabulary)[: 2 * utterances])
            assert score == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def _coarse(source: Source, **changed: object) -> Plan:
    rate = Coded(2.0)
    chosen = {
        name: Sublayer(options[-1].kept, rate) if isinstance(options[-1], Sublayer) else rate
        for name, options in choices(source.layout).items()
        if name != "vocabulary"
    }
    return plan_of(source.layout, {**chosen, "vocabulary": source.layout.vocabulary, **changed})


def test_what_a_change_does_not_reach_is_not_computed_again(source: Source, bank: Bank, curriculum: Curriculum) -> None:
    """Layers run for a change in the last layer, in the first, in the lm_head or embedding, and for none."""
    assembler, prefixes = Assembler(source, bank, Shelf(), 0.03), _prefixes(source, curriculum)
    towers = source.layout.towers
    layers = sum(tower.layers for tower in towers)
    last = towers[-1].layers - 1

    def run(plan: Plan) -> float:
        before = prefixes.layers_run
        prefixes.divergence(assembler.assembled(plan), plan.vocabulary, 2)
        return (prefixes.layers_run - before) / len(prefixes._batches[plan.vocabulary, (0, 2)])

    whole = _coarse(source)
    assert run(whole) == layers
    assert run(whole) == 0
    narrowed = replace(whole.decoder[last].ffn, rate=Coded(3.0))
    assert run(_coarse(source, **{f"decoder.{last}.ffn": narrowed})) == 1
    # what is removed behind a sublayer changes its last matrix
    assert run(_coarse(source, **{f"decoder.{last}.ffn": REMOVED})) == 1
    assert run(_coarse(source, embedding=Coded(3.0))) == towers[-1].layers
    first = Sublayer(towers[0].kv_heads - 1, Coded(2.0))
    assert run(_coarse(source, **{f"{towers[0].name}.0.attention": first})) == layers
    assert run(whole) == 0


def test_a_tower_may_be_removed_but_for_one_sublayer(
    source: Source, bank: Bank, curriculum: Curriculum, tmp_path: Path
) -> None:
    assembler, prefixes = Assembler(source, bank, Shelf(tmp_path), 0.03), _prefixes(source, curriculum)
    gone = {
        f"{tower.name}.{index}.{part}": REMOVED
        for tower in source.layout.towers
        for index in range(tower.layers)
        for part in ("attention", "ffn")
        if (index, part) != (0, "attention")
    }
    plan = _coarse(source, **gone)
    candidate = assembler.assembled(plan)
    wanted = divergence(candidate.model, curriculum.of(plan.vocabulary)[: 2 * UTTERANCES[0]])
    assert prefixes.divergence(candidate, plan.vocabulary, UTTERANCES[0]) == pytest.approx(wanted, rel=1e-4)


def test_the_loss_is_that_of_the_references(source: Source, bank: Bank, curriculum: Curriculum) -> None:
    prefixes = _prefixes(source, curriculum)
    candidate = Assembler(source, bank, Shelf(), 0.03).assembled(uniform_plan(source.layout, WHOLE))
    lessons = curriculum.lessons[: 2 * UTTERANCES[1]]
    losses = []
    for lesson in lessons:
        batch = make_batch([lesson.row], pad_token(candidate.model))
        losses.append(float(cross_entropy(target_logits(candidate.model, batch), batch.targets, reduction="sum")))
    expected = sum(losses) / sum(lesson.source_tokens for lesson in lessons)
    *_, found = prefixes.losses(candidate, source.layout.vocabulary, UTTERANCES)
    assert found == pytest.approx(expected, rel=1e-4)


def test_what_is_forgotten_is_computed_again(source: Source, bank: Bank, curriculum: Curriculum) -> None:
    prefixes = _prefixes(source, curriculum)
    candidate = Assembler(source, bank, Shelf(), 0.03).assembled(uniform_plan(source.layout, WHOLE))
    first = prefixes.divergence(candidate, source.layout.vocabulary, 2)
    layers = prefixes.layers_run
    prefixes.divergence(candidate, source.layout.vocabulary, 2)
    assert prefixes.layers_run == layers
    prefixes.forget()
    assert prefixes.divergence(candidate, source.layout.vocabulary, 2) == pytest.approx(first, rel=1e-6)
    assert prefixes.layers_run == 2 * layers
