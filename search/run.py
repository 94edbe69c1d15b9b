"""The main job from settings to summary: trials, finalists, champion."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from compress.heal import HealSettings
from models.devices import computing, current
from models.loading import Source
from search.baselines import losses_of, starts
from search.fidelity import kept_fidelity
from search.finalists import Exam, choose, examine, mean_chrf, report_scores, source_scores
from search.loop import Terms, run_trials
from search.opening import measured_losses, opened, workbench_of
from search.progress import progress_on
from search.rungs import SURVIVAL
from search.samplers import check_sampler, sampler_named
from search.settings import SearchSettings, comparability
from search.stopping import Stopping
from search.study import driver_lock, open_study
from search.warm import best_trials, warm_starts
from search.workbench import SIGNATURE, Workbench, with_recombined
from space import VERSION
from space.bins import format_bytes
from space.files import write_whole
from space.limits import Limits
from space.plan import Heal

SUMMARY = "summary.json"
# A study of fewer trials does not measure sensitivities, which take as long as some of its trials.
_WORTH_MEASURING = 20


@dataclass(frozen=True)
class Job:
    """A search under way: its settings and what was loaded for it."""

    settings: SearchSettings
    source: Source
    limits: Limits
    study: optuna.Study
    workbench: Workbench
    exam: Exam
    console: Console
    signature: str
    shared: dict[str, Any]
    warm: list[FrozenTrial]
    started: float


def run_search(settings: SearchSettings, console: Console) -> dict[str, Any]:
    """Runs or resumes the study to its total and returns what summary.json holds. Raises UserError for mistakes."""
    with computing(settings.compute):
        return _searched(settings, console)


def _searched(settings: SearchSettings, console: Console) -> dict[str, Any]:
    started = time.monotonic()
    check_sampler(settings.sampler)
    found = opened(settings)
    source, limits, size_range = found.source, found.limits, found.size_range
    shared = comparability(settings, size_range, model=found.model, data=found.data)
    warm = best_trials(settings, shared)
    with driver_lock(settings.folder, settings.storage), open_study(settings, shared) as study:
        console.print(
            f"[bold]tightfit[/] {size_range.name}: {format_bytes(size_range.least_bytes, size_range.units)} to "
            f"{format_bytes(size_range.bound_bytes, size_range.units)}, source "
            f"{format_bytes(source.layout.source_bytes, size_range.units)}"
            f" (bins scale with the source), study {settings.folder}"
        )
        workbench = workbench_of(settings, found, console)
        signature = (
            f"{SIGNATURE}|{','.join(settings.directions)}|{HealSettings()}|model {shared['model']}"
            f"|data {shared['data']}|tightfit {VERSION}{current().signature}"
        )
        exam = Exam(found.corpus, settings.directions, shared["data"])
        job = Job(settings, source, limits, study, workbench, exam, console, signature, shared, warm, started)
        _search(job)
        results, baseline = _finals(job)
        seconds = round(study.user_attrs.get("seconds", 0) + time.monotonic() - started, 1)
        study.set_user_attr("seconds", seconds)
        summary = _summary(job, results, baseline, seconds)
        write_whole(settings.folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False))
    return summary


def _search(job: Job) -> None:
    if job.settings.trials >= _WORTH_MEASURING:
        losses = measured_losses(job.workbench, job.limits, job.console)
    else:
        losses = losses_of(job.limits, job.source.vocabulary.coverage)
    heal_steps = job.settings.trial_heal_steps
    job.study.sampler = sampler_named(job.settings.sampler, job.limits, losses, job.settings.seed, heal_steps)
    warm = warm_starts(job.settings.warm_start, job.warm, job.limits, losses, Heal(heal_steps), seed=job.settings.seed)
    first = starts(job.limits, losses, Heal(heal_steps), job.settings.trials, warm)
    terms = Terms(job.limits, first, job.settings.seed, job.signature, _survival(job), heal_steps)
    done = sum(trial.state.is_finished() for trial in job.study.get_trials(deepcopy=False))
    with progress_on(job.console) as progress:
        task = progress.add_task("trials", total=job.settings.trials, completed=min(done, job.settings.trials))

        def on_trial(trial: FrozenTrial) -> None:
            complete = job.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            best = 100 - min((other.values[0] for other in complete), default=float("nan"))
            progress.update(task, advance=1, description=f"trials, best chrF {best:.1f}")
            if not job.console.is_terminal and (trial.number + 1) % 20 == 0:
                job.console.print(f"trial {trial.number + 1} of {job.settings.trials}, best chrF {best:.1f}")

        def stop() -> bool:
            reason = stopping.reason(job.study.get_trials(deepcopy=False))
            if reason:
                progress.console.print(reason)
            return reason is not None

        bound = job.limits.size_range.bound_bytes
        with Stopping(job.settings.hours, job.settings.patience, bound, job.started) as stopping:
            run_trials(job.study, job.workbench, terms, job.settings.trials, on_trial, stop=stop)


def _survival(job: Job) -> tuple[float, ...]:
    """Shares of trials that go on from the rungs: those of the study's own fidelity, if it was measured."""
    measured = _fidelity(job)
    shares: tuple[float, ...] = measured["survival"] if measured else ()
    known = f"by the fidelity of {measured['plans']} plans" if measured and shares else "the bundled model's"
    shares = shares or SURVIVAL
    job.console.print(f"rungs: {', '.join(f'{share:.2g}' for share in shares)} of the trials go on ({known})")
    return shares


def _fidelity(job: Job) -> dict[str, Any] | None:
    return kept_fidelity(job.settings.folder, job.limits.size_range.name, job.shared)


def _finals(job: Job) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Results of the finalists and of the best baseline, report scores included."""
    front, baseline = choose(job.study, job.settings.finalists)
    trials = {trial.number: trial for trial in [*front, *([baseline] if baseline else [])]}
    results: dict[int, dict[str, Any]] = {}
    made = job.settings.recombined if job.settings.finalist_heal_steps else 0

    @cache
    def workbench() -> Workbench:
        """The search's, with more to heal on; made when the first finalist asks for it."""
        if not made:
            return job.workbench
        job.console.print("recombining utterances for the finalists, which the source translates")
        return with_recombined(job.workbench, job.exam.corpus, job.settings.languages, made, job.settings.seed)

    for number, trial in trials.items():
        with progress_on(job.console) as progress:
            task = progress.add_task(f"healing trial {number}", total=job.settings.finalist_heal_steps)
            results[number] = examine(
                trial,
                workbench,
                job.exam,
                _finalist_folder(job, number),
                source=job.source,
                limits=job.limits,
                heal_steps=job.settings.finalist_heal_steps,
                healing=HealSettings(batch_rows=job.settings.heal_rows),
                key=f"{job.signature}|{made} recombined",
                progress=lambda step, task=task, progress=progress: progress.update(task, completed=step),  # type: ignore[misc]
            )
    with job.console.status("scoring on the report role"):
        for number in trials:
            results[number] = report_scores(results[number], job.exam, _finalist_folder(job, number))
    return [results[trial.number] for trial in front], (results[baseline.number] if baseline else None)


def _finalist_folder(job: Job, number: int) -> Path:
    return job.settings.folder / "finalists" / f"trial-{number}"


def _summary(
    job: Job, results: list[dict[str, Any]], baseline: dict[str, Any] | None, seconds: float
) -> dict[str, Any]:
    trials = job.study.get_trials(deepcopy=False)
    states = {name: sum(t.state == state for t in trials) for name, state in _STATES.items()}
    outside = [t for t in trials if "bytes" in t.user_attrs and not job.limits.size_range.holds(t.user_attrs["bytes"])]
    everything = [*results, *([baseline] if baseline and baseline not in results else [])]
    champion = max(everything, key=lambda result: mean_chrf(result["select"]), default=None)
    status = job.console.status("scoring the uncompressed model") if job.console.is_terminal else nullcontext()
    with status:
        source = source_scores(job.source, job.exam, job.settings.folder / "source.json", job.signature)
    return {
        "study": job.settings.study,
        "bin": job.settings.bin,
        "range": job.limits.size_range.name,
        "units": str(job.limits.size_range.units),
        "least_bytes": job.limits.size_range.least_bytes,
        "bound_bytes": job.limits.size_range.bound_bytes,
        "trials": states,
        "out_of_bin_trials": len(outside),
        "finalists": [_row(result) for result in results],
        "champion": _row(champion) if champion else None,
        "source": {
            "bytes": job.source.layout.source_bytes,
            "parameters": job.source.layout.parameters,
            "scores": {direction: _plain(scores) for direction, scores in source.items()},
        },
        "baselines": [_row(baseline) | {"name": baseline["baseline"]}] if baseline else [],
        "seconds": seconds,
        "fidelity": _fidelity(job),
        "signatures": {
            "loss": job.signature,
            **{direction: scores["signatures"] for direction, scores in source.items()},
        },
    }


_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def _row(result: dict[str, Any]) -> dict[str, Any]:
    keys = ("trial", "bytes_predicted", "bytes_on_disk", "parameters", "path", "heal_steps")
    scores = {direction: _plain(scores) for direction, scores in result["scores"].items()}
    return {
        **{key: result[key] for key in keys},
        "scores": scores,
        "select_chrf": round(mean_chrf(result["select"]), 2),
    }


def _plain(scores: dict[str, Any]) -> dict[str, float]:
    return {metric: scores[metric] for metric in ("bleu", "chrf")}
