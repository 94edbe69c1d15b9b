"""Trials an hour with two workers of one thread against one: ``python -m benchmarks.workers``, minutes

The same plans of bin 3, each through all rungs and healed, in worker processes on a bank that has their pieces. Seconds
are those from when all workers are ready.
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from functools import partial

import optuna
from optuna.trial import FrozenTrial

from benchmarks.publish import publish, target
from search.baselines import losses_of
from search.gates import Gate
from search.loop import Terms, run_trials
from search.opening import opened
from search.pools.choice import evaluator_of
from search.pools.processes import Processes
from search.samplers import sampler_named
from search.settings import SearchSettings

BIN = 3
WORKERS = (1, 2)
# Every trial goes on from each rung.
ALL = (1.0, 1.0)


def seconds_of(settings: SearchSettings, workers: int, trials: int) -> float:
    """Of a study of so many trials, whose plans are the same whatever becomes of them."""
    inputs = opened(settings)
    losses = losses_of(inputs.limits, inputs.source.vocabulary.coverage)
    study = optuna.create_study(directions=["minimize", "minimize"])
    study.sampler = sampler_named("random", inputs.limits, losses, settings.seed, settings.trial_heal_steps)
    terms = Terms(inputs.ranges, (), settings.seed, "benchmark", Gate(survival=ALL), settings.trial_heal_steps)
    with closing(Processes([partial(evaluator_of, settings)] * workers, threads=1)) as pool:
        while pool.free < workers:
            pool.events(0.1)
        started = time.monotonic()
        run_trials(study, pool, terms, trials, _nothing)
        return time.monotonic() - started


def _nothing(_trial: FrozenTrial) -> None:
    """Nobody is told."""


def main() -> None:
    """Fills the bank, then measures each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--heal-steps", type=int, default=10, help="at most, as a plan has it")
    options = parser.parse_args()
    settings = SearchSettings(
        study="benchmark-workers", trials=options.trials, bin=BIN, device="cpu", trial_heal_steps=options.heal_steps
    )
    seconds_of(settings, max(WORKERS), options.trials)
    found = {workers: seconds_of(settings, workers, options.trials) for workers in WORKERS}
    rows = [
        {"workers": workers, "seconds": round(seconds, 1), "trials an hour": round(3600 * options.trials / seconds)}
        for workers, seconds in found.items()
    ]
    one, two = (found[workers] for workers in WORKERS)
    publish("workers", rows, [target("trials an hour, two workers over one", round(one / two, 2), 1.8, at_least=True)])


if __name__ == "__main__":
    main()
