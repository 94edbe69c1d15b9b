"""One study over all sizes against five of one bin, ``python -m benchmarks.pareto``: about four minutes a seed

Both have the same number of trials and the same sampler; the one objective is the divergence on the first rung's
utterances, unhealed. What is compared is the hypervolume under the front of all trials: over the logarithms of bytes,
from the bound of the smallest bin to that of the largest, and of the divergence, from 10 nats a token down to 0.001,
below which nothing is lost that matters. Runs are kept in benchmarks/runs/pareto, a part of the project; finished ones
of this version are only read.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from rich.console import Console

from benchmarks.publish import RUNS, publish, target
from benchmarks.samplers import Bench, kept, made_of, quartiles, short
from search.baselines import Start, few_starts, starts
from search.loop import limits_of, suggest
from search.opening import Opened, measured_losses, opened, workbench_of
from search.pareto import sampler_over
from search.rungs import BYTES, DIVERGENCES, REMOVED
from search.samplers import begins_with_grid
from search.settings import SearchSettings
from space.bins import BIN_NUMBERS, bin_range
from space.genes import encode
from space.limits import Limits
from space.plan import NO_HEAL, removed_sublayers

FOLDER = RUNS / "pareto"
ONE, FIVE = "one study over all sizes", "five studies of one bin"
# Divergences are told apart between these (nats a token).
_BEST, _WORST = 1e-3, 10.0


def searched(bench: Bench, ranges: Sequence[Limits], first: Sequence[Start], seed: int, trials: int) -> list[list[Any]]:
    """Range, bytes and divergence of every trial of a study."""
    layout = ranges[0].layout
    study = optuna.create_study(sampler=sampler_over(ranges, SearchSettings.sampler, bench.losses, seed, 0))
    for start in first[:trials]:
        study.enqueue_trial(encode(start.plan, layout), user_attrs=dict(start.kept))
    found: list[list[Any]] = []
    for _ in range(trials):
        trial = study.ask()
        plan = replace(suggest(trial, layout, 0), heal=NO_HEAL)
        limits = limits_of(study.get_trials(deepcopy=False)[trial.number].user_attrs, ranges)
        assert limits.hold(plan)
        divergence = bench.divergence(plan)
        found.append([limits.size_range.name, limits.bytes_of(plan), short(divergence)])
        trial.set_user_attr(DIVERGENCES, [divergence])
        trial.set_user_attr(BYTES, limits.bytes_of(plan))
        trial.set_user_attr(REMOVED, removed_sublayers(plan))
        study.tell(trial, divergence)
    return found


def one(bench: Bench, opening: Opened, seed: int, trials: int) -> list[list[Any]]:
    """All sizes in one study."""
    ranges, share = opening.ranges, trials // len(opening.ranges)
    first = [start for limits in ranges for start in few_starts(limits, bench.losses, NO_HEAL, share)]
    return searched(bench, ranges, first, seed, trials)


def five(bench: Bench, opening: Opened, seed: int, trials: int) -> list[list[Any]]:
    """A study for each bin."""
    found, share = [], trials // len(BIN_NUMBERS)
    for number in BIN_NUMBERS:
        limits = replace(bench.limits, size_range=bin_range(number, bench.limits.layout.source_bytes))
        first = starts(limits, bench.losses, NO_HEAL, share, grid=begins_with_grid(SearchSettings.sampler))
        found += searched(bench, [limits], first, seed, share)
    return found


def volume(points: Sequence[Sequence[Any]], least_bytes: int, most_bytes: int) -> float:
    """Of what points (range, bytes, divergence) dominate, in natural logarithms."""
    total, best, reached = 0.0, math.log(_WORST), math.log(least_bytes)
    for _, size_bytes, divergence in sorted(points, key=lambda point: point[1]):
        at = max(reached, math.log(min(size_bytes, most_bytes)))
        total += (at - reached) * (math.log(_WORST) - best)
        reached, best = at, min(best, math.log(max(_BEST, divergence)))
    return total + (math.log(most_bytes) - reached) * (math.log(_WORST) - best)


def rows_of(runs: dict[str, list[list[list[Any]]]], edges: tuple[int, int]) -> list[dict[str, Any]]:
    """A row for each way: hypervolume, and the best divergence in each bin."""
    rows = []
    for name, of_seeds in runs.items():
        bins = {}
        for number in BIN_NUMBERS:
            of_bin = [[point[2] for point in run if point[0] == f"bin {number}"] for run in of_seeds]
            bins[f"best in bin {number}"] = quartiles([min(found, default=math.inf) for found in of_bin])
        volumes = [volume(run, *edges) for run in of_seeds]
        rows.append({"": name, "seeds": len(of_seeds), "hypervolume": quartiles(volumes), **bins})
    return rows


def main() -> None:
    """Seed after seed, both ways."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=200)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings, console = SearchSettings(study="benchmark-pareto", trials=options.trials, pareto=True), Console()
    opening = opened(settings)
    workbench = workbench_of(settings, opening, console)
    losses = measured_losses(workbench, opening.ranges[-1], console)
    bench = Bench(0, opening.ranges[-1], losses, workbench, made_of(opening))
    bounds = [limits.size_range.bound_bytes for limits in opening.ranges]
    runs: dict[str, list[list[list[Any]]]] = {ONE: [], FIVE: []}
    for seed in range(options.seeds):
        for name, way in ((ONE, one), (FIVE, five)):
            path = FOLDER / f"{name}, seed {seed}, {options.trials} trials.json"
            key = f"{bench.made_of}|{name}|{seed}|{options.trials}"
            run = kept(path, key, lambda way=way, seed=seed: {"points": way(bench, opening, seed, options.trials)})  # type: ignore[misc]
            runs[name].append(run["points"])
            print(seed, name, round(volume(run["points"], bounds[0], bounds[-1]), 3), flush=True)
    of_one, of_five = (
        float(np.median([volume(run, bounds[0], bounds[-1]) for run in runs[name]])) for name in (ONE, FIVE)
    )
    publish(
        "pareto",
        rows_of(runs, (bounds[0], bounds[-1])),
        [
            target(
                "hypervolume of one study over all sizes over that of five of one bin",
                of_one / of_five,
                1.0,
                at_least=True,
            )
        ],
    )


if __name__ == "__main__":
    main()
