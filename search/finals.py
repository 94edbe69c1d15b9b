"""The end of a search: finalists of every range examined, the champion of each, and the summary of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from compress.heal import HealSettings
from search.baselines import ALLOCATED, BASELINE, WHOLE_KINDS
from search.exam import COMET, Exam, mean_chrf, quality, with_comet
from search.finalists import best_of_kind, choose, drop_damaged, examine, report_scores, source_result
from search.job import Job
from search.loop import limits_of
from search.opening import adaptation_of
from search.progress import progress_on
from search.rating import leads_of
from search.rungs import BYTES
from search.workbench import Workbench, with_recombined
from space.genes import decode
from space.limits import Limits

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Finals:
    """Results of a range's finalists, the best trial first, and of its best baseline, where that is examined.

    The allocator's own plan is a finalist behind the best trials: healing for longer may put it before what a search
    found.
    """

    limits: Limits
    results: list[dict[str, Any]]
    baseline: dict[str, Any] | None
    criterion: str

    @property
    def everything(self) -> list[dict[str, Any]]:
        return [*self.results, *([self.baseline] if self.baseline else [])]

    @property
    def champion(self) -> dict[str, Any] | None:
        """The best on the select role by the criterion; None of a range in which no trial was complete."""
        return max(self.everything, key=self.quality, default=None)

    def quality(self, result: dict[str, Any]) -> float:
        return quality(result["select"], self.criterion)


def finals_of(job: Job) -> list[Finals]:
    """Of every range, report scores included.

    Where there are several, a range's best baseline and allocator's plan are examined only among its best trials.
    """
    made = job.settings.recombined if job.settings.finalist_heal_steps else 0

    @cache
    def workbench() -> Workbench:
        """The search's, with more to heal on; made when the first finalist asks for it."""
        if not made:
            return job.workbench
        job.console.print("recombining utterances for the finalists, which the source translates")
        return with_recombined(job.workbench, job.exam.corpus, job.settings.languages, made, job.settings.seed)

    complete = job.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found = []
    for limits in job.ranges:
        front = choose(complete, job.settings.finalists, partial(_kept_to, limits, job.ranges))
        baseline = allocated = None
        if len(job.ranges) == 1:
            baseline, allocated = (best_of_kind(complete, kind) for kind in WHOLE_KINDS)
        if allocated is not None and allocated.number not in {trial.number for trial in front}:
            front.append(allocated)
        trials = {trial.number: trial for trial in [*front, *([baseline] if baseline else [])]}
        results = _examined(job, limits, trials, workbench, f"{job.signature}|{made} recombined")
        found.append(
            Finals(
                limits,
                [results[one.number] for one in front],
                results[baseline.number] if baseline else None,
                job.exam.criterion,
            )
        )
    return found


def _kept_to(limits: Limits, ranges: Sequence[Limits], trial: FrozenTrial) -> bool:
    return limits_of(trial.user_attrs, ranges) is limits


def _examined(
    job: Job, limits: Limits, trials: Mapping[int, FrozenTrial], workbench: Callable[[], Workbench], key: str
) -> dict[int, dict[str, Any]]:
    """Results of trials by number."""
    results: dict[int, dict[str, Any]] = {}
    for number, trial in trials.items():
        if damage := drop_damaged(_folder(job, number)):
            job.console.print(f"trial {number} is healed and written again: {damage}", markup=False)
        with progress_on(job.console) as progress:
            task = progress.add_task(f"healing trial {number}", total=job.settings.finalist_heal_steps)
            results[number] = examine(
                decode(trial.params, job.source.layout),
                {"trial": number, **{kind: trial.user_attrs.get(kind) for kind in WHOLE_KINDS}},
                workbench,
                job.exam,
                _folder(job, number),
                source=job.source,
                limits=limits,
                heal_steps=job.settings.finalist_heal_steps,
                healing=HealSettings(batch_rows=job.settings.heal_rows),
                seed=trial.user_attrs["seed"],
                key=key,
                progress=lambda step, task=task, progress=progress: progress.update(task, completed=step),  # type: ignore[misc]
            )
    with job.exam.corpus.unsealed("report"):
        return {number: report_scores(result, job.exam, _folder(job, number)) for number, result in results.items()}


def _folder(job: Job, number: int) -> Path:
    return job.settings.folder / "finalists" / f"trial-{number}"


def summary_of(job: Job, finals: Sequence[Finals], seconds: float) -> dict[str, Any]:
    """What summary.json holds."""
    with job.exam.corpus.unsealed("report"):
        return _summary(job, finals, seconds)


def _summary(job: Job, finals: Sequence[Finals], seconds: float) -> dict[str, Any]:
    """Of a study of one range its finalists, baseline and champion; of several the finalists of each, and the `front`:
    the champion of each range, without those that a smaller one is as good as.
    """
    size_range = job.size_range
    source = source_result(job.source, job.exam, job.settings.folder / "source.json", job.signature)["scores"]
    return {
        "study": job.settings.study,
        "bin": job.settings.bin,
        "range": size_range.name,
        "units": str(size_range.units),
        "least_bytes": size_range.least_bytes,
        "bound_bytes": size_range.bound_bytes,
        "data": str(job.settings.data),
        "condition": job.settings.condition,
        "segments": job.exam.segments,
        "beams": job.exam.beams,
        "utterances": len(job.exam.corpus.examples("report")),
        "chosen_by": job.exam.criterion,
        **_trials(job),
        **(_of_one(finals[0], job.exam) if len(finals) == 1 else _of_several(finals)),
        "source": {
            "bytes": job.source.layout.source_bytes,
            "parameters": job.source.layout.parameters,
            "adapted": _adapted(job),
            "scores": {direction: _plain(scores) for direction, scores in source.items()},
        },
        "seconds": seconds,
        "fidelity": job.fidelity.summary(job.gate) if job.fidelity else None,
        "signatures": {
            "loss": job.signature,
            **{direction: scores["signatures"] for direction, scores in source.items()},
        },
    }


def _adapted(job: Job) -> str | None:
    """How the source was trained on the task before, in words."""
    found = adaptation_of(job.source.folder)
    if found is None or not found["best_step"]:  # nothing helped: the model is as it was
        return None
    data = "the same data" if found["data"] == job.exam.data else "other data"
    return f"{found['method']}, {found['best_step']} steps, on role {found['role']} of {data}"


_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def _trials(job: Job) -> dict[str, Any]:
    """How many trials ended how, and how many were outside of their range: none."""
    trials = job.study.get_trials(deepcopy=False)
    outside = [
        trial
        for trial in trials
        if BYTES in trial.user_attrs
        and not limits_of(trial.user_attrs, job.ranges).size_range.holds(trial.user_attrs[BYTES])
    ]
    states = {name: sum(trial.state == state for trial in trials) for name, state in _STATES.items()}
    return {"trials": states, "out_of_bin_trials": len(outside)}


def _of_one(final: Finals, exam: Exam) -> dict[str, Any]:
    champion = final.champion
    others = [other for other in final.everything if champion and other["trial"] != champion["trial"]]
    return {
        "leads": leads_of(champion, others, exam) if champion else [],
        "finalists": [_row(result) for result in final.results],
        "champion": _row(final.champion) if final.champion else None,
        "baselines": [_row(final.baseline) | {"name": final.baseline[BASELINE]}] if final.baseline else [],
    }


def _of_several(finals: Sequence[Finals]) -> dict[str, Any]:
    named = [(final.limits.size_range.name, final) for final in finals]
    front: list[dict[str, Any]] = []
    best = float("-inf")
    for name, final in named:
        if final.champion and final.quality(final.champion) > best:
            best = final.quality(final.champion)
            front.append(_row(final.champion) | {"range": name})
    return {
        "finalists": [_row(result) | {"range": name} for name, final in named for result in final.results],
        "champion": None,
        "front": front,
        "baselines": [],
    }


def _row(result: dict[str, Any]) -> dict[str, Any]:
    keys = ("trial", "bytes_predicted", "bytes_on_disk", "parameters", "path", "heal_steps")
    scores = {direction: _plain(scores) for direction, scores in result["scores"].items()}
    return {
        **{key: result[key] for key in keys},
        "scores": scores,
        "select_chrf": round(mean_chrf(result["select"]), 2),
        **({"select_comet": round(quality(result["select"], COMET), 2)} if with_comet(result["select"]) else {}),
        "allocated": result.get(ALLOCATED) is not None,
    }


def _plain(scores: dict[str, Any]) -> dict[str, float]:
    return {metric: scores[metric] for metric in ("bleu", "chrf", "chrf++", "comet") if metric in scores}
