"""Searches by different samplers, ``python -m benchmarks.searches --bins 4``: an hour a search of 100 trials on a core

Each sampler has a study as a search has it: rungs, healing, translation, losses that are settled. The best plan after
so many trials, by what was known of them then, is healed anew with other seeds; what it loses on the mean (100 - chrF
of the utterances that trials translate) has no luck in it of having been the best of many draws. A row has that mean
of each study and their median. `benchmarks.samplers` compares many more runs, by what plans are worth unhealed.

Studies are kept as studies/benchmark-searches.log; the same command takes one up that was killed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchmarks.publish import publish_bins, target
from benchmarks.samplers import AT, DEFAULT, Bench, bench, healed_loss
from benchmarks.studied import Studied
from search.rungs import settled
from search.samplers import ALLOCATOR, SWAP
from search.settings import SearchSettings
from space.genes import decode

JOURNAL = Path("studies/benchmark-searches.log")
SAMPLERS = (DEFAULT, ALLOCATOR, SWAP, "nsga2")
# Seeds of healings anew, which no trial of a study of a few hundred has.
_ANEW = 900_001


def best_after(trials: Sequence[FrozenTrial], at: int) -> FrozenTrial:
    """Of the first trials the complete one with the least loss, settled by what was known of them then."""
    first = [one for one in trials[:at] if one.state == TrialState.COMPLETE]
    return min(settled(first), key=lambda trial: (trial.values[0], trial.number))


def losses_anew(at_work: Bench, study: Studied, trials: Sequence[FrozenTrial], times: int) -> list[float]:
    """What the best plan after so many trials loses, healed so many times more; of each number of trials there are."""
    found = []
    for at in (at for at in AT if at <= study.trials):
        plan = decode(best_after(trials, at).params, at_work.limits.layout)
        losses = [healed_loss(at_work, plan.to_json(), _ANEW + i, study.heal_steps) for i in range(times)]
        found.append(fmean(losses))
    return found


def searched(at_work: Bench, study: Studied) -> list[FrozenTrial]:
    """The trials of a study, by number."""
    JOURNAL.parent.mkdir(exist_ok=True)
    name = f"bin {at_work.number}, {study}|{at_work.made_of}"
    return study.made(at_work.limits, at_work.losses, at_work.workbench, JOURNAL, name).get_trials()[: study.trials]


def row_of(number: int, name: str, runs: Sequence[Sequence[float]], healed: Sequence[int]) -> dict[str, Any]:
    """Of a sampler: medians over its studies, each study's, and how many trials were healed."""
    columns = list(zip(*runs, strict=True))
    told = {
        f"{at} trials": f"{median(column):.1f} ({', '.join(f'{one:.1f}' for one in column)})"
        for at, column in zip(AT, columns, strict=False)
    }
    return {"bin": number, "sampler": name, "seeds": len(runs), **told, "healed": ", ".join(map(str, healed))}


def targets_of(number: int, runs: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """How the default compares after all trials."""
    last = {name: median(run[-1] for run in of_sampler) for name, of_sampler in runs.items()}
    others = [loss for name, loss in last.items() if name != DEFAULT]
    if DEFAULT not in last or not others:
        return []
    return [
        target(f"bin {number}, {DEFAULT}'s loss over the next best's", last[DEFAULT] / min(others), 1.0, at_least=False)
    ]


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
        runs: dict[str, list[list[float]]] = {name: [] for name in options.samplers}
        healed: dict[str, list[int]] = {name: [] for name in options.samplers}
        for seed, name in product(range(options.seeds), options.samplers):
            study = Studied(name, seed, options.trials, options.heal_steps)
            trials = searched(at_work, study)
            runs[name].append(losses_anew(at_work, study, trials, options.anew))
            healed[name].append(sum(trial.state == TrialState.COMPLETE for trial in trials))
            print(number, name, seed, [round(loss, 2) for loss in runs[name][-1]], flush=True)
        rows += [row_of(number, name, runs[name], healed[name]) for name in runs]
        targets += targets_of(number, runs)
    publish_bins("searches", rows, targets, ("bin", "sampler"))


if __name__ == "__main__":
    main()
