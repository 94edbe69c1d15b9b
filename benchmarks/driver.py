"""How many workers one driver keeps at work: ``python -m benchmarks.driver``, a quarter of an hour on one core

The driver's own loop, samplers and storages, on the bundled model in bin 3. Workers are made up: of each only the times
are kept at which its evaluation reaches its rungs and ends, a second after it began; scores are drawn. What goes by
between the calls of the pool is the driver's: asking for a plan and storing it, deciding at rungs, telling results.
SQLite as a study's folder has it; `--storage` adds a database by its URL. Seconds are of a trial; beside those that
went by for the driver are those that its process computed, to which other work on the machine adds little. `kept` is
how many workers are kept at work where evaluations take a minute.
"""

from __future__ import annotations

import argparse
import heapq
import random
import tempfile
import time
import uuid
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

from benchmarks.asking import SQLITE, opened
from benchmarks.publish import in_order, publish, target
from search.baselines import losses_of
from search.loop import Terms, run_trials
from search.opening import opened as of_settings
from search.pareto import sampler_over
from search.pools.pool import Evaluated, Evaluation, Event, Reached, Task
from search.settings import SearchSettings
from space.genes import HEAL_STEPS
from space.limits import Limits
from space.policy import Loss

WORKERS = (8, 64, 512)
SAMPLERS = ("policy-tpe", SearchSettings.sampler)
# Behind those that workers begin with.
TRIALS = 100
# When an evaluation reaches its rungs.
_RUNGS = (0.25, 0.5)
# When it ends, wherever it was stopped.
_SECONDS = 1.0
_BIN = 3


@dataclass
class _Evaluation:
    """One under way: when it began, its scores up to the rung it is at, and whether it goes on from there."""

    begun: float
    scores: list[float]
    goes_on: bool = True

    @property
    def ends(self) -> bool:
        return not self.goes_on or len(self.scores) > len(_RUNGS)

    @property
    def due(self) -> float:
        return self.begun + (_SECONDS if self.ends else _RUNGS[len(self.scores) - 1])


class MadeUp:
    """A pool of workers whose evaluations go by the clock.

    It tells one event at a time, so that what the driver does until its next call is about that event; `seconds` are
    counted by what they were spent on.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self.seconds = dict.fromkeys(("ask", "rungs", "tell", "rest", "wait"), 0.0)
        self._since, self._doing = time.monotonic(), "rest"
        self._begun: dict[int, _Evaluation] = {}
        self._due: list[tuple[float, int]] = []

    @property
    def free(self) -> int:
        self._spent(self._doing)
        self._doing = "rest"
        return self._workers - len(self._begun)

    def begin(self, task: Task) -> None:
        self._spent("ask")
        score = random.Random(task.seed).lognormvariate(-2, 1)
        self._goes(task.number, _Evaluation(self._since, [score]))

    def answer(self, number: int, goes_on: bool) -> None:
        self._spent("rungs")
        one = self._begun[number]
        one.goes_on = goes_on
        if goes_on:
            one.scores.append(one.scores[-1])
        self._goes(number, one)

    def events(self, seconds: float) -> list[Event]:
        self._spent("rest")
        if not self._due:
            return []
        time.sleep(min(seconds, max(0.0, self._due[0][0] - time.monotonic())))
        self._spent("wait")
        if self._due[0][0] > self._since:
            return []
        _, number = heapq.heappop(self._due)
        one = self._begun[number]
        if not one.ends:
            return [Reached(number, tuple(one.scores))]
        del self._begun[number]
        self._doing = "tell"
        scores = tuple(one.scores[: len(_RUNGS)])
        loss = 20 + 10 * scores[-1] if one.goes_on else None
        return [Evaluated(number, Evaluation(scores, (*_RUNGS[: len(scores)], _SECONDS), loss))]

    def close(self) -> None:
        """Nothing is left behind."""

    def _goes(self, number: int, one: _Evaluation) -> None:
        self._begun[number] = one
        heapq.heappush(self._due, (one.due, number))

    def _spent(self, on: str) -> None:
        now = time.monotonic()
        self.seconds[on] += now - self._since
        self._since = now


def row(study: optuna.Study, limits: Limits, losses: dict[str, Loss], sampler: str, workers: int) -> dict[str, Any]:
    """What became of a study of so many workers."""
    study.sampler = sampler_over([limits], sampler, losses, 0, HEAL_STEPS)
    pool, total = MadeUp(workers), workers + TRIALS
    begun, computed = time.monotonic(), time.process_time()
    run_trials(study, pool, Terms([limits], (), 0, "made up"), total, lambda _trial: None)
    wall, spent = time.monotonic() - begun, pool.seconds
    driver, computed = (wall - spent["wait"]) / total, (time.process_time() - computed) / total
    return {
        "workers": workers,
        "trials": total,
        "trials/s": round(total / wall, 2),
        "driver s": round(driver, 4),
        "of CPU": round(computed, 4),
        **{f"{on} s": round(spent[on] / total, 4) for on in ("ask", "rungs", "tell", "rest")},
        "idle": round(spent["wait"] / wall, 2),
        "kept": round(60 / driver),
    }


def main() -> None:
    """A row for each storage, sampler and number of workers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--storage", nargs="+", default=[SQLITE], help="SQLite, memory, or a database's URL")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = of_settings(SearchSettings(study="driver", trials=1, bin=_BIN))
    losses = losses_of(found.limits, found.source.vocabulary.coverage)
    rows: list[dict[str, Any]] = []
    for storage, sampler, workers in product(options.storage, options.samplers, options.workers):
        with tempfile.TemporaryDirectory() as folder, opened(storage, Path(folder) / uuid.uuid4().hex) as study:
            told = row(study, found.limits, losses, sampler, workers)
        rows.append({"storage": storage.partition("://")[0], "sampler": sampler, **told})
        Console().print(rows[-1])
    rows = in_order("driver", rows, ("storage", "sampler", "workers"))
    default = [one for one in rows if one["sampler"] == SearchSettings.sampler and one["workers"] == max(WORKERS)]
    publish(
        "driver",
        rows,
        [
            target(f"{one['storage']}, workers kept with evaluations of a minute", one["kept"], 64, at_least=True)
            for one in default
        ],
    )


if __name__ == "__main__":
    main()
