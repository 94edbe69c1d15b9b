"""Finalists: healed in full, written, weighed, loaded back, translated; the champion is chosen on the select role."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from transformers import PreTrainedModel

from compress.checkpoint import folder_bytes, load_translator, read_plan, write_checkpoint
from compress.heal import Coach, HealSettings
from compress.pipeline import Compressed, compress
from compress.resume import TrainingFile
from models.loading import Source
from search.exam import Exam, drop_kept, examined
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


def choose(complete: Sequence[FrozenTrial], count: int, among: Callable[[FrozenTrial], bool]) -> list[FrozenTrial]:
    """The `count` best of a study's complete trials to examine in full, `among` those of which that is true.

    Bytes do not matter here: a finalist fills what is left under the bound. Of trials that differ in their steps of
    healing alone the best one counts.
    """
    return best_first(complete, ("heal_steps",), among)[:count]


def best_of_kind(complete: Sequence[FrozenTrial], kind: str) -> FrozenTrial | None:
    """The best of a study's complete trials among its first plans of a kind."""
    return next(iter(best_first(complete, (), lambda trial: kind in trial.user_attrs)), None)


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
        return _with_select(known, exam, folder)
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
    result = {
        "key": key,
        **about,
        "bytes_predicted": predicted,
        "bytes_on_disk": on_disk,
        "parameters": plan_parameters(source.layout, plan),
        "path": str(folder / "model"),
        "heal_steps": done.plan.heal.steps,
    }
    result = _with_select(result, exam, folder)
    _forget_healing(folder)
    return result


def _with_select(result: dict[str, Any], exam: Exam, folder: Path) -> dict[str, Any]:
    """The result with scores on the select role, by which champions are chosen; kept."""
    found = examined(result, exam, "select", lambda: load_translator(folder / "model"), folder)
    if found != result:
        found["samples"] = exam.samples(found["select translations"], "select")
        keep_result(folder / RESULT, found)
    return found


def keep_result(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result; its translations and scores stay for later runs."""
    write_whole(path, json.dumps(result, indent=1, ensure_ascii=False))
    drop_kept(path.parent)


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
    found = examined(result, exam, "report", lambda: load_translator(folder / "model"), folder)
    if found != result:
        keep_result(folder / RESULT, found)
    return found


def source_result(source: Source, exam: Exam, path: Path, key: str) -> dict[str, Any]:
    """The uncompressed model's scores and translations on the report role; kept with the study."""
    known = read_keyed(path, key) or {"key": key}
    found = examined(known, exam, "report", lambda: (source.model, source.processor), path.parent)
    if found != known:
        keep_result(path, found)
    return found


def read_keyed(path: Path, key: str) -> dict[str, Any] | None:
    """What an earlier run wrote there under the same key; None where there is nothing that can be used again."""
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return known if known["key"] == key else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
