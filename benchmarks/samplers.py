"""Samplers side by side, ``python -m benchmarks.samplers``: some three minutes a sampler, seed and bin on one core

Every sampler has the same trials of the same study, the first of which are a study's own (baselines, allocator's plans,
grid); the objective is the divergence on the first rung's utterances, unhealed, and bytes. A row has the median and the
quartiles over seeds of the best divergence so far, of the best plan's divergence on the select role, on which nothing
was searched, and of the seconds of a proposal. `tpe raw` is Optuna's TPE with the bound as a constraint: what is over
it is told to be, and not scored. Beside them is the best plan that any run ever found, those of `--best-known` trials,
and how far the median is from it.

Runs are kept in studies/benchmark-samplers; a run that was killed is made again, finished ones stay.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial
from rich.console import Console

from benchmarks.publish import publish_bins, target
from search.baselines import starts
from search.loop import suggest
from search.opening import measured_losses, opened, workbench_of
from search.rungs import BYTES, DIVERGENCES, REMOVED
from search.samplers import sampler_named
from search.settings import SearchSettings
from search.workbench import Workbench
from space.files import write_whole
from space.genes import encode
from space.limits import Limits
from space.plan import NO_HEAL, Plan, removed_sublayers
from space.policy import Loss

BINS, SEEDS, TRIALS = (2, 3, 4), 5, 200
RAW = "tpe raw"
DEFAULT = SearchSettings.sampler
SAMPLERS = (DEFAULT, "policy-gp", "swap", "tpe", RAW, "nsga2", "random")
AT = (20, 50, 100, 200)
BEST_KNOWN = "best known"
FOLDER = Path("studies/benchmark-samplers")
_OVER = "over the bound"


@dataclass(frozen=True)
class Bench:
    """What all runs in a bin share."""

    number: int
    limits: Limits
    losses: dict[str, Loss]
    workbench: Workbench

    def divergence(self, plan: Plan) -> float:
        """On the utterances of the first rung."""
        return self.workbench.prefixes.divergence(self.workbench.assembler.assembled(plan), plan.vocabulary, 0)

    def unseen(self, plan: Plan) -> float:
        """On the select role."""
        return self.workbench.unseen_divergence(self.workbench.assembler.assembled(plan).model, plan.vocabulary)

    def run(self, name: str, seed: int, trials: int) -> dict[str, Any]:
        """The divergence of every trial (None over the bound), seconds of proposals, and the best plan's on select."""
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=self._sampler(name, seed))
        for start in starts(self.limits, self.losses, NO_HEAL, trials):
            study.enqueue_trial(encode(start.plan, self.limits.layout))
        found: list[float | None] = []
        seconds = []
        best: tuple[float, Plan] | None = None
        for _ in range(trials):
            begun = time.monotonic()
            trial = study.ask()
            plan = replace(suggest(trial, self.limits.layout, 0), heal=NO_HEAL)
            asked = time.monotonic()
            size_bytes = self.limits.bytes_of(plan)
            over = size_bytes - self.limits.size_range.bound_bytes + 1
            divergence = self.divergence(plan) if over <= 0 else None
            found.append(divergence)
            if divergence is not None and (best is None or divergence < best[0]):
                best = divergence, plan
            trial.set_user_attr(DIVERGENCES, [divergence])
            trial.set_user_attr(BYTES, size_bytes)
            trial.set_user_attr(REMOVED, removed_sublayers(plan))
            trial.set_user_attr(_OVER, over)
            scored = time.monotonic()
            study.tell(trial, [100.0 if divergence is None else divergence, size_bytes])
            seconds.append(asked - begun + time.monotonic() - scored)
        assert best is not None, "the first trials are inside of the bound"
        return {"divergences": found, "seconds": seconds, "select": self.unseen(best[1])}

    def _sampler(self, name: str, seed: int) -> BaseSampler:
        if name == RAW:

            def over(trial: FrozenTrial) -> Sequence[float]:
                return (trial.user_attrs[_OVER],)

            return TPESampler(seed=seed, multivariate=True, n_startup_trials=20, constraints_func=over)
        return sampler_named(name, self.limits, self.losses, seed, 0)


def bench(number: int) -> Bench:
    """Loads and measures, or has the bank's measurements."""
    settings, console = SearchSettings(study="benchmark-samplers", trials=TRIALS, bin=number), Console()
    inputs = opened(settings)
    workbench = workbench_of(settings, inputs, console)
    return Bench(number, inputs.limits, measured_losses(workbench, inputs.limits, console), workbench)


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a run found: from its file, or now."""
    if not path.exists():
        write_whole(path, json.dumps(make()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def bests(run: dict[str, Any]) -> list[float]:
    """The best divergence so far at each number of trials; of fewer trials the last."""
    so_far = np.minimum.accumulate([np.inf if one is None else one for one in run["divergences"]])
    return [float(so_far[min(at, len(so_far)) - 1]) for at in AT]


def runs_of(
    at_work: Bench, samplers: Sequence[str], seeds: int, trials: int, best_known: int
) -> dict[str, list[dict[str, Any]]]:
    """The runs of every sampler, seed after seed, and one of `best_known` trials of the default, if any."""
    asked = [(name, name, seed, trials) for seed, name in product(range(seeds), samplers)]
    asked += [(BEST_KNOWN, DEFAULT, seeds, best_known)] if best_known else []
    runs: dict[str, list[dict[str, Any]]] = {}
    for called, name, seed, count in asked:
        path = FOLDER / f"bin{at_work.number}, {called}, seed {seed}, {count} trials.json"
        run = kept(path, partial(at_work.run, name, seed, count))
        runs.setdefault(called, []).append(run)
        print(at_work.number, called, seed, bests(run), flush=True)
    return runs


def quartiles(values: Sequence[float]) -> str:
    """The median, and the first and third quartile."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.4f} ({low:.4f} to {high:.4f})"


def rows_of(number: int, runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each sampler."""
    known = min(min(bests(run)) for of_sampler in runs.values() for run in of_sampler)
    rows = []
    for name, of_sampler in runs.items():
        columns = list(zip(*map(bests, of_sampler), strict=True))
        rows.append(
            {
                "bin": number,
                "sampler": name,
                "seeds": len(of_sampler),
                **{f"{at} trials": quartiles(column) for at, column in zip(AT, columns, strict=True)},
                "from the best known": round(float(np.median(columns[-1])) - known, 4),
                "on select": quartiles([run["select"] for run in of_sampler]),
                "seconds a proposal": round(float(np.median([run["seconds"] for run in of_sampler])), 3),
            }
        )
    return rows


def targets_of(number: int, runs: dict[str, list[dict[str, Any]]], rows: Sequence[dict[str, Any]]) -> list[Any]:
    """How the default compares."""
    gaps = {row["sampler"]: row["from the best known"] for row in rows if row["sampler"] != BEST_KNOWN}
    found = []
    if DEFAULT in gaps and len(gaps) > 1:
        others = min(gap for name, gap in gaps.items() if name != DEFAULT)
        name = f"bin {number}, {DEFAULT}'s gap to the best known over the next best sampler's"
        found.append(target(name, gaps[DEFAULT] / max(others, 1e-9), 0.5, at_least=False))
    if DEFAULT in gaps and "swap" in gaps:
        at_50, at_200 = (
            float(np.median([bests(run)[AT.index(at)] for run in runs[name]]))
            for name, at in ((DEFAULT, 50), ("swap", 200))
        )
        name = f"bin {number}, {DEFAULT} at 50 trials over swap at 200"
        found.append(target(name, at_50 / at_200, 1.0, at_least=False))
    return found


def main() -> None:
    """One bin after the other, seed after seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bins", type=int, nargs="+", default=BINS)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--best-known", type=int, default=0, help="trials of one more, longer run of the default")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows: list[dict[str, Any]] = []
    targets: list[Any] = []
    for number in options.bins:
        runs = runs_of(bench(number), options.samplers, options.seeds, options.trials, options.best_known)
        of_bin = rows_of(number, runs)
        rows += of_bin
        targets += targets_of(number, runs, of_bin)
    publish_bins("samplers", rows, targets)


if __name__ == "__main__":
    main()
