"""How many recombined utterances finalists heal on best: ``python -m benchmarks.recombining``, an hour a seed

The allocator's plan on sensitivities, in each bin, healed as a finalist is: on the calibrate role alone, and with so
many utterances more for each of it, made of pieces of them (`search.workbench.with_recombined`). A row has chrF2 on the
select role, by which champions are chosen, and the divergence there, by which the state of a training is: what is
closer to the source token by token need not translate better.

Results are kept in studies/benchmark-recombining, one by one; a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console

from benchmarks.publish import publish_bins
from benchmarks.samplers import kept, made_of
from compress.heal import Coach, HealSettings
from search.baselines import least_loss_plan
from search.exam import Exam, mean_chrf
from search.finalists import heal_in_full
from search.opening import Opened, measured_losses, opened, workbench_of
from search.settings import SearchSettings
from search.workbench import Workbench, with_recombined
from space.bins import bin_range
from space.fill import filled
from space.limits import Limits
from space.plan import Heal, Plan

BINS, COUNTS, STEPS = (3, 4), (0, 1, 4), SearchSettings.finalist_heal_steps
STUDY = "benchmark-recombining"
FOLDER = Path("studies") / STUDY


@dataclass(frozen=True)
class Ward:
    """What all healings share."""

    found: Opened
    workbench: Workbench
    exam: Exam

    def plan(self, number: int) -> Plan:
        """The allocator's of a bin, filled up to the bound."""
        source = self.found.source
        limits = Limits(source.layout, bin_range(number, source.layout.source_bytes), source.fixed_bytes)
        losses = measured_losses(self.workbench, limits, Console())
        return filled(least_loss_plan(limits, losses["sensitivities"]), limits)

    def healed(self, number: int, plan: Plan, count: int, seed: int) -> dict[str, Any]:
        """Scores of a bin's plan healed on `count` recombined utterances for each; kept."""
        settings = HealSettings(batch_rows=SearchSettings.heal_rows)
        key = f"{made_of(self.found)}|{settings}|{count} recombined|{seed}|{plan.to_json()}"
        path = FOLDER / f"bin{number}, {count} recombined, {plan.heal.steps} steps, seed {seed}.json"
        return kept(path, key, lambda: self._healed(plan, count, Coach(seed, settings)))

    def _healed(self, plan: Plan, count: int, coach: Coach) -> dict[str, Any]:
        workbench, corpus = self.workbench, self.found.corpus
        if count:
            workbench = with_recombined(workbench, corpus, corpus.languages, count, SearchSettings.seed)
        done = heal_in_full(workbench, plan, coach)
        scores = self.exam.scores(done.model, self.workbench.processor(plan.vocabulary), "select")
        return {
            "chrF": mean_chrf(scores),
            "divergence": self.workbench.unseen_divergence(done.model, plan.vocabulary),
            "steps": done.plan.heal.steps,
        }


def ward(settings: SearchSettings) -> Ward:
    """Loads and measures, or has the bank's measurements; of any bin, which is not looked at."""
    found = opened(settings)
    workbench = workbench_of(settings, found, Console())
    return Ward(found, workbench, Exam(found.corpus, settings.directions, found.data))


def row_of(number: int, count: int, steps: int, healings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What one plan's healings came to, a seed each."""
    chrf = [one["chrF"] for one in healings]
    return {
        "bin": number,
        "recombined": count,
        "steps": steps,
        "seeds": len(healings),
        "chrF2 on select": round(fmean(chrf), 1),
        "its deviation": round(stdev(chrf), 1) if len(chrf) > 1 else "",
        "divergence on select": round(fmean(one["divergence"] for one in healings), 4),
    }


def main() -> None:
    """A row for each bin, count and number of steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bins", type=int, nargs="+", default=BINS)
    parser.add_argument("--recombined", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--steps", type=int, nargs="+", default=[STEPS])
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    at = ward(SearchSettings(study=STUDY, trials=1, bin=BINS[0]))
    plans = {number: at.plan(number) for number in options.bins}
    healings: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for seed, steps, number, count in product(range(options.seeds), options.steps, options.bins, options.recombined):
        plan = replace(plans[number], heal=Heal(steps))
        found = at.healed(number, plan, count, seed)
        healings.setdefault((number, count, steps), []).append(found)
        scores = {name: value for name, value in found.items() if name != "key"}
        print(number, count, "recombined", steps, "steps, seed", seed, scores, flush=True)
    rows = [row_of(*which, found) for which, found in healings.items()]
    publish_bins("recombining", rows, [], ("bin", "recombined", "steps"))


if __name__ == "__main__":
    main()
