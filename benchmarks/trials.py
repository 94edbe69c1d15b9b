"""What a trial's first rung costs: ``python -m benchmarks.trials``, some minutes on two cores

In bin 3, in one process: random plans whose pieces are on no shelf yet, the same plans with all pieces there, and
neighbours, each of which differs from the plan before in two options. Beside each trial the bare forward pass of the
same model on the same rows; and for a few plans the naive trial: load, carry the plan out, translate 100 utterances,
score.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from benchmarks.measured import DIRECTIONS, LANGUAGES, bundled
from benchmarks.publish import publish, target
from compress.pipeline import compress
from corpora.roles import Corpus
from models.inputs import make_batch, target_logits
from models.loading import Source, load_source, pad_token
from models.reference import BUNDLED
from proxies.prefixes import Prefixes
from scoring.metrics import score
from scoring.translate import translate
from search.fidelity import random_plans
from search.gates import RUNG_UTTERANCES
from search.workbench import Workbench, counted
from space.bins import bin_range
from space.choices import VOCABULARY, choices, choices_of, plan_of
from space.limits import Limits
from space.plan import Plan

BIN = 3
NAIVE_UTTERANCES = 100


@dataclass(frozen=True)
class Timed:
    """Seconds of a trial's first rung, of putting its plan together alone, and of the bare forward pass."""

    trial: float
    assembly: float
    forward: float


def neighbours(limits: Limits, first: Plan, count: int) -> list[Plan]:
    """Plans in a row, two options changed each time, all of them in the bin; the vocabulary stays."""
    rng, options = random.Random(1), choices(limits.layout)
    found, names = [first], [name for name in options if name != VOCABULARY]
    while len(found) <= count:
        changed = {name: rng.choice(options[name]) for name in rng.sample(names, 2)}
        plan = plan_of(limits.layout, {**choices_of(limits.layout, found[-1]), **changed})
        if limits.hold(plan):
            found.append(plan)
    return found[1:]


def seconds(task: Callable[[], object]) -> float:
    """How long a task takes."""
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def timed(workbench: Workbench, prefixes: Prefixes, plans: Sequence[Plan]) -> list[Timed]:
    """Each plan's first rung, with the forward pass of its model right behind it."""
    found = []
    for plan in plans:
        started = time.perf_counter()
        candidate = workbench.assembler.assembled(plan)
        assembly = time.perf_counter() - started
        prefixes.divergence(candidate, plan.vocabulary, RUNG_UTTERANCES[0])
        trial = time.perf_counter() - started
        rows = [x.row for x in workbench.proxy.of(plan.vocabulary)[: RUNG_UTTERANCES[0] * workbench.rows_an_utterance]]
        batch = make_batch(rows, pad_token(candidate.model))
        with torch.no_grad():
            forward = seconds(lambda candidate=candidate, batch=batch: target_logits(candidate.model, batch))  # type: ignore[misc]
        found.append(Timed(trial, assembly, forward))
    return found


def naive(workbench: Workbench, corpus: Corpus, plan: Plan) -> None:
    """What a trial is without a bank: everything from the start. All tokens stay, as in the source's processor."""
    source: Source = counted(load_source(BUNDLED), corpus, LANGUAGES)
    whole = replace(plan, vocabulary=source.layout.vocabulary)
    model = compress(source, whole, workbench.bank, seed=0).model
    examples = [*corpus.examples("proxy"), *corpus.examples("select")][:NAIVE_UTTERANCES]
    for language in LANGUAGES:
        said = translate(model, source.processor, examples, language)
        score(said, [example.references[language] for example in examples], language)


def main() -> None:
    """A row for each kind of trial; targets are on trials whose pieces are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plans", type=int, default=30)
    options = parser.parse_args()
    source, corpus, workbench = bundled()
    limits = Limits(source.layout, bin_range(BIN, source.layout.source_bytes), source.fixed_bytes)

    def fresh() -> Prefixes:
        old = workbench.prefixes
        return Prefixes(old.layout, old.curriculum, old.rows_an_utterance)

    plans = random_plans(limits, options.plans, seed=0)
    timed(workbench, fresh(), plans[:1])  # libraries warm up
    made = timed(workbench, fresh(), plans)
    there = timed(workbench, fresh(), plans)
    near = neighbours(limits, plans[0], options.plans)
    for plan in near:
        workbench.assembler.assembled(plan)
    saving = fresh()
    close = timed(workbench, saving, near)
    whole = [timed(workbench, fresh(), [plan])[0] for plan in near]
    everything = [seconds(lambda plan=plan: naive(workbench, corpus, plan)) for plan in plans[:3]]  # type: ignore[misc]
    profile = cProfile.Profile()
    profile.runcall(timed, workbench, fresh(), plans)
    pstats.Stats(profile).sort_stats("tottime").print_stats(12)

    def row(name: str, times: Sequence[Timed]) -> dict[str, Any]:
        return {
            "trial": name,
            "seconds": round(median(x.trial for x in times), 4),
            "of it putting together": round(median(x.assembly for x in times), 4),
            "bare forward pass": round(median(x.forward for x in times), 4),
            "ratio": round(median(x.trial / x.forward for x in times), 3),
        }

    rows = [
        row("random, pieces made", made),
        row("random, pieces there", there),
        row("two options changed, nothing kept", whole),
        row("two options changed", close),
        {
            "trial": f"naive, {NAIVE_UTTERANCES} utterances translated into {len(DIRECTIONS)} languages",
            "seconds": round(median(everything), 2),
            "of it putting together": "",
            "bare forward pass": "",
            "ratio": round(median(everything) / median(x.forward for x in there), 1),
        },
    ]
    rungs = median(x.trial for x in there)
    publish(
        "trials",
        rows,
        [
            target(
                "first rung over bare forward pass", median(x.trial / x.forward for x in there), 1.15, at_least=False
            ),
            target("naive trial over first rung", median(everything) / rungs, 50, at_least=True),
        ],
    )
    print(f"layers run after a change of two options: {saving.layers_run / saving.layers_whole:.0%}")


if __name__ == "__main__":
    main()
