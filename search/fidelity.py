"""How well cheap scores rank: plans of a bin scored by every proxy at every rung, then carried out in full and scored.

Every other plan is random, the others are near where a search ends: policies' plans, its first ones and neighbours of
them. The full evaluation is chrF on the select role, unhealed and healed as finalists are, but without recombined
utterances; a study's report role stays closed.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from rich.console import Console
from transformers import PreTrainedModel

from compress.assembly import Assembled
from compress.heal import Coach, HealSettings
from models.devices import computing
from proxies.deviation import OptionErrors
from proxies.fidelity import best_quarter, fidelity, halves
from proxies.tryout import Tryout
from scoring.metrics import segments_chrf
from search.baselines import least_loss_plan, starts
from search.exam import Exam, mean_chrf
from search.finalists import heal_in_full, read_keyed
from search.gates import DIVERGENCE, FIRST_UTTERANCES, GATES, RUNG_UTTERANCES, Gate
from search.kept import RESULT, made_of
from search.locks import alone
from search.opening import Opened, measured_losses, opened, workbench_of
from search.progress import progress_on
from search.rungs import LEARNT, Score, Standing, expected, grains, settle
from search.samplers import POLICY_GAP, trial_seed
from search.settings import SearchSettings
from search.shares import Cost, Ranked, gate_for, shares_for
from search.workbench import Workbench, keep_errors, option_errors
from space.choices import choices, choices_of, plan_of
from space.errors import UserError
from space.files import write_whole
from space.genes import repair
from space.layout import Layout
from space.limits import Limits
from space.plan import NO_HEAL, Heal, Plan, removed_sublayers
from space.policy import Loss, multipliers, policy_loss
from space.traits import traits

_FEWEST_PLANS = 8
# Options that a plan near the front and its neighbour differ in.
_CHANGES = 3
# Plans that neighbours are made of, and how often a plan that is there already is drawn again.
_NEAR, _TRIES = 12, 20
# Every size that a rung may have.
UTTERANCES = tuple(sorted({*FIRST_UTTERANCES, *RUNG_UTTERANCES}))
# The names of what a trial's last rung finds begin so; what a study that has all other plans for trials would expect of
# one at a rung, and what it makes of the last rung's findings.
HEALED, EXPECTED, SETTLED = "healed", "expected loss", "healed, settled loss"
# What plans are ranked by in the end, by name and whether they are healed for it.
FULL = {"unhealed": False, "healed": True}
# The full evaluation of half of the select role beside that of the other half, as a proxy is called.
HALVES = "half of select by the other half"


@dataclass(frozen=True)
class FidelitySettings:
    """The options of ``launch.py fidelity``: those of a search, of whose trials none is run, and how many plans.

    Plans are healed for the search's `finalist_heal_steps`, on `heal_rows` rows a step.
    """

    search: SearchSettings
    plans: int = 40

    @property
    def folder(self) -> Path:
        return self.search.folder / "fidelity"


def run_fidelity(settings: FidelitySettings, console: Console) -> dict[str, Any]:
    """Scores plan after plan, those scored before excepted, and returns what fidelity.json holds.

    Raises UserError for mistakes.
    """
    with computing(settings.search.compute):
        return _measured(settings, console)


def _measured(settings: FidelitySettings, console: Console) -> dict[str, Any]:
    if settings.plans < _FEWEST_PLANS:
        raise UserError(f"--plans {settings.plans}: rank correlations need at least {_FEWEST_PLANS} plans")
    found = opened(settings.search)
    with alone(settings.folder, "--study"):
        workbench = workbench_of(settings.search, found, console)
        losses = measured_losses(workbench, found.limits, console)
        plans = fidelity_plans(found.limits, losses, settings.plans, settings.search.seed)
        examination = Examination(settings, found, workbench)
        rows = []
        with progress_on(console) as progress:
            task = progress.add_task("plans", total=len(plans))
            for number, (kind, plan) in enumerate(plans):
                rows.append(examination.of(kind, plan))
                progress.update(task, advance=1)
                if not console.is_terminal:
                    console.print(f"plan {number + 1} of {len(plans)}")
        rows = foreseen([plan for _, plan in plans], rows, found.source.layout)
        with console.status("correlations and their intervals"):
            correlations = table(rows, settings.search.seed)
            gates = _gates([plan for _, plan in plans], rows, found.limits.size_range.bound_bytes, settings.search.seed)
        gate = gate_for(gates)
        result = {
            "study": settings.search.study,
            "range": found.limits.size_range.name,
            "signature": examination.signature,
            "gate": asdict(gate) | {"seconds": gates[gate]},
            "gates": [asdict(one) | {"seconds": seconds} for one, seconds in gates.items()],
            "plans": rows,
            "table": correlations,
        }
        write_whole(settings.folder / RESULT, json.dumps(result, indent=1, allow_nan=False))
    return result


def _gates(plans: Sequence[Plan], rows: Sequence[dict[str, Any]], bound_bytes: int, seed: int) -> dict[Gate, float]:
    """Every proxy with every size of the first rung, as many going on as must; seconds of a trial on the mean.

    A search's trials are plans near the front.
    """
    near = [(plan, row) for plan, row in zip(plans, rows, strict=True) if row["kind"] != "random"]
    healed = healed_names(rows)[0]

    def ranked(plan: Plan, row: dict[str, Any], names: Sequence[str]) -> Ranked:
        size, removed = grains(row["bytes"], bound_bytes), removed_sublayers(plan)
        scores = tuple(Score(row["cheap"][name]["score"], size, removed) for name in names)
        return Ranked(scores, row["full"]["healed"]["score"])

    def seconds(proxy: str) -> float:
        return float(median(row["cheap"][proxy]["seconds"] for _, row in near))

    found = {}
    for proxy, first in product(GATES, FIRST_UTTERANCES):
        sizes = (first, RUNG_UTTERANCES[-1])
        names = [f"{proxy}, {utterances}" for utterances in sizes]
        shares = shares_for([ranked(plan, row, names) for plan, row in near], seed)
        found[Gate(proxy, sizes, shares)] = Cost(tuple(map(seconds, names)), seconds(healed)).of(shares)
    return found


def healed_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a trial's last rung finds, chrF and divergence, is called so among the cheap scores."""
    return [proxy for proxy in rows[0]["cheap"] if proxy.startswith(HEALED)]


def foreseen(plans: Sequence[Plan], rows: Sequence[dict[str, Any]], layout: Layout) -> list[dict[str, Any]]:
    """Rows with what a study would make of each plan that has the others for trials, where they are enough.

    The loss it expects at each rung (`search.rungs.expected`), and the settled loss after healing (`settle`).
    """
    healed = [[row["cheap"][name]["score"] for row in rows] for name in healed_names(rows)]
    scores = [tuple(row["cheap"][f"{DIVERGENCE}, {n}"]["score"] for n in RUNG_UTTERANCES) for row in rows]
    if len(rows) <= LEARNT or not np.isfinite([*healed, *zip(*scores, strict=True)]).all():
        return list(rows)
    told = [
        Standing(score, row["bytes"], removed_sublayers(plan), 0, traits(plan, layout))
        for score, row, plan in zip(scores, rows, plans, strict=True)
    ]
    losses, found = settle(*healed), []
    for i, row in enumerate(rows):
        settled = settle(*([*one[:i], *one[i + 1 :]] for one in healed))
        others = [replace(one, loss=loss) for one, loss in zip([*told[:i], *told[i + 1 :]], settled, strict=True)]
        cheap = row["cheap"]
        more = {
            f"{EXPECTED}, {n}": {
                "score": float(expected([told[i]], others, rung)[0]),
                "seconds": cheap[f"{DIVERGENCE}, {n}"]["seconds"],
            }
            for rung, n in enumerate(RUNG_UTTERANCES)
        }
        more[SETTLED] = {"score": losses[i], "seconds": cheap[healed_names(rows)[-1]]["seconds"]}
        found.append({**row, "cheap": {**cheap, **more}})
    return found


def fidelity_plans(limits: Limits, losses: Mapping[str, Loss], count: int, seed: int) -> list[tuple[str, Plan]]:
    """`count` unhealed plans inside the limits, no two the same, with the kind each is of; more begin with the same.

    Near the front are, in turns, what a study starts with and neighbours of that, and random policies' plans.
    """
    first = [replace(start.plan, heal=NO_HEAL) for start in starts(limits, losses, NO_HEAL, 100)]
    # simple baselines come first among a study's, and are farthest from where it ends
    first = list(dict.fromkeys(reversed(first)))[:_NEAR]
    shaped = policy_loss(limits.layout, list(losses.values())[-1])
    found: dict[Plan, str] = {}
    for number in range(_TRIES * count):
        rng, turn = random.Random(trial_seed(seed, number)), number // 4
        if number % 2 == 0:
            kind, plan = "random", random_plans(limits, 1, trial_seed(seed, number))[0]
        elif number % 4 == 1:
            policy = {name: rng.uniform(*ends) for name, ends in multipliers(limits.layout).items()}
            kind, plan = "policy", least_loss_plan(limits, shaped(policy), gap=POLICY_GAP)
        else:
            kind = "near a start"
            plan = first[turn] if turn < len(first) else neighbour(limits, rng.choice(first), rng, _CHANGES)
        found.setdefault(plan, kind)
        if len(found) == count:
            break
    return [(kind, plan) for plan, kind in found.items()]


def random_plans(limits: Limits, count: int, seed: int) -> list[Plan]:
    """Options at random, repaired into the limits."""
    rng, options = random.Random(seed), choices(limits.layout)
    drawn = ({name: rng.choice(found) for name, found in options.items()} for _ in range(count))
    return [repair(plan_of(limits.layout, chosen), limits, trial_seed(seed, i)) for i, chosen in enumerate(drawn)]


def neighbour(limits: Limits, plan: Plan, rng: random.Random, changes: int) -> Plan:
    """A plan in which `changes` options are others, repaired into the limits."""
    options = choices(limits.layout)
    changed = {name: rng.choice(options[name]) for name in rng.sample(list(options), changes)}
    found = plan_of(limits.layout, {**choices_of(limits.layout, plan), **changed})
    return repair(found, limits, rng.randrange(2**32))


@dataclass(frozen=True, eq=False)
class Examination:
    """Everything plans are scored with; what was scored before under the same signature is read."""

    settings: FidelitySettings
    opened: Opened
    workbench: Workbench

    @cached_property
    def signature(self) -> str:
        """Everything but the plan that scores depend on."""
        search = self.settings.search
        return (
            f"chrF2 on select and of each utterance|{search.finalist_heal_steps} steps where they help, {self.healing}"
            f"|seed {search.seed}"
            f"|rungs of {UTTERANCES}|{', '.join((*self.errors, *GATES, *self._healed))}|{','.join(search.directions)}"
            f"{made_of(self.opened.model, self.opened.data)}"
        )

    @property
    def healing(self) -> HealSettings:
        return HealSettings(batch_rows=self.settings.search.heal_rows)

    def of(self, kind: str, plan: Plan) -> dict[str, Any]:
        """Every proxy at every rung, and the full evaluation, with seconds; the lower, the better."""
        key = f"{self.signature}|{plan.to_json()}"
        path = self.settings.folder / f"plan-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        if (known := read_keyed(path, key)) is not None:
            return known
        candidate = self.workbench.assembler.assembled(plan)
        cheap, full = dict(self._cheap(plan, candidate)), dict(self._full(plan, candidate))
        found = {"key": key, "kind": kind, "bytes": self.opened.limits.bytes_of(plan), "cheap": cheap, "full": full}
        write_whole(path, json.dumps(found, indent=1))
        keep_errors(self.workbench, self.errors)
        return found

    def _cheap(self, plan: Plan, candidate: Assembled) -> Iterator[tuple[str, _Timed]]:
        """By name every proxy; those that run a model on more and more utterances, each from the beginning."""
        workbench, tryout = self.workbench, Tryout(plan, candidate)
        # what all proxies share is not among anyone's seconds, nor what the bank knows of options
        list(workbench.prefixes.divergences(candidate, plan.vocabulary, UTTERANCES))
        workbench.processor(plan.vocabulary)
        for name, errors in self.errors.items():
            errors(tryout)
            yield name, _timed(partial(errors, tryout))
        for name, scored in workbench.gates.items():
            workbench.prefixes.forget()
            started, scores = time.monotonic(), scored(candidate, plan.vocabulary, UTTERANCES)
            for utterances, score in zip(UTTERANCES, scores, strict=True):
                yield f"{name}, {utterances}", {"score": score, "seconds": time.monotonic() - started}
        search, started = self.settings.search, time.monotonic()
        worth = workbench.worth(replace(plan, heal=Heal(search.trial_heal_steps)), candidate, search.seed)
        for name, score in zip(self._healed, worth, strict=True):
            yield name, {"score": score, "seconds": time.monotonic() - started}

    def _full(self, plan: Plan, candidate: Assembled) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, is_healed in FULL.items():
            started = time.monotonic()
            model = self._healed_in_full(plan, self.settings.search.seed) if is_healed else candidate.model
            yield name, {**self._examined(model, plan.vocabulary), "seconds": time.monotonic() - started}

    def healed(self, plan: Plan, seed: int) -> float:
        """The full evaluation of a plan, healed with a seed if that helps: 100 less mean chrF on the select role."""
        found: float = self._examined(self._healed_in_full(plan, seed), plan.vocabulary)["score"]
        return found

    def _healed_in_full(self, plan: Plan, seed: int) -> PreTrainedModel:
        whole = replace(plan, heal=Heal(self.settings.search.finalist_heal_steps))
        return heal_in_full(self.workbench, whole, Coach(seed, self.healing)).model

    def _examined(self, model: PreTrainedModel, vocabulary: int) -> dict[str, Any]:
        """100 less the mean chrF over directions on the select role, and that of each utterance."""
        exam = Exam(self.opened.corpus, self.settings.search.directions, self.opened.data)
        texts = exam.translations(model, self.workbench.processor(vocabulary), "select").texts
        references = exam.references("select")
        each = [segments_chrf(texts[direction], references[direction]) for direction in exam.directions]
        return {
            "score": 100 - mean_chrf(exam.scored(texts, "select")),
            "each": [round(100 - fmean(of_one), 2) for of_one in zip(*each, strict=True)],
        }

    @cached_property
    def errors(self) -> dict[str, OptionErrors]:
        return option_errors(self.workbench)

    @property
    def _healed(self) -> tuple[str, str]:
        """The names of what a trial's last rung finds."""
        steps = self.settings.search.trial_heal_steps
        return (
            f"{HEALED} {steps} steps, chrF, {UTTERANCES[-1]}",
            f"{HEALED} {steps} steps, divergence, {UTTERANCES[-1]}",
        )


_Timed = dict[str, float]


def _timed(scored: Callable[[], float]) -> _Timed:
    started = time.monotonic()
    score = scored()
    return {"score": score, "seconds": time.monotonic() - started}


def table(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """For every proxy and rung the rank correlations with each full evaluation, over all plans and the best quarter.

    Behind them what could be asked for at most (`proxies.fidelity.halves`).
    """
    found = []
    for full in FULL:
        final = [row["full"][full]["score"] for row in rows]
        groups = {"all": list(range(len(rows))), "best quarter": best_quarter(final)}
        for cheap, (group, chosen) in product(rows[0]["cheap"], groups.items()):
            scores = [rows[i]["cheap"][cheap]["score"] for i in chosen]
            ranks = asdict(fidelity(scores, [final[i] for i in chosen], seed))
            seconds = median(row["cheap"][cheap]["seconds"] for row in rows)
            found.append({"full": full, "proxy": cheap, "group": group, "seconds": seconds, **ranks})
        seconds = median(row["full"][full]["seconds"] for row in rows)
        for group, chosen in groups.items():
            ranks = asdict(halves([rows[i]["full"][full]["each"] for i in chosen], seed))
            found.append({"full": full, "proxy": HALVES, "group": group, "seconds": seconds, **ranks})
    return found
