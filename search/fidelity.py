"""How well cheap scores rank: plans of a bin scored by every proxy at every rung, then carried out in full and scored.

Half of the plans are random, half are near where a search ends: its first plans and neighbours of them. The full
evaluation is chrF on the select role, unhealed and healed; a study's report role stays closed.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import PreTrainedModel

from compress.assembly import Assembled
from compress.heal import Coach, HealSettings
from compress.pipeline import compress
from models.inputs import batches
from models.loading import Source, load_processor, pad_token
from proxies.deviation import Deviations, GradientError, WeightError, squared_gradients
from proxies.fidelity import best_quarter, fidelity
from proxies.translations import Translations
from proxies.tryout import Proxy, Tryout
from scoring.translate import translate
from search.baselines import starts
from search.finalists import Exam, mean_chrf, read_keyed, write_whole
from search.locks import alone
from search.opening import Opened, opened, workbench_of
from search.samplers import trial_seed
from search.settings import SearchSettings
from search.workbench import RUNG_UTTERANCES, TRIAL_TOLERANCE, Workbench, by_turns
from space import VERSION
from space.choices import choices, choices_of, plan_of
from space.errors import UserError
from space.genes import repair
from space.limits import Limits
from space.plan import NO_HEAL, Heal, Plan

_FEWEST_PLANS = 8
# Options that a plan near the front and its neighbour differ in.
_CHANGES = 3
_GRADIENT_ROWS = 4
_RESULT = "fidelity.json"
# What plans are ranked by in the end, by name and whether they are healed for it.
FULL = {"unhealed": False, "healed": True}


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
    if settings.plans < _FEWEST_PLANS:
        raise UserError(f"--plans {settings.plans}: rank correlations need at least {_FEWEST_PLANS} plans")
    found = opened(settings.search)
    with alone(settings.folder):
        workbench = workbench_of(settings.search, found, console)
        plans = fidelity_plans(found.limits, found.source, settings.plans, settings.search.seed)
        examination = Examination(settings, found, workbench)
        rows = []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
        ) as progress:
            task = progress.add_task("plans", total=len(plans))
            for number, (kind, plan) in enumerate(plans):
                rows.append(examination.of(number, kind, plan))
                progress.update(task, advance=1)
                if not console.is_terminal:
                    console.print(f"plan {number + 1} of {len(plans)}")
        result = {
            "study": settings.search.study,
            "range": found.size_range.name,
            "signature": examination.signature,
            "rung_utterances": list(RUNG_UTTERANCES),
            "plans": rows,
            "table": table(rows, settings.search.seed),
        }
        write_whole(settings.folder / _RESULT, json.dumps(result, indent=1))
    return result


def fidelity_plans(limits: Limits, source: Source, count: int, seed: int) -> list[tuple[str, Plan]]:
    """`count` unhealed plans inside the limits with the kind each is of: half random, half near the front."""
    near: list[Plan] = []
    for start in starts(limits, source.vocabulary.coverage, NO_HEAL, 10 * count):
        plan = replace(start.plan, heal=NO_HEAL)
        if plan not in near:
            near.append(plan)
    wanted = count // 2
    near = near[: max(1, wanted // 2)]
    rng = random.Random(seed)
    while len(near) < wanted:
        near.append(neighbour(limits, rng.choice(near), rng, _CHANGES))
    drawn = random_plans(limits, count - wanted, seed)
    return [*(("random", plan) for plan in drawn), *(("near the front", plan) for plan in near)]


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

    @property
    def signature(self) -> str:
        search = self.settings.search
        return (
            f"chrF2 on select|{search.finalist_heal_steps} steps on {search.heal_rows} rows|seed {search.seed}"
            f"|{','.join(search.directions)}|model {self.opened.model}|data {self.opened.data}|tightfit {VERSION}"
        )

    def of(self, number: int, kind: str, plan: Plan) -> dict[str, Any]:
        """Every proxy at every rung, and the full evaluation, with seconds; the lower, the better."""
        path = self.settings.folder / f"plan-{number}.json"
        key = f"{self.signature}|{plan.to_json()}"
        if (known := read_keyed(path, key)) is not None:
            return known
        candidate = self.workbench.assembler.assembled(plan)
        cheap: dict[str, dict[str, float]] = {}
        for name, (proxy, rung) in _proxies(self).items():
            started = time.monotonic()
            score = proxy(Tryout(plan, candidate, rung))
            cheap[name] = {"score": score, "seconds": time.monotonic() - started}
        full = {}
        for name, healed in FULL.items():
            started = time.monotonic()
            score = self._full(self._healed(plan, number) if healed else candidate.model, plan.vocabulary)
            full[name] = {"score": score, "seconds": time.monotonic() - started}
        found = {"key": key, "kind": kind, "bytes": self.opened.limits.bytes_of(plan), "cheap": cheap, "full": full}
        write_whole(path, json.dumps(found, indent=1))
        return found

    def _healed(self, plan: Plan, number: int) -> PreTrainedModel:
        search = self.settings.search
        coach = Coach(trial_seed(search.seed, number), HealSettings(batch_rows=search.heal_rows))
        healed = replace(plan, heal=Heal(search.finalist_heal_steps))
        workbench = self.workbench
        return compress(
            workbench.source, healed, workbench.bank, seed=coach.seed, coach=coach, tolerance=TRIAL_TOLERANCE
        ).model

    def _full(self, model: PreTrainedModel, vocabulary: int) -> float:
        """100 less the mean chrF over directions on the select role."""
        exam = Exam(self.opened.corpus, self.settings.search.directions, self.opened.data)
        return 100 - mean_chrf(exam.scores(model, _processor(self, vocabulary), "select"))

    def translated(self, tryout: Tryout, utterances: int) -> dict[str, list[str]]:
        """Translations of the first utterances of the proxy role, in the order the rungs have them in."""
        examples = by_turns(self.opened.corpus.examples("proxy"))[:utterances]
        model: PreTrainedModel = tryout.candidate.model
        processor = _processor(self, tryout.plan.vocabulary)
        return {code: translate(model, processor, examples, code) for code in self.settings.search.languages}


@cache
def _proxies(examination: Examination) -> dict[str, tuple[Proxy, int]]:
    """Every proxy and a rung by name; those that run a model at each rung, every time whole."""
    workbench, languages = examination.workbench, examination.settings.search.languages
    source, prefixes = workbench.source, workbench.prefixes
    deviations = Deviations(source, workbench.bank)
    rows = [lesson.row for lesson in workbench.proxy.lessons]
    squares = squared_gradients(source, batches(rows, _GRADIENT_ROWS, pad_token(source.model)))
    examples = by_turns(examination.opened.corpus.examples("proxy"))
    references = {code: [example.references[code] for example in examples] for code in languages}

    def on_rows(measure: Callable[[Assembled, int, int], float]) -> Proxy:
        def proxy(tryout: Tryout) -> float:
            prefixes.forget()
            return measure(tryout.candidate, tryout.plan.vocabulary, tryout.rung)

        return proxy

    running: dict[str, Proxy] = {
        "divergence": on_rows(prefixes.divergence),
        "loss": on_rows(prefixes.loss),
        "chrF": Translations(examination.translated, references, RUNG_UTTERANCES),
    }
    return {
        "weight error": (WeightError(deviations), 0),
        "gradient": (GradientError(deviations, squares), 0),
        **{
            f"{name}, {utterances}": (proxy, rung)
            for name, proxy in running.items()
            for rung, utterances in enumerate(RUNG_UTTERANCES)
        },
    }


@cache
def _processor(examination: Examination, vocabulary: int) -> Any:
    """The processor of a checkpoint in which so many tokens stay."""
    source = examination.opened.source
    if vocabulary == source.vocabulary.rows:
        return source.processor
    with tempfile.TemporaryDirectory() as folder:
        for name, data in source.vocabulary.fixed_files(vocabulary).items():
            (Path(folder) / name).write_bytes(data)
        return load_processor(Path(folder))


def table(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """For every proxy and rung the rank correlations with each full evaluation, over all plans and the best quarter."""
    return list(_table(rows, seed))


def _table(rows: Sequence[dict[str, Any]], seed: int) -> Iterator[dict[str, Any]]:
    for full in FULL:
        final = [row["full"][full]["score"] for row in rows]
        groups = {"all": list(range(len(rows))), "best quarter": best_quarter(final)}
        for cheap in rows[0]["cheap"]:
            for group, chosen in groups.items():
                scores = [rows[i]["cheap"][cheap]["score"] for i in chosen]
                found = fidelity(scores, [final[i] for i in chosen], seed)
                yield {
                    "full": full,
                    "proxy": cheap,
                    "group": group,
                    "seconds": median(row["cheap"][cheap]["seconds"] for row in rows),
                    **asdict(found),
                }
