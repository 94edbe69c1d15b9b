"""Finalists: healed in full, written, weighed, loaded back, translated; the champion is chosen on the select role."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from transformers import PreTrainedModel

from compress.checkpoint import folder_bytes, load_translator, read_plan, write_checkpoint
from compress.heal import Coach, HealSettings
from compress.pipeline import Compressed, compress
from compress.resume import TrainingFile
from corpora.roles import DIRECTIONS, Corpus
from models.devices import current
from models.loading import Source
from scoring.metrics import score
from scoring.translate import DECODING, translate
from search.study import best_first
from search.workbench import Workbench
from space.errors import UserError, first_line
from space.files import write_whole
from space.fill import filled
from space.limits import Limits
from space.plan import Plan
from space.rates import Coded
from space.size import plan_parameters, units

RESULT = "result.json"
# Utterances whose translations are kept to be looked at.
_SAMPLES = 3


@dataclass(frozen=True)
class Exam:
    """The data (`data` is its fingerprint), directions and decoding that every full evaluation of a study shares."""

    corpus: Corpus
    directions: Sequence[str]
    data: str
    batch_size: int = 32

    def scores(self, model: Any, processor: Any, role: str) -> dict[str, dict[str, Any]]:
        """BLEU, chrF and signatures by direction on a role."""
        return self.scored(self.translations(model, processor, role), role)

    def translations(self, model: Any, processor: Any, role: str) -> dict[str, list[str]]:
        """What a model makes of a role's utterances, by direction."""
        examples = self.corpus.examples(role)
        return {
            direction: translate(model, processor, examples, DIRECTIONS[direction], batch_size=self.batch_size)
            for direction in self.directions
        }

    def references(self, role: str) -> dict[str, list[str]]:
        """What a role's utterances should become, by direction."""
        examples = self.corpus.examples(role)
        return {
            direction: [example.references[DIRECTIONS[direction]] for example in examples]
            for direction in self.directions
        }

    def scored(self, translations: Mapping[str, Sequence[str]], role: str) -> dict[str, dict[str, Any]]:
        """Scores of translations of a role."""
        found, references = {}, self.references(role)
        for direction in self.directions:
            scores = score(translations[direction], references[direction], DIRECTIONS[direction])
            signatures = [*scores.signatures, f"decoding|{DECODING}", f"{role} role of data {self.data}"]
            signatures += filter(None, [current().signature.removeprefix("|")])
            found[direction] = {**scores.to_dict(), "signatures": signatures}
        return found

    def samples(self, translations: Mapping[str, Sequence[str]], role: str) -> list[dict[str, str]]:
        """A few utterances of a role with translations and references; where utterances are texts, with these."""
        references = self.references(role)
        return [
            {
                "id": example.id,
                "direction": direction,
                **({"text": example.utterance} if isinstance(example.utterance, str) else {}),
                "translation": translations[direction][place],
                "reference": references[direction][place],
            }
            for place, example in enumerate(self.corpus.examples(role)[:_SAMPLES])
            for direction in self.directions
        ]


def choose(complete: Sequence[FrozenTrial], count: int) -> list[FrozenTrial]:
    """`count` complete trials to examine in full, the best first.

    Bytes do not matter here: a finalist fills what is left under the bound. Of trials that differ in their steps of
    healing alone the best one counts.
    """
    return best_first(complete, ("heal_steps",))[:count]


def best_of_kind(complete: Iterable[FrozenTrial], kind: str) -> FrozenTrial | None:
    """The best complete trial among a study's first plans of a kind."""
    return next(iter(best_first((trial for trial in complete if kind in trial.user_attrs), ())), None)


def examine(
    plan: Plan,
    about: Mapping[str, Any],
    workbench: Callable[[], Workbench],
    exam: Exam,
    folder: Path,
    *,
    source: Source,
    limits: Limits,
    heal_steps: int,
    healing: HealSettings,
    seed: int,
    key: str,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Carries a plan out in full and scores what is loaded back; a finished one of this `key` is only read.

    What the plan leaves unused under the bound its coded rates are given first. The workbench, which is costly to make,
    is asked for where there is something to carry out. The result holds what is said `about` the plan.

    The report role is not touched here. Raises AssertionError if an artefact leaves the range or its prediction.
    """
    result_path = folder / RESULT
    plan = filled(replace(plan, heal=replace(plan.heal, steps=heal_steps)), limits)
    key = f"{key}|{healing}|{seed}|{plan.to_json()}"
    known = read_keyed(result_path, key)
    if known is not None:
        _forget_healing(folder)
        return known
    # The result is the completion mark of the model beside it.
    result_path.unlink(missing_ok=True)
    predicted = limits.bytes_of(plan)
    file = TrainingFile(folder / "healing", key)
    done = heal_in_full(workbench(), plan, Coach(seed, healing, progress, file=file))
    on_disk = write_checkpoint(folder / "model", source, done.plan, done.stored)
    # coded matrices leave next to nothing (tests/search/test_study.py); what they leave ends no study
    full = on_disk == predicted or (on_disk < predicted and _coded(source, plan))
    assert full, f"{folder}: {on_disk} bytes on disk, {predicted} predicted"
    assert limits.size_range.holds(on_disk), f"{folder}: {on_disk} bytes are outside of the range"
    model, processor = load_translator(folder / "model")
    translations = exam.translations(model, processor, "select")
    result = {
        "key": key,
        **about,
        "bytes_predicted": predicted,
        "bytes_on_disk": on_disk,
        "parameters": plan_parameters(source.layout, plan),
        "path": str(folder / "model"),
        "heal_steps": done.plan.heal.steps,
        "select": exam.scored(translations, "select"),
        "samples": exam.samples(translations, "select"),
    }
    write_whole(result_path, json.dumps(result, indent=1, ensure_ascii=False))
    _forget_healing(folder)
    return result


def _forget_healing(folder: Path) -> None:
    for left in folder.glob("healing.*"):
        left.unlink()


def drop_damaged(folder: Path) -> str | None:
    """Takes from a finalist that is not whole any more the mark that it is finished; returns what is wrong with it."""
    path, model = folder / RESULT, folder / "model"
    if not path.exists():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))["bytes_on_disk"]
        read_plan(model)
        if (found := folder_bytes(model)) == said:
            return None
        reason = f"{model} weighs {found:,} bytes, not the {said:,} it was written with"
    except UserError as error:
        reason = first_line(error).partition("; ")[0]
    except (ValueError, KeyError, TypeError):
        reason = f"{path} is damaged"
    path.unlink()
    return reason


def _coded(source: Source, plan: Plan) -> bool:
    return any(isinstance(unit.rate, Coded) for unit in units(source.layout, plan))


def heal_in_full(workbench: Workbench, plan: Plan, coach: Coach) -> Compressed:
    """The plan carried out with its steps of healing, or with none where that diverges less on the select role.

    On the way there, too, the state is kept that diverges least there.
    """
    plain = compress(workbench.source, replace(plan, heal=replace(plan.heal, steps=0)), workbench.bank, seed=coach.seed)
    if not plan.heal.steps:
        return plain

    def judge(model: PreTrainedModel) -> float:
        return workbench.unseen_divergence(model, plan.vocabulary)

    healed = compress(workbench.source, plan, workbench.bank, seed=coach.seed, coach=replace(coach, judge=judge))
    return min((healed, plain), key=lambda done: judge(done.model))


def report_scores(result: dict[str, Any], exam: Exam, folder: Path) -> dict[str, Any]:
    """The result with its scores on the report role, which is opened for finalists only."""
    if "scores" not in result:
        model, processor = load_translator(folder / "model")
        result = {**result, "scores": exam.scores(model, processor, "report")}
        write_whole(folder / RESULT, json.dumps(result, indent=1, ensure_ascii=False))
    return result


def source_scores(source: Source, exam: Exam, path: Path, key: str) -> dict[str, Any]:
    """Scores of the uncompressed model on the report role; kept with the study."""
    known = read_keyed(path, key)
    if known is None:
        known = {"key": key, "scores": exam.scores(source.model, source.processor, "report")}
        write_whole(path, json.dumps(known, indent=1, ensure_ascii=False))
    scores: dict[str, Any] = known["scores"]
    return scores


def read_keyed(path: Path, key: str) -> dict[str, Any] | None:
    """What an earlier run wrote there under the same key; None where there is nothing that can be used again."""
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return known if known["key"] == key else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def mean_chrf(scores: dict[str, dict[str, Any]]) -> float:
    """Mean over directions: what the champion is chosen by."""
    total: float = sum(direction["chrf"] for direction in scores.values())
    return total / len(scores)
