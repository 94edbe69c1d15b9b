"""The main job from settings to summary: trials, finalists, champion."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from models.devices import computing, current
from proxies.marginals import Marginals
from scoring.comet import Comet
from search.asking import UnaskedError
from search.banking import bank_fingerprint
from search.baselines import Start, few_starts, starts
from search.driving import driver_lock
from search.exam import Exam
from search.finals import SUMMARY, finals_of, summary_of
from search.gates import DEFAULT, Gate
from search.job import Job, whole_range
from search.kept import KeptFidelity, kept_fidelity
from search.logbook import Logbook
from search.loop import Terms, run_trials
from search.opening import Opened, measured_losses, opened, workbench_of
from search.pareto import sampler_over, size_over
from search.pools.choice import check_pool, pool_of
from search.progress import progress_on
from search.samplers import begins_with_grid, check_sampler
from search.settings import SearchSettings, comparability
from search.steps import Steps
from search.stopping import Stopping
from search.study import ASKED, open_study
from search.warm import best_trials, warm_starts
from search.workbench import TRIAL_HEALING, marginals, signature
from space import VERSION
from space.bins import SizeRange, format_bytes
from space.errors import UserError
from space.files import write_whole
from space.genes import space_fingerprint
from space.limits import Limits
from space.plan import Heal, Plan
from space.policy import Loss
from space.spread import in_turns

# Attributes of a study: the proxy by which trials are stopped, and how many utterances each rung scores, where its
# fidelity said so.
_GATE, _UTTERANCES = "gate", "rung utterances"
# And around how many plans it measures.
_ROUNDS = "remeasured"


def run_search(settings: SearchSettings, console: Console) -> dict[str, Any]:
    """Runs or resumes the study to its total and returns what summary.json holds. Raises UserError for mistakes."""
    with computing(settings.compute):
        return _searched(settings, console)


def _searched(settings: SearchSettings, console: Console) -> dict[str, Any]:
    started = time.monotonic()
    check_sampler(settings.sampler)
    found = opened(settings)
    check_pool(settings)
    exam = exam_of(settings, found, console)
    exam.check()
    exam = exam.of(found.source.processor)
    source = found.source
    ranges = [one.size_range for one in found.ranges]
    shared = comparability(
        settings,
        ranges,
        model=found.model,
        data=found.data,
        space=space_fingerprint(source.layout, settings.trial_heal_steps),
        bank=bank_fingerprint(found.model, found.data, settings.languages),
    )
    warm = best_trials(settings, shared)
    with driver_lock(settings.folder, settings.storage), open_study(settings, shared) as study:
        console.print(
            f"[bold]tightfit[/] {_named(ranges)}, source "
            f"{format_bytes(source.layout.source_bytes, settings.units)}"
            f" (bins scale with the source), study {settings.folder}"
        )
        for reason in found.left_out:
            console.print(f"left out: {reason}", markup=False)
        workbench = workbench_of(settings, found, console)
        measured = kept_fidelity(settings.folder, whole_range(found.ranges).name, shared)
        gate = _gate(study, measured, console)
        job = Job(
            settings=settings,
            source=source,
            ranges=found.ranges,
            study=study,
            workbench=workbench,
            exam=exam,
            console=console,
            fidelity=measured,
            gate=gate,
            signature=(
                f"{signature(gate)}|{','.join(settings.directions)}|{TRIAL_HEALING}|model {shared['model']}"
                f"|data {shared['data']}|tightfit {VERSION}{current().signature}"
            ),
            shared=shared,
            warm=warm,
            started=started,
        )
        study.set_user_attr(ASKED, settings.trials)
        logbook = Logbook(job)
        logbook.opened()
        _search(job, logbook)
        try:
            finals = finals_of(job)
            seconds = round(study.user_attrs.get("seconds", 0) + time.monotonic() - started, 1)
            study.set_user_attr("seconds", seconds)
            summary = summary_of(job, finals, seconds)
        finally:
            if exam.comet is not None:
                exam.comet.close()
        write_whole(settings.folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False))
        logbook.closed(finals, summary)
    return summary


def exam_of(settings: SearchSettings, found: Opened, console: Console) -> Exam:
    """The full evaluation that a study's finalists have."""
    return Exam(
        found.corpus,
        settings.directions,
        found.data,
        beams=settings.beams,
        segments=settings.segments,
        segment_seconds=settings.segment_seconds,
        comet=Comet(settings.comet, settings.comet_env) if settings.comet else None,
        console=console,
    )


def _search(job: Job, logbook: Logbook) -> None:
    losses = measured_losses(job.workbench, job.ranges[0], job.console)
    heal_steps = job.settings.trial_heal_steps
    rounds = _rounds(job.study, job.settings)
    stopping = Stopping(job.settings.hours, job.settings.patience, size_over(job.ranges), job.started)
    steps = Steps(job.ranges[0], Heal(heal_steps), partial(_marginals, job, stopping), rounds) if rounds else None
    job.study.sampler = sampler_over(
        job.ranges, job.settings.sampler, losses, job.settings.seed, heal_steps, steps=steps
    )
    # of all ranges in turns: where trials are few none is left without
    first = in_turns(_starts(job, limits, losses) for limits in job.ranges)
    terms = Terms(job.ranges, first, job.settings.seed, job.signature, job.gate, heal_steps)
    done = sum(trial.state.is_finished() for trial in job.study.get_trials(deepcopy=False))
    with progress_on(job.console) as progress:
        task = progress.add_task("trials", total=job.settings.trials, completed=min(done, job.settings.trials))

        def on_trial(trial: FrozenTrial) -> None:
            logbook.ended(trial)
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

        with stopping, pool_of(job) as pool:
            run_trials(job.study, pool, terms, job.settings.trials, on_trial, stop=stop)


def _rounds(study: optuna.Study, settings: SearchSettings) -> int:
    """How many plans are measured around: a study keeps to what it began with, an earlier version's to none.

    Raises UserError where another number is asked for.
    """
    begun: int = study.user_attrs.get(_ROUNDS, 0 if study.get_trials(deepcopy=False) else settings.rounds)
    if settings.remeasured not in (None, begun):
        raise UserError(
            f"--remeasure {settings.remeasured}: study {settings.study!r} began with {begun}; leave it out, or choose "
            "another --study"
        )
    study.set_user_attr(_ROUNDS, begun)
    return begun


def _marginals(job: Job, stopping: Stopping, plan: Plan) -> Marginals:
    """Raises UnaskedError once the search is to stop; of what was measured whole choices are kept."""

    def look() -> None:
        if stopping.over:
            raise UnaskedError

    return marginals(job.workbench, job.ranges[0], plan, partial(job.console.print, markup=False), look)


def _starts(job: Job, limits: Limits, losses: Mapping[str, Loss]) -> list[Start]:
    """The first plans of a range."""
    heal, count = Heal(job.settings.trial_heal_steps), len(job.ranges)
    warm = warm_starts(
        job.settings.warm_start, job.warm, limits, losses, heal, seed=job.settings.seed, of_each=count > 1
    )
    if count > 1:
        return few_starts(limits, losses, heal, job.settings.trials // count, warm)
    grid = begins_with_grid(job.settings.sampler)
    return starts(limits, losses, heal, job.settings.trials, warm, grid=grid)


def _named(ranges: Sequence[SizeRange]) -> str:
    """The one range, or the bounds of all."""
    if len(ranges) == 1:
        return str(ranges[0])
    return f"all sizes, under {', '.join(format_bytes(one.bound_bytes, one.units) for one in ranges)}"


def _gate(study: optuna.Study, measured: KeptFidelity | None, console: Console) -> Gate:
    """That of the study's own fidelity, if it was measured; a study keeps to the proxy and sizes it began with."""
    if not study.get_trials(deepcopy=False):
        chosen = measured.gate if measured else DEFAULT
        study.set_user_attr(_GATE, chosen.proxy)
        study.set_user_attr(_UTTERANCES, chosen.utterances if measured else None)
    kept = study.user_attrs
    gate = Gate(kept.get(_GATE, DEFAULT.proxy), tuple(kept.get(_UTTERANCES) or DEFAULT.utterances))
    of_sizes = "the bundled model's" if kept.get(_UTTERANCES) is None else "by the fidelity it began with"
    of_shares = "the bundled model's"
    if measured and (found := measured.with_shares(gate)):
        gate, of_shares = found, f"by the fidelity of {measured.plans} plans"
    sizes, shares = " and ".join(map(str, gate.utterances)), ", ".join(f"{share:.2g}" for share in gate.survival)
    console.print(
        f"rungs: {sizes} utterances ({of_sizes}); by {gate.proxy} {shares} of the trials go on ({of_shares})",
        soft_wrap=True,
    )
    return gate
