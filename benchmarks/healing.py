"""What healing brings back: ``python -m benchmarks.healing``, half an hour on two cores

One plan in each of bins 2, 3 and 4: middle layers removed, the rest at one coded rate that fills the bin. BLEU on the
report role before, after the steps before quantisation, and after those through it; the steps of finalists by default.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from statistics import fmean
from typing import Any

from benchmarks.measured import DIRECTIONS, bundled
from benchmarks.publish import publish, target
from compress.heal import Coach, HealSettings
from compress.pipeline import compress
from search.baselines import without_middle_layers
from search.finalists import Exam
from space.bins import bin_range
from space.fill import filled
from space.limits import Limits
from space.plan import NO_HEAL, Heal, Plan
from space.rates import CODED_RATES

# Middle layers removed from each tower in each bin.
REMOVED = {2: 2, 3: 3, 4: 4}


def main() -> None:
    """A row for each bin and stage; the target is on the share of the lost BLEU that healing brings back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rank", type=int, default=0)
    options = parser.parse_args()
    source, corpus, workbench = bundled()
    exam = Exam(corpus, DIRECTIONS, corpus.fingerprint())

    def bleu(model: Any) -> dict[str, float]:
        return {d: scores["bleu"] for d, scores in exam.scores(model, source.processor, "report").items()}

    def carried_out(plan: Plan, heal: Heal, before_share: float) -> Any:
        def judge(model: Any) -> float:
            return workbench.unseen_divergence(model, plan.vocabulary)

        coach = Coach(0, HealSettings(before_share=before_share), judge=judge)
        return compress(source, replace(plan, heal=heal), workbench.bank, seed=0, coach=coach).model

    whole = bleu(source.model)
    rows: list[dict[str, Any]] = []
    targets = []
    for number, removed in REMOVED.items():
        limits = Limits(source.layout, bin_range(number, source.layout.source_bytes), source.fixed_bytes)
        plan = filled(without_middle_layers(source.layout, CODED_RATES[0], removed, NO_HEAL), limits)
        stages = {
            "before": (NO_HEAL, 0.5),
            "half, before quantisation": (Heal(options.steps // 2, options.rank), 1.0),
            "all, half of it through": (Heal(options.steps, options.rank), 0.5),
        }
        found = {}
        for stage, (heal, share) in stages.items():
            started = time.monotonic()
            model = carried_out(plan, heal, share)
            found[stage] = bleu(model)
            rows.append(
                {
                    "bin": number,
                    "plan": f"{removed} layers of each tower removed, {plan.embedding}",
                    "healing": stage,
                    "steps": heal.steps,
                    **{f"{direction} BLEU": round(score, 1) for direction, score in found[stage].items()},
                    "divergence": round(workbench.divergence(model, plan.vocabulary), 4),
                    "seconds": round(time.monotonic() - started),
                }
            )
        first, *_, last = found.values()
        back = fmean((last[d] - first[d]) / (whole[d] - first[d]) for d in DIRECTIONS)
        targets.append(target(f"bin {number}: share of the lost BLEU that is back", round(back, 3), 0.6, at_least=True))
    publish("healing", rows, targets)


if __name__ == "__main__":
    main()
