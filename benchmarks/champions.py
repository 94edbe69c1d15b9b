"""A study's champion against simpler ways: ``python -m benchmarks.champions --bins 3 --study studies/bin3``, an hour

The champion is the plan of the best finalist of a finished study (``python launch.py --bin 3 --trials 200``). Beside it
stand a uniform rate; middle layers removed and 4 bits; greedy removal of layers by chrF, as published in 2025 (Moslem),
decoder first and encoder where the decoder alone is not enough, at 4 bits and, so that fewer layers go, at the most
bits that fit; a rate for each sublayer by additive losses without pruning, as AutoRound's AutoScheme allocates them;
and the allocator on the same losses with pruning allowed, our search's own first step. All are filled up to the bound
and healed with the same steps, rows and seed, the champion anew, stored, weighed, loaded back and translate the report
role. Leads are the champion's, with the 95 % intervals and p-values of the paired bootstrap over its utterances.

Results are kept in studies/benchmark-champions, plan by plan; a run that was killed goes on where it was. Without a
study the others are made ahead, and nothing is published.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.contenders import (
    Contender,
    additive,
    allocated,
    greedy,
    greedy_at_bits_that_fit,
    greedy_path,
    middle_removed,
    said,
    uniform,
)
from benchmarks.publish import publish_bins, target
from benchmarks.samplers import kept, made_of
from compress.checkpoint import load_translator, read_plan
from compress.heal import HealSettings
from corpora.roles import DIRECTIONS
from scoring.metrics import metrics_of
from scoring.significance import Lead, lead
from search.exam import Exam, mean_chrf
from search.finalists import examine
from search.finals import SUMMARY
from search.gates import RUNG_UTTERANCES
from search.opening import Opened, measured_losses, opened, workbench_of
from search.settings import SearchSettings
from search.workbench import Workbench, with_recombined
from space.errors import UserError
from space.limits import Limits
from space.plan import Plan

STUDY = "benchmark-champions"
CHAMPION = "champion"
SIGNIFICANT = 0.05
# The champion's, by direction and metric.
Leads = Mapping[str, Mapping[str, Lead]]


@dataclass(frozen=True)
class Ring:
    """What all of a bin share; `made_of` says of what."""

    settings: SearchSettings
    found: Opened
    workbench: Workbench
    exam: Exam
    made_of: str

    @property
    def limits(self) -> Limits:
        return self.found.limits

    @property
    def folder(self) -> Path:
        return self.settings.folder / f"bin{self.settings.bin}"

    def heard(self, plan: Plan) -> float:
        """100 less chrF of a plan on the proxy role, unhealed; kept, since removal asks for many."""
        path = self.folder / "heard" / f"{_named(plan)}.json"
        found: float = kept(path, f"{self.made_of}|{plan.to_json()}", lambda: {"loss": self._heard(plan)})["loss"]
        return found

    def _heard(self, plan: Plan) -> float:
        model = self.workbench.assembler.assembled(plan).model
        loss = self.workbench.translations(model, plan.vocabulary, RUNG_UTTERANCES[-1])
        print(f"unhealed chrF {100 - loss:.1f}: {said(self.limits.layout, plan)}", flush=True)
        return loss

    def contenders(self) -> list[Contender]:
        """Everything the champion is held against."""
        losses = measured_losses(self.workbench, self.limits, Console())
        path = greedy_path(self.limits, self.heard)
        return [
            uniform(self.limits),
            middle_removed(self.limits),
            greedy(self.limits, path),
            additive(self.limits, losses["sensitivities"]),
            allocated(self.limits, losses["sensitivities"]),
            greedy_at_bits_that_fit(self.limits, path, self.heard),
        ]

    def champion(self, summary: Mapping[str, Any], study: Path) -> Contender:
        """The plan of a study's best finalist. Raises UserError where it is of another model, data or range."""
        size_range = (summary["least_bytes"], summary["bound_bytes"])
        ours = (self.limits.size_range.least_bytes, self.limits.size_range.bound_bytes)
        made_of = f"|model {self.found.model}|data {self.found.data}|"
        if size_range != ours or made_of not in summary["signatures"]["loss"]:
            raise UserError(f"--study {study}: is of another model, data or range than bin {self.settings.bin} here")
        if summary["champion"] is None:
            raise UserError(f"--study {study}: has no champion; let it finish")
        number, trials = summary["champion"]["trial"], sum(summary["trials"].values())
        _, plan = read_plan(study / "finalists" / f"trial-{number}" / "model")
        name = f"{CHAMPION} of {trials} trials"
        return Contender(name, f"trial {number}: {said(self.limits.layout, plan)}", plan)

    def carried_out(self, one: Contender) -> dict[str, Any] | None:
        """What a contender came to, with its translations of the report role; None where no plan fits.

        Contenders of one plan are one.
        """
        if one.plan is None:
            return None
        settings, folder = self.settings, self.folder / "healed" / _named(one.plan)
        print(f"{one.name}: {one.what}", flush=True)
        result = examine(
            one.plan,
            {"what": one.what},
            self._with_recombined,
            self.exam,
            folder,
            source=self.found.source,
            limits=self.limits,
            heal_steps=settings.finalist_heal_steps,
            healing=HealSettings(batch_rows=settings.heal_rows),
            seed=settings.seed,
            key=f"{self.made_of}|{settings.recombined} recombined",
            progress=lambda step: print(f"step {step}", flush=True) if step % 50 == 0 else None,
        )
        report = kept(folder / "report.json", result["key"], lambda: {"translations": self._report(folder)})
        return {**result, "translations": report["translations"]}

    def _with_recombined(self) -> Workbench:
        settings = self.settings
        return with_recombined(
            self.workbench, self.found.corpus, settings.languages, settings.recombined, settings.seed
        )

    def _report(self, folder: Path) -> dict[str, list[str]]:
        """The report role, which is opened for what is carried out in full only."""
        return self.exam.translations(*load_translator(folder / "model"), "report").texts


def _named(plan: Plan) -> str:
    return hashlib.sha256(plan.to_json().encode()).hexdigest()[:16]


def ring(settings: SearchSettings) -> Ring:
    """Loads and measures, or has the bank's measurements."""
    found = opened(settings)
    workbench = workbench_of(settings, found, Console())
    found.corpus.sealed.clear()
    exam = Exam(found.corpus, settings.directions, found.data)
    return Ring(settings, found, workbench, exam, f"{asdict(found.limits.size_range)}|{made_of(found)}")


def leads(ours: Mapping[str, Sequence[str]], theirs: Mapping[str, Sequence[str]], exam: Exam) -> Leads:
    """How far our translations of the report role are ahead of theirs."""
    references = exam.references("report")
    return {
        direction: {
            name: lead(metric, ours[direction], theirs[direction], references[direction])
            for name, metric in metrics_of(DIRECTIONS[direction]).items()
        }
        for direction in exam.directions
    }


def rows_of(
    number: int, exam: Exam, one: Contender, result: dict[str, Any] | None, found: Leads | None
) -> list[dict[str, Any]]:
    """A row for each direction; `found` are the champion's leads, None for itself and where nothing fits."""
    rows = []
    for direction in exam.directions:
        row = {"bin": number, "model": one.name, "what": one.what, "direction": direction}
        if result is not None:
            row |= {"bytes": result["bytes_on_disk"], "parameters": result["parameters"]}
            row |= {"heal steps": result["heal_steps"], "select chrF2": round(mean_chrf(result["select"]), 2)}
            row |= _scores(exam, direction, result["translations"][direction], found[direction] if found else {})
        rows.append(row)
    return rows


def _scores(exam: Exam, direction: str, said: Sequence[str], found: Mapping[str, Lead]) -> dict[str, Any]:
    """Scores of translations of the report role, and the champion's leads over them."""
    scores: dict[str, Any] = {}
    for name, metric in metrics_of(DIRECTIONS[direction]).items():
        score = metric.corpus_score(said, [exam.references("report")[direction]]).score
        scores |= {name: round(score, 2), f"{name} lead": _said(found[name]) if found else ""}
    return scores


def _said(one: Lead) -> str:
    return f"{one.value:+.1f} ({one.low:.1f} to {one.high:.1f}), p {one.p:.3f}"


def targets_of(number: int, one: Contender, found: Leads) -> list[dict[str, Any]]:
    """The champion's BLEU is at least the contender's in every direction, and significantly so."""
    worst = min((scores["BLEU"] for scores in found.values()), key=lambda lead: lead.value)
    likely = max(scores["BLEU"].p if scores["BLEU"].value > 0 else 1.0 for scores in found.values())
    name = f"bin {number}, champion's BLEU over that of {one.name}"
    return [
        target(f"{name}, least lead", round(worst.value, 2), 0.0, at_least=True),
        target(f"{name}, largest p", round(likely, 4), SIGNIFICANT, at_least=False),
    ]


def alike(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the keys of the fullest; what one lacks is empty."""
    keys = max(rows, key=len)
    return [{key: row.get(key, "") for key in keys} for row in rows]


def summaries(folders: Sequence[Path]) -> dict[int, tuple[dict[str, Any], Path]]:
    """Finished studies by the number of their bin. Raises UserError for a folder that is none."""
    found = {}
    for folder in folders:
        try:
            summary = json.loads((folder / SUMMARY).read_text())
            found[int(summary["bin"])] = summary, folder
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"--study {folder}: no {SUMMARY} of a bin there ({error}); let the study finish") from error
    return found


def held_against(
    at: Ring, summary: Mapping[str, Any], study: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and targets of a bin."""
    number = at.settings.bin
    assert number is not None
    champion = at.champion(summary, study)
    ours = at.carried_out(champion)
    assert ours is not None
    rows, targets = rows_of(number, at.exam, champion, ours, None), []
    for one in at.contenders():
        theirs = at.carried_out(one)
        found = leads(ours["translations"], theirs["translations"], at.exam) if theirs else None
        rows += rows_of(number, at.exam, one, theirs, found)
        targets += targets_of(number, one, found) if found else []
    return alike(rows), targets


def main() -> None:
    """A table for the bins that have a study."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bins", type=int, nargs="+", default=[3])
    parser.add_argument("--study", type=Path, nargs="*", default=[], help="folders of finished studies")
    parser.add_argument("--heal-steps", type=int, default=SearchSettings.finalist_heal_steps)
    options = parser.parse_args()
    finished = summaries(options.study)
    rows: list[dict[str, Any]] = []
    targets: list[dict[str, Any]] = []
    for number in options.bins:
        at = ring(SearchSettings(study=STUDY, trials=200, bin=number, finalist_heal_steps=options.heal_steps))
        if number in finished:
            more = held_against(at, *finished[number])
            rows += more[0]
            targets += more[1]
        else:
            for one in at.contenders():
                at.carried_out(one)
            print(f"bin {number}: no study was given; nothing is published")
    if rows:
        publish_bins("champions", alike(rows), targets)


if __name__ == "__main__":
    main()
