"""What rungs save and what they cost: ``python -m benchmarks.rungs --seeds 0 1``, some four hours a seed on a core

A study of bin 3 for each seed, in which every trial goes through every rung, is healed for its steps and translates;
the sampler is the default one. Then rungs decide about the very same trials, in their order, at several shares of
survival: which would have been ended, how many seconds that would have saved, and how much of the front would be left.
The front's hypervolume is over loss and bytes, up to the loss of the best simple baseline and twice the bound. A loss
is the settled one (100 - chrF, by all healings of the study: decision 0026).

The best of many draws is better than the best of a few, whatever they are draws of. So the five best that rungs leave
are healed anew, each with seeds of its own. How far their mean is ahead of the best simple baseline, over how far that
of all trials is, says what rungs cost and has the target: plans fill the bound, so that is the hypervolume of a front
that is this mean.

Trials are healed for half the steps of a search's: rungs save more where healing is longer. Studies are kept as
studies/benchmark-rungs.log, beside the bank of searches; the same command takes a run up that was killed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from benchmarks.publish import publish_seeds, target
from benchmarks.recipe import Recipe
from search.baselines import BASELINE, WHOLE_KINDS
from search.gates import SURVIVAL, Gate
from search.opening import Opened, measured_losses, opened, workbench_of
from search.rungs import DIVERGENCES, SECONDS, goes_on, settled, standing_of, standings
from search.settings import SearchSettings
from search.workbench import Workbench
from space.genes import decode
from space.limits import Limits

BIN, JOURNAL = 3, Path("studies/benchmark-rungs.log")
ALL = (1.0, 1.0)
SHARES = (ALL, (1, 1 / 4), (1 / 2, 1 / 4), (1, 1 / 6), (1 / 2, 1 / 6), SURVIVAL, (1, 1 / 10))
# The best that are healed anew.
BEST = 5
_FAR_SEED = 32_452_843


@dataclass(frozen=True)
class Replayed:
    """Trials that go through every rung, the seconds of all trials, and how many are healed."""

    complete: tuple[FrozenTrial, ...]
    seconds: float
    healed: int


def replayed(trials: Sequence[FrozenTrial], limits: Limits, survival: Sequence[float]) -> Replayed:
    """What rungs make of trials that all went through."""
    told: list[FrozenTrial] = []
    seconds = 0.0
    for trial in trials:
        whole, reached = any(kind in trial.user_attrs for kind in WHOLE_KINDS), len(survival)
        earlier = list(standings(told).values())
        for rung in () if whole else range(len(survival)):
            mine = standing_of(ended := _ended(trial, rung))
            assert mine is not None
            if not goes_on(mine, earlier, limits.size_range.bound_bytes, survival):
                told.append(ended)
                reached = rung
                break
        else:
            told.append(trial)
        seconds += trial.user_attrs[SECONDS][reached]
    complete = [trial for trial in told if trial.state == TrialState.COMPLETE]
    return Replayed(tuple(complete), seconds, sum(trial.params["heal_steps"] > 0 for trial in complete))


def _ended(trial: FrozenTrial, rung: int) -> FrozenTrial:
    """A complete trial as it were if it had ended at a rung."""
    found = copy(trial)
    found.state = TrialState.PRUNED
    found.user_attrs = {**trial.user_attrs, DIVERGENCES: trial.user_attrs[DIVERGENCES][: rung + 1]}
    return found


def hypervolume(trials: Sequence[FrozenTrial], reference: tuple[float, float]) -> float:
    """The area that points (loss, bytes) dominate, up to the reference point."""
    area, lowest = 0.0, reference[1]
    for loss, size_bytes in sorted((trial.values[0], trial.values[1]) for trial in trials):
        if loss < reference[0] and size_bytes < lowest:
            area += (reference[0] - loss) * (lowest - size_bytes)
            lowest = size_bytes
    return area


def study_of(inputs: Opened, workbench: Workbench, options: argparse.Namespace, seed: int) -> optuna.Study:
    """That of one seed, made or gone on with; all of its trials are complete."""
    losses = measured_losses(workbench, inputs.limits, Console())
    recipe = Recipe(options.sampler, seed, options.trials, options.heal_steps, Gate(survival=ALL))
    return recipe.run(inputs.limits, losses, workbench, JOURNAL)


class Anew:
    """What plans of a study's trials lose when they are healed so many more times; the study keeps what was found."""

    def __init__(self, study: optuna.Study, workbench: Workbench, times: int) -> None:
        self._study, self._workbench, self._times = study, workbench, times

    def __call__(self, trial: FrozenTrial) -> float:
        """The mean loss of the new healings."""
        return fmean(self._loss(trial, i) for i in range(1, self._times + 1))

    def _loss(self, trial: FrozenTrial, healing: int) -> float:
        name = f"trial {trial.number}, healing {healing}"
        if name not in self._study.user_attrs:
            plan = decode(trial.params, self._workbench.source.layout)
            candidate = self._workbench.assembler.assembled(plan)
            loss, _ = self._workbench.worth(plan, candidate, (trial.user_attrs["seed"] + healing * _FAR_SEED) % 2**32)
            self._study.set_user_attr(name, loss)
            print(name, round(trial.values[0], 2), round(loss, 2), flush=True)
        kept: float = self._study.user_attrs[name]
        return kept


def rows_of(
    trials: Sequence[FrozenTrial], limits: Limits, seed: int, anew: Callable[[FrozenTrial], float]
) -> list[dict[str, Any]]:
    """A row for each pair of shares."""
    worth = {trial.number: trial for trial in settled(trials)}
    simple = min(trial.values[0] for trial in worth.values() if BASELINE in trial.user_attrs)
    if simple <= min(trial.values[0] for trial in worth.values()):
        raise SystemExit(f"seed {seed}: no trial is better than the best simple baseline yet; take more --trials")
    reference = simple, 2.0 * limits.size_range.bound_bytes
    found = {shares: replayed(trials, limits, shares) for shares in SHARES}
    left = {
        shares: sorted((worth[trial.number] for trial in one.complete), key=lambda trial: trial.values[0])
        for shares, one in found.items()
    }
    means_anew = {shares: fmean(anew(trial) for trial in some[:BEST]) for shares, some in left.items()}
    volume, gain = hypervolume(left[ALL], reference), simple - means_anew[ALL]
    return [
        {
            "seed": seed,
            "go on": ", ".join(f"{share:.2f}" for share in shares),
            "trials to the end": len(left[shares]),
            "healed": found[shares].healed,
            "best loss": round(left[shares][0].values[0], 2),
            "mean of the best": round(fmean(trial.values[0] for trial in left[shares][:BEST]), 2),
            "hypervolume": round(hypervolume(left[shares], reference) / volume, 4),
            "mean anew": round(means_anew[shares], 2),
            "gain anew": round((simple - means_anew[shares]) / gain, 4),
            "seconds": round(found[shares].seconds / found[ALL].seconds, 3),
        }
        for shares in SHARES
    ]


def main() -> None:
    """A table of all seeds, those of earlier runs among them; targets are on the default's shares, for each seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--sampler", default="policy")
    parser.add_argument("--heal-steps", type=int, default=25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--anew", type=int, default=2, help="healings of each of the best plans")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = SearchSettings(study="benchmark-rungs", trials=options.trials, bin=BIN)
    inputs = opened(settings)
    workbench = workbench_of(settings, inputs, Console())
    rows: list[dict[str, Any]] = []
    targets = []
    for seed in options.seeds:
        study = study_of(inputs, workbench, options, seed)
        complete = study.get_trials(states=(TrialState.COMPLETE,))
        of_seed = rows_of(complete, inputs.limits, seed, Anew(study, workbench, options.anew))
        rows += of_seed
        chosen = of_seed[SHARES.index(SURVIVAL)]
        targets += [
            target(f"seed {seed}, seconds with rungs over those without", chosen["seconds"], 1 / 3, at_least=False),
            target(f"seed {seed}, gain over the baseline, healed anew", chosen["gain anew"], 0.99, at_least=True),
        ]
    publish_seeds("rungs", rows, targets)


if __name__ == "__main__":
    main()
