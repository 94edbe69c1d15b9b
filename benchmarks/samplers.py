"""Samplers side by side, ``python -m benchmarks.samplers``: about a minute a sampler, seed and bin; `gp` takes twenty

Every sampler has as many trials of the same study, the first of which are a study's own (baselines, allocator's plans,
for samplers of single layers a grid); the one objective is the divergence on the first rung's utterances, unhealed. A
row has the median and the quartiles over seeds of the best divergence so far, of the best plan's divergence on the
select role, on which nothing was searched, and of the seconds of a proposal. `tpe raw` is Optuna's TPE with the limits
as a constraint: what is outside is told to be, and not scored. Beside them is the best known: the best plan of all
runs, and what as many exchanges as `--best-known` says make of it. `--healed` has the best plan after so many trials
healed as a trial is, and says what it is worth then: 100 less chrF of the utterances that trials translate.

Steps of the allocator measure the same divergence of several hundred plans that are no trials; how many is told.

`--ablation` has the allocator with one thing left out at a time, and what is the same for the default: without steps
and drafts it is `policy-tpe`, without policies and the allocator, too, `tpe`; without exchanges TPE's policies are in
their place, and without learning all of its policies are near the allocator's own, as the first ones are. Without
sensitivities, in the first plans as in what is proposed, an option costs what share of its sublayer, table or
vocabulary is gone and how noisy the rest is, wherever it is. Results are ablation.json.

Runs are kept in benchmarks/runs/samplers, which is part of the project: what is published of them can be looked up,
drawn (``python -m benchmarks.curves``), and made of more seeds elsewhere. A run that was killed is made again, finished
ones of this version are only read; without the folder all are made anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial
from rich.console import Console

from benchmarks.publish import RUNS, in_order, publish_bins, target
from proxies.answers import Answers
from proxies.marginals import Marginals, measure_marginals, neighbours
from search.baselines import Start, starts
from search.finalists import read_keyed
from search.gates import RUNG_UTTERANCES
from search.loop import suggest
from search.opening import Opened, measured_losses, opened, workbench_of
from search.rungs import BYTES, DIVERGENCES, REMOVED
from search.samplers import (
    ALLOCATOR,
    SWAP,
    AllocatorSampler,
    PolicySampler,
    SteppingSampler,
    begins_with_grid,
    sampler_named,
)
from search.settings import FORMAT, REMEASURED, SearchSettings
from search.steps import Steps
from search.values import Uses
from search.workbench import TRIAL_HEALING, Workbench
from space import VERSION
from space.choices import Option, choices
from space.files import write_whole
from space.genes import encode
from space.layout import Layout
from space.limits import Limits
from space.plan import NO_HEAL, Heal, Plan, Sublayer, plan_from_json, removed_sublayers
from space.policy import Loss
from space.prior import rate_noise

BINS, SEEDS, TRIALS = (2, 3, 4), 5, 200
RAW, BEST_KNOWN = "tpe raw", "best known"
DEFAULT = SearchSettings.sampler
SAMPLERS = (DEFAULT, "policy-tpe", "policy-gp", ALLOCATOR, SWAP, "tpe", RAW, "gp", "nsga2", "random")
# What the allocator's sampler goes by when something is left out.
LEFT_OUT = {
    "learning": Uses(learning=False),
    "interactions": Uses(interactions=False),
}
SENSITIVITIES, STEPS, EXCHANGES = "sensitivities", "steps", "exchanges"
UNLEARNT = f"{DEFAULT} without learning"
ABLATION = (
    ALLOCATOR,
    *(f"{ALLOCATOR} without {part}" for part in (SENSITIVITIES, *LEFT_OUT)),
    DEFAULT,
    *(f"{DEFAULT} without {part}" for part in (SENSITIVITIES, STEPS, EXCHANGES)),
    UNLEARNT,
    "policy-tpe",
    "tpe",
)
AT = (20, 50, 100, 200)
FOLDER = RUNS / "samplers"
# By which decision samplers last came to propose other plans, and a count, begun at one, of changes of steps: runs from
# before are made again.
_PROPOSALS, _STEPS = 35, 37


@dataclass(frozen=True)
class Bench:
    """What all runs in a bin share; `made_of` says of what."""

    number: int
    limits: Limits
    losses: dict[str, Loss]
    workbench: Workbench
    made_of: str
    known: dict[Plan, float] = field(default_factory=dict)
    around: dict[Plan, Marginals] = field(default_factory=dict)

    def divergence(self, plan: Plan) -> float:
        """On the utterances of the first rung; looked up where a run before had the plan."""
        if plan not in self.known:
            self.known[plan] = self.workbench.first_divergence(plan, RUNG_UTTERANCES[0])
        return self.known[plan]

    def unseen(self, plan: Plan) -> float:
        """On the select role."""
        return self.workbench.unseen_divergence(self.workbench.assembler.assembled(plan).model, plan.vocabulary)

    def run(self, name: str, seed: int, trials: int) -> dict[str, Any]:
        """Divergences of all trials (None outside), the best plan and its on select, and the proposals' seconds."""
        measured: list[int] = []

        def measure(plan: Plan) -> Marginals:
            measured.append(1 + sum(1 for _ in neighbours(plan, self.limits)))
            return self.marginals(plan)

        steps = Steps(self.limits, NO_HEAL, measure, REMEASURED)
        found = self.searched(self._sampler(name, seed, steps), self.first(name, trials), trials)
        return {**found, "measured": sum(measured)}

    def marginals(self, plan: Plan) -> Marginals:
        """Around a plan; looked up where a run before measured there."""
        if plan not in self.around:
            self.around[plan] = measure_marginals(plan, self.limits, self._answers)
        return self.around[plan]

    def _answers(self, plan: Plan, own: Answers | None) -> Answers:
        return self.workbench.answers(plan, RUNG_UTTERANCES[0], own)

    def first(self, name: str, trials: int) -> list[Start]:
        """The plans that a sampler's run begins with."""
        grid = begins_with_grid(name.partition(" without ")[0])
        return starts(self.limits, self._known_losses(name), NO_HEAL, trials, grid=grid)

    def _known_losses(self, name: str) -> dict[str, Loss]:
        unknown = name.endswith(f" without {SENSITIVITIES}")
        return {"nothing": unknown_loss(self.limits.layout)} if unknown else self.losses

    def searched(self, sampler: BaseSampler, first: Sequence[Start], trials: int) -> dict[str, Any]:
        """What a sampler finds behind the first plans."""
        study = optuna.create_study(sampler=sampler)
        for start in first:
            study.enqueue_trial(encode(start.plan, self.limits.layout), user_attrs=dict(start.kept))
        found: list[float | None] = []
        seconds = []
        best: tuple[float, Plan] | None = None
        bests: list[Plan] = []
        for _ in range(trials):
            begun = time.monotonic()
            trial = study.ask()
            plan = replace(suggest(trial, self.limits.layout, 0), heal=NO_HEAL)
            asked, inside = time.monotonic() - begun, self.limits.hold(plan)
            divergence = self.divergence(plan) if inside else None
            found.append(None if divergence is None else short(divergence))
            if divergence is not None and (best is None or divergence < best[0]):
                best = divergence, plan
            if len(found) in AT and best is not None:
                bests.append(best[1])
            trial.set_constraint("outside", 0.0 if inside else self._outside(plan))
            trial.set_user_attr(DIVERGENCES, [float("nan") if divergence is None else divergence])
            trial.set_user_attr(BYTES, self.limits.bytes_of(plan))
            trial.set_user_attr(REMOVED, removed_sublayers(plan))
            scored = time.monotonic()
            study.tell(trial, 100.0 if divergence is None else divergence)
            seconds.append(asked + time.monotonic() - scored)
        assert best is not None, "the first trials are inside of the limits"
        proposals = seconds[len(first) :] or seconds
        return {
            "divergences": found,
            "seconds": short(float(np.median(proposals))),
            "select": short(self.unseen(best[1])),
            "plan": best[1].to_json(),
            "plans": [plan.to_json() for plan in bests],
        }

    def _outside(self, plan: Plan) -> float:
        """How far a plan is out of the limits: bytes over the bound, or 1 where it is not that."""
        return float(max(1, self.limits.bytes_of(plan) - self.limits.size_range.bound_bytes + 1))

    def _sampler(self, name: str, seed: int, steps: Steps) -> BaseSampler:
        whole, _, part = name.partition(" without ")
        losses = self._known_losses(name)
        basis = list(losses)[-1]
        if name == RAW:
            return TPESampler(seed=seed, multivariate=True, n_startup_trials=20)
        if name == UNLEARNT:
            others = UnlearntPolicies(RandomSampler, self.limits, seed, 0, basis=basis, loss=losses[basis])
            return SteppingSampler(others, steps, self.limits, seed, 0)
        if whole == ALLOCATOR and part in LEFT_OUT:
            return AllocatorSampler(self.limits, seed, 0, basis=basis, loss=losses[basis], uses=LEFT_OUT[part])
        stepping = None if part in (STEPS, EXCHANGES) else steps
        named = whole if part in (SENSITIVITIES, STEPS, EXCHANGES) else name
        found = sampler_named(named, self.limits, losses, seed, 0, steps=stepping)
        if part == EXCHANGES:
            assert isinstance(found, PolicySampler)
            return SteppingSampler(found, steps, self.limits, seed, 0, exchanges=found)
        return found


class UnlearntPolicies(PolicySampler):
    """Policies as the first ones of the default are, whatever these came to."""

    def _told(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return []


def unknown_loss(layout: Layout) -> Loss:
    """What options cost where nobody measured or knows anything of where they are: what share is gone, and noise."""
    wholes = {name: options[-1] for name, options in choices(layout).items()}

    def loss(name: str, option: Option) -> float:
        whole = wholes[name]
        if isinstance(option, int):
            assert isinstance(whole, int)
            return 1 - option / whole
        if not isinstance(option, Sublayer):
            return rate_noise(option)
        assert isinstance(whole, Sublayer)
        kept = option.kept / whole.kept
        return 1 - kept + kept * rate_noise(option.rate)

    return loss


def bench(number: int) -> Bench:
    """Loads and measures, or has the bank's measurements."""
    settings, console = SearchSettings(study="benchmark-samplers", trials=TRIALS, bin=number), Console()
    found = opened(settings)
    workbench = workbench_of(settings, found, console)
    losses = measured_losses(workbench, found.limits, console)
    about = f"{asdict(found.limits.size_range)}|{made_of(found)}"
    return Bench(number, found.limits, losses, workbench, about)


def made_of(found: Opened) -> str:
    """What kept runs depend on besides limits."""
    return f"model {found.model}|data {found.data}|tightfit {VERSION}, format {FORMAT}, proposals {_PROPOSALS}"


def kept(path: Path, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a run found: from its file, or now."""
    if (known := read_keyed(path, key)) is not None:
        return known
    found = {"key": key, **make()}
    write_whole(path, json.dumps(found))
    return found


def short(value: float) -> float:
    """Six digits, which is all that is kept of a figure."""
    return float(f"{value:.6g}")


def bests(run: dict[str, Any]) -> list[float]:
    """The best divergence so far at each number of trials that the run had."""
    so_far = np.minimum.accumulate([np.inf if one is None else one for one in run["divergences"]])
    return [float(so_far[at - 1]) for at in AT if at <= len(so_far)]


def runs_of(at_work: Bench, samplers: Sequence[str], seeds: int, trials: int) -> dict[str, list[dict[str, Any]]]:
    """The runs of every sampler, seed after seed."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in samplers}
    for seed, name in product(range(seeds), samplers):
        path = FOLDER / f"bin{at_work.number}, {name}, seed {seed}, {trials} trials.json"
        key = f"{at_work.made_of}{f', steps {_STEPS}' if _steps(name) else ''}|{name}|{seed}|{trials}"
        runs[name].append(kept(path, key, lambda name=name, seed=seed: at_work.run(name, seed, trials)))  # type: ignore[misc]
        print(at_work.number, name, seed, bests(runs[name][-1]), flush=True)
    return runs


def _steps(name: str) -> bool:
    """Whether a sampler takes steps."""
    return name.partition(" without ")[0] == DEFAULT and name != f"{DEFAULT} without {STEPS}"


def healed_losses(at_work: Bench, runs: dict[str, list[dict[str, Any]]], steps: int) -> dict[str, list[list[float]]]:
    """By sampler, what the best plans of each run are worth healed; a plan that several found is healed once a seed."""
    found: dict[str, list[list[float]]] = {name: [] for name in runs}
    pairs = ((seed, name) for seed in range(max(map(len, runs.values()))) for name in runs)
    for seed, name in pairs:
        plans = [replace(plan_from_json(plan), heal=Heal(steps)) for plan in runs[name][seed]["plans"]]
        found[name].append([healed_loss(at_work, plan, seed) for plan in plans])
        print(at_work.number, name, seed, "healed", [round(loss, 2) for loss in found[name][-1]], flush=True)
    return found


def healed_loss(at_work: Bench, plan: Plan, seed: int) -> float:
    """What a trial's last rung finds of a plan; kept."""
    workbench, path = at_work.workbench, FOLDER / f"healed, bin{at_work.number}.json"
    of = f"{at_work.made_of}|{TRIAL_HEALING}|{seed}|{plan.to_json()}"
    key = hashlib.sha256(of.encode()).hexdigest()[:16]
    if (known := _losses(path).get(key)) is not None:
        return known
    loss = short(workbench.worth(plan, workbench.assembler.assembled(plan), seed)[0])
    write_whole(path, json.dumps(dict(sorted({**_losses(path), key: loss}.items())), indent=0))
    return loss


def _losses(path: Path) -> dict[str, float]:
    return json.loads(path.read_text()) if path.exists() else {}


def best_known(at_work: Bench, runs: dict[str, list[dict[str, Any]]], exchanges: int) -> tuple[float, int]:
    """The least divergence of all runs and of exchanges from their best plan; and of how many plans that is."""
    everything = [run for of_sampler in runs.values() for run in of_sampler]
    best = min(everything, key=lambda run: bests(run)[-1])
    evaluations = sum(len(run["divergences"]) + run["measured"] for run in everything)
    if not exchanges:
        return bests(best)[-1], evaluations
    path = FOLDER / f"bin{at_work.number}, best known, {exchanges} exchanges.json"
    swap = sampler_named(SWAP, at_work.limits, at_work.losses, 0, 0)
    plan = plan_from_json(best["plan"])
    first = [Start("best", "of all runs", plan)]
    found = kept(path, f"{at_work.made_of}|{best['plan']}", lambda: at_work.searched(swap, first, exchanges))
    return min(one for one in found["divergences"] if one is not None), evaluations + exchanges


def quartiles(values: Sequence[float], digits: str = ".4g") -> str:
    """The median, and the first and third quartile."""
    low, middle, high = (f"{one:{digits}}" for one in np.quantile(values, [0.25, 0.5, 0.75]))
    return f"{middle} ({low} to {high})"


def rows_of(
    number: int, runs: dict[str, list[dict[str, Any]]], healed: dict[str, list[list[float]]]
) -> list[dict[str, Any]]:
    """A row for each sampler."""
    rows = []
    for name, of_sampler in runs.items():
        columns = list(zip(*map(bests, of_sampler), strict=True))
        rows.append(
            {
                "bin": number,
                "sampler": name,
                "seeds": len(of_sampler),
                **{f"{at} trials": quartiles(column) for at, column in zip(AT, columns, strict=False)},
                "on select": quartiles([run["select"] for run in of_sampler]),
                **{
                    f"healed, {at} trials": quartiles(column, ".1f")
                    for at, column in zip(AT, zip(*healed.get(name, []), strict=True), strict=False)
                },
                "measured besides": int(np.median([run["measured"] for run in of_sampler])),
                "seconds a proposal": round(float(np.median([run["seconds"] for run in of_sampler])), 3),
            }
        )
    return rows


def known_row(number: int, known: float, plans: int) -> dict[str, Any]:
    """The row of the best known plan, of so many that were scored."""
    return {"bin": number, "sampler": BEST_KNOWN, f"{TRIALS} trials": f"{known:.4g}", "plans": plans}


def with_best_known(rows: Sequence[dict[str, Any]], published: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows, of which those of a best plan give way to a better one published before."""
    before = {row["bin"]: row for row in published if row["sampler"] == BEST_KNOWN}

    def better(row: dict[str, Any]) -> dict[str, Any]:
        other = before.get(row["bin"])
        return row if other is None or _median(row, TRIALS) < _median(other, TRIALS) else other

    return [better(row) if row["sampler"] == BEST_KNOWN else row for row in rows]


def targets_of(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """How the default compares in every bin, by published rows and these."""
    found = []
    for number in sorted({row["bin"] for row in rows}):
        last = {row["sampler"]: row for row in rows if row["bin"] == number and f"{TRIALS} trials" in row}
        if BEST_KNOWN not in last or DEFAULT not in last:
            continue
        known = _median(last[BEST_KNOWN], TRIALS)
        gaps = {
            name: _median(row, TRIALS) - known
            for name, row in last.items()
            if name != DEFAULT and " without " not in name
        }
        if others := {name: one for name, one in gaps.items() if name != BEST_KNOWN}:
            next_best = min(others, key=lambda name: others[name])
            name = f"bin {number}, {DEFAULT}'s gap to the best known over that of {next_best}"
            ratio = (_median(last[DEFAULT], TRIALS) - known) / max(others[next_best], 1e-9)
            found.append(target(name, ratio, 0.5, at_least=False))
        if SWAP in last:
            ratio = _median(last[DEFAULT], 50) / _median(last[SWAP], TRIALS)
            found.append(target(f"bin {number}, {DEFAULT} at 50 trials over swap at 200", ratio, 1.0, at_least=False))
    return found


def _median(row: dict[str, Any], trials: int) -> float:
    return float(row[f"{trials} trials"].split()[0])


def main() -> None:
    """One bin after the other, seed after seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bins", type=int, nargs="+", default=BINS)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parser.add_argument("--ablation", action="store_true", help="samplers with one thing left out at a time")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--best-known", type=int, default=2000, help="exchanges from the best plan of all runs")
    parser.add_argument(
        "--healed", type=int, default=0, metavar="STEPS", help="steps that the best plans are healed for"
    )
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows: list[dict[str, Any]] = []
    for number in options.bins:
        at_work = bench(number)
        runs = runs_of(at_work, ABLATION if options.ablation else options.samplers, options.seeds, options.trials)
        known, plans = best_known(at_work, runs, options.best_known)
        healed = healed_losses(at_work, runs, options.healed) if options.healed else {}
        rows += [*rows_of(number, runs, healed), known_row(number, known, plans)]
    by = ("bin", "sampler")
    if options.ablation:
        publish_bins("ablation", [row for row in rows if row["sampler"] != BEST_KNOWN], [], by)
        return
    rows = with_best_known(rows, in_order("samplers", [], by))
    publish_bins("samplers", rows, targets_of(in_order("samplers", rows, by)), by)


if __name__ == "__main__":
    main()
