"""What healing brings back: ``python -m benchmarks.healing``, an hour on two cores

One plan in each of bins 2, 3 and 4: middle layers removed and the rest at one coded rate that fills the bin; in bin 4,
where that leaves too little to heal, the allocator's plan on measured sensitivities. They heal as finalists do. BLEU on
the report role: unhealed, after healing before quantisation by LoRA and on all weights, and after tuning behind it: of
norms, biases and row scales, or of all weights through the rounding.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from benchmarks.measured import DIRECTIONS, LANGUAGES, bundled
from benchmarks.publish import publish_bins, target
from compress.coding import TOLERANCE
from compress.heal import Coach, HealSettings, heal
from compress.pipeline import quantized
from compress.prune import pruned_model
from compress.tune import tune
from compress.units import matrix
from models.anatomy import places
from models.loading import Source
from search.baselines import least_loss_plan, without_middle_layers
from search.exam import Exam
from search.settings import HEAL_ROWS, RECOMBINED
from search.workbench import Workbench, sensitivities, with_recombined
from space.bins import bin_range
from space.fill import filled
from space.limits import Limits
from space.plan import NO_HEAL, Heal, Plan
from space.rates import CODED_RATES

LORA_RANK = 32


# Middle layers removed from each tower, by the number of the bin.
REMOVED = {2: 2, 3: 3}


def named_plan(number: int, limits: Limits, workbench: Workbench) -> tuple[str, Plan]:
    """The plan of a bin that is healed, filled up to the bound, and what it is."""
    layout = limits.layout
    if number in REMOVED:
        name = f"{REMOVED[number]} layers of each tower removed"
        plan = without_middle_layers(layout, CODED_RATES[0], REMOVED[number], NO_HEAL)
    else:
        name = "the allocator's on sensitivities"
        plan = least_loss_plan(limits, sensitivities(workbench, layout).loss)
    return name, filled(plan, limits)


@dataclass(frozen=True)
class Stage:
    """A model on the way, and the steps it has been trained for."""

    name: str
    steps: int
    model: Any
    seconds: float


@dataclass(frozen=True)
class Course:
    """Everything that carries one plan out in stages."""

    source: Source
    workbench: Workbench
    plan: Plan

    def stages(self, steps: int) -> Iterator[Stage]:
        """Unhealed; by LoRA, then integers fixed; on all weights and through the rounding, at two lengths."""
        yield from self._healed("unhealed", NO_HEAL, after=0, through=False)
        yield from self._healed(
            f"LoRA of rank {LORA_RANK}", Heal(steps // 2, LORA_RANK), after=steps // 2, through=False
        )
        for total in (steps // 3, steps):
            yield from self._healed("all weights", Heal(total // 2), after=total // 2, through=True)

    def _healed(self, name: str, before: Heal, *, after: int, through: bool) -> Iterator[Stage]:
        started, bank, plan = time.monotonic(), self.workbench.bank, self.plan
        coach = Coach(
            0, HealSettings(batch_rows=HEAL_ROWS), judge=lambda x: self.workbench.unseen_divergence(x, plan.vocabulary)
        )
        lessons = bank.curriculum.of(plan.vocabulary)
        with torch.no_grad():
            model, hessians = pruned_model(self.source, plan, bank.hessians, bank.orders, bank.behind)
        model = heal(model, lessons, before, coach.stage("before", 0))
        weights = [[matrix(x).clone() for x in place.matrices] for place in places(model, plan)]
        stored = quantized(self.source, plan, model, hessians, TOLERANCE)
        seconds = time.monotonic() - started
        yield Stage(f"{name}, quantised", before.steps, copy.deepcopy(model), seconds)
        if not after:
            return
        started = time.monotonic()
        coach, unrounded = coach.stage("behind", before.steps), weights if through else None
        tune(model, plan, stored, lessons, steps=after, coach=coach, before=unrounded)
        how = "through the rounding" if through else "norms, biases and row scales"
        yield Stage(f"{name}, then {how}", before.steps + after, model, seconds + time.monotonic() - started)


def main() -> None:
    """A row for each bin and stage; the target is on the share of the lost BLEU that healing brings back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--bins", default="2,3,4", help="results of other bins stay as they are (%(default)s)")
    options = parser.parse_args()
    source, corpus, workbench = bundled()
    workbench = with_recombined(workbench, corpus, LANGUAGES, RECOMBINED, seed=0)
    exam = Exam(corpus, DIRECTIONS, corpus.fingerprint())

    def bleu(model: Any) -> dict[str, float]:
        return {d: scores["bleu"] for d, scores in exam.scores(model, source.processor, "report").items()}

    whole = bleu(source.model)
    rows: list[dict[str, Any]] = []
    targets = []
    for number in map(int, options.bins.split(",")):
        limits = Limits(source.layout, bin_range(number, source.layout.source_bytes), source.fixed_bytes)
        name, plan = named_plan(number, limits, workbench)
        first: dict[str, float] = {}
        back = 0.0
        for stage in Course(source, workbench, plan).stages(options.steps):
            found = bleu(stage.model)
            first = first or found
            back = fmean((found[d] - first[d]) / (whole[d] - first[d]) for d in DIRECTIONS)
            rows.append(
                {
                    "bin": number,
                    "plan": f"{name}, {plan.embedding}",
                    "healing": stage.name,
                    "steps": stage.steps,
                    **{f"{direction} BLEU": round(score, 1) for direction, score in found.items()},
                    "back": round(back, 3),
                    "divergence": round(workbench.divergence(stage.model, plan.vocabulary), 4),
                    "seconds": round(stage.seconds),
                }
            )
            print(rows[-1], flush=True)
        targets.append(target(f"bin {number}: share of the lost BLEU that is back", round(back, 3), 0.6, at_least=True))
    publish_bins("healing", rows, targets)


if __name__ == "__main__":
    main()
