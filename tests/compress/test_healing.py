"""Healing and tuning on tiny models: taken up again to the same bits, the best state kept, not a byte more."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compress.coding import CodedMatrix
from compress.gptq import Hessian
from compress.heal import Coach, HealSettings, heal
from compress.pipeline import Bank, Compressed, compress
from compress.resume import TrainingFile
from compress.tune import tune
from compress.units import matrix, stored_values, to_bytes, weight
from models.anatomy import places
from models.loading import Source
from proxies.divergence import divergence
from space.plan import Heal, Plan, uniform_plan
from space.rates import Coded, Packed, Rate
from space.size import most_unit_bytes, unit_bytes

SETTINGS = HealSettings(reference_share=0.0, fewest_through=0)


class StoppedError(Exception):
    """In place of a kill."""


def cut(source: Source, rate: Rate, healing: Heal) -> Plan:
    """Half of the decoder's channels gone."""
    plan = uniform_plan(source.layout, rate, healing)
    half = tuple(replace(x, ffn=replace(x.ffn, kept=x.ffn.kept // 2)) for x in plan.decoder)
    return replace(plan, decoder=half)


def same(one: Compressed, other: Compressed) -> bool:
    return all(map(torch.equal, one.model.state_dict().values(), other.model.state_dict().values()))


@pytest.mark.parametrize(("rank", "stop"), [(0, 3), (0, 8), (8, 5)])
def test_healing_that_was_stopped_goes_on_to_the_same_bits(
    source: Source, bank: Bank, tmp_path: Path, *, stop: int, rank: int
) -> None:
    if rank and source.layout.encoder is not None:
        pytest.skip("one kind of model is enough")
    plan = cut(source, Coded(2.0), Heal(10, rank, 1.0))
    coach = Coach(3, SETTINGS, judge=lambda model: divergence(model, bank.curriculum.lessons))
    whole = compress(source, plan, bank, seed=3, coach=coach)
    file = TrainingFile(tmp_path / "healing", "this", every=2)

    def stopping(step: int) -> None:
        if step == stop:
            raise StoppedError

    with pytest.raises(StoppedError):
        compress(source, plan, bank, seed=3, coach=replace(coach, file=file, progress=stopping))
    seen: list[int] = []
    again = compress(source, plan, bank, seed=3, coach=replace(coach, file=file, progress=seen.append))
    assert seen[0] == stop - stop % 2 + 1 if stop < 5 else seen[0] >= stop
    assert seen[-1] == 10
    assert same(whole, again)
    other = TrainingFile(tmp_path / "healing", "another")
    assert other.stage("before").read() is None


def test_the_state_that_is_judged_best_is_kept(source: Source, bank: Bank) -> None:
    scores = iter([3.0, 1.0, 2.0, 4.0, 5.0])
    kept: list[Tensor] = []
    model = copy.deepcopy(source.model)

    def judge(judged: torch.nn.Module) -> float:
        kept.append(judged.lm_head.weight.detach().clone())  # type: ignore[union-attr,operator]
        return next(scores)

    healed = heal(model, bank.curriculum.lessons, Heal(10), Coach(0, SETTINGS, judge=judge))
    assert torch.equal(healed.lm_head.weight, kept[1])
    assert not torch.equal(kept[1], kept[-1])


def _unaware(hessian: Hessian) -> Hessian:
    return Hessian(torch.eye(hessian.columns)) if hessian.moments.dim() == 2 else hessian


@pytest.mark.parametrize("rate", [Coded(1.6), Packed(2, 64)], ids=str)
@pytest.mark.parametrize("through", [False, True])
def test_tuning_helps_and_takes_no_byte_more(source: Source, bank: Bank, *, rate: Rate, through: bool) -> None:
    plan = uniform_plan(source.layout, rate)
    # error feedback knows the few lessons by heart: without what it knows there is something to bring back
    unaware = {name: tuple(map(_unaware, hessians)) for name, hessians in bank.hessians.items()}
    done = compress(source, plan, replace(bank, hessians=unaware), seed=0)
    lessons = bank.curriculum.lessons
    before = divergence(done.model, lessons)
    weights = [[matrix(module) for module in place.matrices] for place in places(source.model, plan)]
    coach = Coach(0, HealSettings(reference_share=0.0, state_weight=0.0))
    stored = tune(done.model, plan, done.stored, lessons, steps=80, coach=coach, before=weights if through else None)
    assert divergence(done.model, lessons) < before
    assert sum(len(to_bytes(new)) for new in stored) <= sum(unit_bytes(new.unit) for new in stored)
    for old, new, place in zip(done.stored, stored, places(done.model, plan), strict=True):
        assert len(to_bytes(new)) <= most_unit_bytes(new.unit)
        for module, was, now in zip(place.matrices, old.matrices, new.matrices, strict=True):
            assert torch.equal(weight(module).reshape(len(weight(module)), -1), stored_values(now))
            if not through and isinstance(now, CodedMatrix) and isinstance(was, CodedMatrix):
                assert torch.equal(was.symbols, now.symbols)


@pytest.mark.parametrize(("steps", "before"), [(0, 0), (16, 16), (48, 48), (50, 25), (300, 150)])
def test_few_steps_all_come_before_quantisation(steps: int, before: int) -> None:
    assert HealSettings(before_share=0.5, fewest_through=25).before(steps) == before
