"""Searches by different samplers, ``python -m benchmarks.searches --bins 4``: an hour a search of 100 trials on a core

Each sampler has a study as a search has it: rungs, healing, translation, losses that are settled. The best plan after
so many trials, by what was known of them then, is healed anew with other seeds, as it says how, and loses so much on
the mean (100 - chrF of the utterances that trials translate): a healing that was the luckiest of many counts for
nothing there. A row has that mean of each study and their median. `benchmarks.samplers` compares many more runs, by
what plans are worth unhealed.

Studies are kept as studies/benchmark-searches.log; the same command takes one up that was killed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchmarks.publish import publish_bins, target
from benchmarks.recipe import Recipe
from benchmarks.samplers import AT, DEFAULT, Bench, bench, healed_loss
from search.rungs import least, settled
from search.samplers import ALLOCATOR, SWAP
from search.settings import SearchSettings
from space.genes import decode

JOURNAL = Path("studies/benchmark-searches.log")
SAMPLERS = (DEFAULT, ALLOCATOR, SWAP, "nsga2")
# Rows of other numbers of trials, steps or healings are others.
BY = ("bin", "sampler", "trials", "heal steps", "healings anew")
# Seeds of healings anew, which no trial of a study of a few hundred has.
_ANEW = 900_001


def marks(trials: int) -> list[int]:
    """After how many trials the best plan is looked at."""
    return [*(at for at in AT if at < trials), trials]


def best_after(trials: Sequence[FrozenTrial], at: int) -> FrozenTrial:
    """Of the first trials the complete one with the least loss, settled by what was known of them then."""
    first = [one for one in trials[:at] if one.state == TrialState.COMPLETE]
    return least(settled(first))


def losses_anew(at_work: Bench, trials: Sequence[FrozenTrial], times: int) -> list[float]:
    """What the best plan at each of the `marks` loses on the mean when it is healed so many times more."""
    found = []
    for at in marks(len(trials)):
        plan = decode(best_after(trials, at).params, at_work.limits.layout)
        found.append(fmean(healed_loss(at_work, plan, _ANEW + i) for i in range(times)))
    return found


def row_of(recipe: Recipe, number: int, times: int, runs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Of a sampler: at each mark the median over its studies, and what it is of."""
    told = {
        f"after {at}": f"{median(column):.1f} ({', '.join(f'{one:.1f}' for one in column)})"
        for at, column in zip(marks(recipe.trials), zip(*runs, strict=True), strict=True)
    }
    of = dict(zip(BY, (number, recipe.sampler, recipe.trials, recipe.heal_steps, times), strict=True))
    return {**of, "seeds": len(runs), **told}


def targets_of(number: int, runs: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """How the default compares after all trials."""
    last = {name: median(run[-1] for run in of_sampler) for name, of_sampler in runs.items()}
    others = [loss for name, loss in last.items() if name != DEFAULT]
    if DEFAULT not in last or not others:
        return []
    name = f"bin {number}, loss of {DEFAULT}'s plan over that of the next best"
    return [target(name, last[DEFAULT] / min(others), 1.0, at_least=False)]


def main() -> None:
    """Seed after seed, sampler after sampler."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bins", type=int, nargs="+", default=[4])
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--heal-steps", type=int, default=SearchSettings.trial_heal_steps)
    parser.add_argument("--anew", type=int, default=2, help="healings of each best plan")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows: list[dict[str, Any]] = []
    targets: list[dict[str, Any]] = []
    for number in options.bins:
        at_work = bench(number)
        made_of = f"bin {number}|{at_work.made_of}"
        recipes = {
            name: Recipe(name, 0, options.trials, options.heal_steps, made_of=made_of) for name in options.samplers
        }
        runs: dict[str, list[list[float]]] = {name: [] for name in recipes}
        for seed, name in product(range(options.seeds), recipes):
            recipe = replace(recipes[name], seed=seed)
            trials = recipe.run(at_work.limits, at_work.losses, at_work.workbench, JOURNAL).get_trials()
            runs[name].append(losses_anew(at_work, trials, options.anew))
            print(number, name, seed, [round(loss, 2) for loss in runs[name][-1]], flush=True)
        rows += [row_of(recipes[name], number, options.anew, of_sampler) for name, of_sampler in runs.items()]
        targets += targets_of(number, runs)
    publish_bins("searches", rows, targets, BY)


if __name__ == "__main__":
    main()
