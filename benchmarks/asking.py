"""What a proposal costs: ``python -m benchmarks.asking``, a quarter of an hour on one core, without weights

Seconds of asking for a trial, storing its plan and telling its result, in studies of hundreds of trials and more. The
space is that of Qwen2-Audio-7B in bin 3, losses are prior values; policies, plans and results of the trials that are
there are made up. Means, since proposals of `policy` are by turns cheap and dear, in memory and in SQLite as a study's
folder has it, or in any database by `--storage`. A driver that takes a study up reads all of its trials once; how long
that takes is told beside.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
from optuna.trial import FrozenTrial, create_trial
from rich.console import Console

from benchmarks.publish import in_order, publish, target
from models.layouts import find_anatomy
from search.asking import asked
from search.baselines import least_loss_plan, policy_attribute
from search.loop import suggest
from search.rungs import BYTES, DIVERGENCES, REMOVED, TRAITS
from search.samplers import POLICY_GAP, sampler_named
from search.settings import SearchSettings
from search.study import open_study
from space.bins import bin_range
from space.genes import HEAL_STEPS, distributions, encode
from space.limits import Limits
from space.plan import Heal, Plan, removed_sublayers
from space.policy import multipliers, policy_loss
from space.prior import prior_loss
from space.traits import traits

SIZES = (200, 1000)
SAMPLERS = (SearchSettings.sampler, "policy-tpe", "swap", "random")
BASIS = "prior values"
MEMORY, SQLITE = "memory", "SQLite"
# Of the files a checkpoint carries along: about what Qwen2's tokenizer takes.
_TOKEN_BYTES = 60
# Plans that are made; each is that of many trials.
_PLANS = 50


@contextmanager
def opened(storage: str, folder: Path) -> Iterator[optuna.Study]:
    """An empty study."""
    if storage == MEMORY:
        yield optuna.create_study(directions=["minimize", "minimize"])
        return
    url = None if storage == SQLITE else storage
    settings = SearchSettings(study=folder.name, trials=1, bin=3, root=folder.parent, storage=url)
    settings.folder.mkdir(exist_ok=True)
    with open_study(settings, {}) as study:
        yield study


def made_up(limits: Limits, count: int) -> list[FrozenTrial]:
    """Complete trials of random policies; plans come more than once."""
    rng, space = random.Random(0), distributions(limits.layout)
    shaped = policy_loss(limits.layout, prior_loss(limits.layout))
    policies = [{name: rng.uniform(*ends) for name, ends in multipliers(limits.layout).items()} for _ in range(count)]
    plans = [least_loss_plan(limits, shaped(policy), Heal(HEAL_STEPS), POLICY_GAP) for policy in policies[:_PLANS]]
    found = []
    for i, policy in enumerate(policies):
        plan, loss = plans[i % _PLANS], 50 + 10 * abs(policy["power"]) + rng.gauss(0, 1)
        kept = attributes(limits, plan, loss) | {policy_attribute(BASIS): policy}
        values = [loss, float(limits.bytes_of(plan))]
        params = encode(plan, limits.layout)
        found.append(create_trial(params=params, distributions=space, values=values, user_attrs=kept))
    return found


def attributes(limits: Limits, plan: Plan, loss: float) -> dict[str, Any]:
    """What a trial keeps of its plan."""
    return {
        DIVERGENCES: [loss / 50, loss / 50],
        BYTES: limits.bytes_of(plan),
        REMOVED: removed_sublayers(plan),
        TRAITS: traits(plan, limits.layout),
    }


def seconds_of(study: optuna.Study, limits: Limits, proposals: int) -> float:
    """Of one trial more, asked for, stored and told, on the mean."""
    found = []
    for _ in range(proposals):
        begun = time.monotonic()
        trial = asked(study)
        plan = suggest(trial, limits.layout, HEAL_STEPS)
        for name, value in attributes(limits, plan, 60.0).items():
            trial.set_user_attr(name, value)
        study.tell(trial, [60.0, float(limits.bytes_of(plan))])
        found.append(time.monotonic() - begun)
    return mean(found)


def main() -> None:
    """A row for each storage, number of trials and sampler."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--storage", nargs="+", default=[MEMORY, SQLITE], help="memory, SQLite, or a database's URL")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parser.add_argument("--proposals", type=int, default=12)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    layout = find_anatomy("qwen2-audio-7b").layout
    limits = Limits(layout, bin_range(3, layout.source_bytes), lambda tokens: _TOKEN_BYTES * tokens)
    losses, trials = {BASIS: prior_loss(layout)}, made_up(limits, max(options.sizes))
    rows: list[dict[str, Any]] = []
    for storage in options.storage:
        with tempfile.TemporaryDirectory() as folder, opened(storage, Path(folder) / "asking") as study:
            there = 0
            for size in options.sizes:
                study.add_trials(trials[there:size])
                there, begun = size, time.monotonic()
                study.get_trials(deepcopy=False)
                reading = time.monotonic() - begun
                for sampler in options.samplers:
                    study.sampler = sampler_named(sampler, limits, losses, 0)
                    seconds = seconds_of(study, limits, options.proposals)
                    rows.append(
                        {
                            "storage": storage.partition("://")[0],
                            "trials": size,
                            "params": len(distributions(layout)),
                            "sampler": sampler,
                            "seconds": round(seconds, 3),
                            "seconds of reading what was added": round(reading, 3),
                        }
                    )
                    Console().print(rows[-1])
    rows = in_order("asking", rows, ("storage", "trials", "sampler"))
    default = [row for row in rows if row["sampler"] == SearchSettings.sampler and row["trials"] == 1000]
    publish(
        "asking",
        rows,
        [
            target(f"{row['storage']}, seconds of a proposal at 1,000 trials", row["seconds"], 0.05, at_least=False)
            for row in default
        ],
    )


if __name__ == "__main__":
    main()
