"""What the parts of the pipeline compute of a source on the current device, by name: the same for devices to compare.

One plan has everything in it: a removed layer, a sublayer of fewer heads, one of fewer channels, a trimmed vocabulary,
and each form of storage.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.adapt import AdaptSettings, adapt
from compress.assembly import Assembler
from compress.heal import Coach, HealSettings
from compress.ledger import Ledger
from compress.pipeline import Bank, compress
from compress.resume import TrainingFile
from compress.shelf import Shelf
from compress.stream import make_task, stream
from corpora.roles import Example
from models.inputs import batches
from models.loading import Source, load_source, pad_token
from proxies.deviation import Deviations, OptionErrors, gradient_error, squared_gradients, weight_error
from proxies.divergence import divergence
from proxies.prefixes import Prefixes
from proxies.tryout import Tryout
from scoring.translate import translate
from space.plan import REMOVED, Heal, Plan, Sublayer, uniform_plan
from space.rates import WHOLE, Coded, Packed
from tests.tiny import tiny_rows

# One step before quantisation and one through it.
_HEALING = HealSettings(fewest_through=1)


def mixed_plan(source: Source) -> Plan:
    """The plan that has everything in it, of a source with three layers."""
    plan = uniform_plan(source.layout, WHOLE)
    first, second, third = plan.decoder
    return replace(
        plan,
        vocabulary=source.layout.vocabulary_sizes[0],
        decoder=(
            replace(first, ffn=Sublayer(first.ffn.kept // 2, Coded(2.0))),
            replace(second, attention=Sublayer(second.attention.kept - 1, Packed(4, 64))),
            replace(third, attention=REMOVED, ffn=REMOVED),
        ),
    )


def scores(source: Source, bank: Bank, plan: Plan) -> dict[str, float]:
    """What every proxy says of the plan."""
    assembler, lessons = Assembler(source, bank, Shelf(), 0.03), bank.curriculum.of(plan.vocabulary)
    candidate = assembler.assembled(plan)
    prefixes = Prefixes(source.layout, bank.curriculum, 2)
    rows = batches([lesson.row for lesson in bank.curriculum.lessons[:2]], 2, pad_token(source.model))
    squares = squared_gradients(source, rows)
    deviations, tryout = Deviations(source, bank), Tryout(plan, candidate)
    return {
        "whole": divergence(candidate.model, lessons),
        "prefixes": [*prefixes.divergences(candidate, plan.vocabulary, (1, 2))][1],
        "from prefixes": [*prefixes.divergences(candidate, plan.vocabulary, (1, 2))][1],
        "loss": next(prefixes.losses(candidate, plan.vocabulary, (1,))),
        "weight error": OptionErrors(deviations, weight_error)(tryout),
        "gradient error": OptionErrors(deviations, gradient_error(lambda: squares))(tryout),
    }


def healed(source: Source, bank: Bank, plan: Plan, folder: Path, rank: int) -> float:
    """Divergence after two steps, the states of which are kept, and taken up again, in a folder."""
    coach = Coach(3, _HEALING, file=TrainingFile(folder / f"healing-{rank}", "any", every=1))
    lessons = bank.curriculum.of(plan.vocabulary)
    for _ in range(2):
        model = compress(source, replace(plan, heal=Heal(2, rank, 1.0)), bank, seed=3, coach=coach).model
    return divergence(model, lessons)


def said(source: Source) -> list[str]:
    """What the source makes of one utterance."""
    noise = torch.randn(8000, generator=torch.Generator().manual_seed(0)).numpy() * 0.1
    utterance = noise if source.layout.encoder is not None else "a small model"
    return translate(source.model, source.processor, [Example("a", "a", utterance, {})], "de")


def adapted(folder: Path, rows: Any) -> dict[int, float]:
    """Losses before and after a step of training."""
    settings = AdaptSettings("lora", steps=1, rank=4, peak_rate=1e-3, batch_rows=2, seed=0)
    return adapt(load_source(folder).model, rows, rows, settings)[1].losses


def streamed(source: Source, plan: Plan, folder: Path) -> tuple[tuple[tuple[str, int], ...], Tensor]:
    """Bytes of the units of a plan carried out a layer at a time, and the activations behind the last one."""
    rows = tiny_rows(source, 1)
    task = make_task(source.folder, plan, layout=source.layout, vocabulary=source.vocabulary, groups=[rows])
    folder.mkdir()
    ledger = stream(task, Ledger(folder, "any"))
    state = next(iter(ledger.states()))
    assert state is not None
    return ledger.done, state
