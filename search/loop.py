"""The driver: asks for plans, has them evaluated, tells the study; the only one that writes the storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from search.asking import asked
from search.baselines import START_KINDS, WHOLE_KINDS, Start
from search.rungs import (
    BYTES,
    DIVERGENCE,
    DIVERGENCES,
    RANGE,
    REMOVED,
    SECONDS,
    SURVIVAL,
    TRAITS,
    Standing,
    goes_on,
    standings,
)
from search.samplers import trial_seed
from search.workbench import Workbench
from space.genes import HEAL_STEPS, decode, distributions, encode
from space.layout import Layout
from space.limits import Limits
from space.plan import Plan, removed_sublayers
from space.traits import traits

# A trial that is found running after so many attempts has failed.
_ATTEMPTS = 3


@dataclass(frozen=True)
class Terms:
    """What all trials of a study share: ranges, plans to start with, seed, and the signature of their scores.

    Of several `ranges` each trial names the one whose limits it keeps to.

    `gate` is the proxy that trials are stopped by, `survival` the share of each rung that goes on to the next,
    `heal_steps` for how long a trial heals at most.
    """

    ranges: Sequence[Limits]
    starts: Sequence[Start]
    seed: int
    signature: str
    survival: Sequence[float] = SURVIVAL
    heal_steps: int = HEAL_STEPS
    gate: str = DIVERGENCE

    @property
    def layout(self) -> Layout:
        return self.ranges[0].layout


def limits_of(kept: Mapping[str, Any], ranges: Sequence[Limits]) -> Limits:
    """Those of the range that a trial of these attributes keeps to."""
    if len(ranges) == 1:
        return ranges[0]
    return next(one for one in ranges if one.size_range.name == kept[RANGE])


def run_trials(
    study: optuna.Study,
    workbench: Workbench,
    terms: Terms,
    total: int,
    on_trial: Callable[[FrozenTrial], None],
    *,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Goes on until `total` trials have ended or something says to `stop`, which is asked between trials.

    Trials a killed driver left running come first, with the same plan.
    """
    _enqueue_starts(study, terms, total)
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial = optuna.Trial(study, left._trial_id)
        if left.user_attrs.get("attempts", 0) < _ATTEMPTS:
            _run(study, trial, workbench, terms, on_trial)
            continue
        trial.set_user_attr("failure", f"its driver died with it {_ATTEMPTS} times")
        study.tell(trial, state=TrialState.FAIL)
        on_trial(study.trials[trial.number])
    while _ended(study) < total and not stop():
        _run(study, asked(study), workbench, terms, on_trial)


def suggest(trial: optuna.Trial, layout: Layout, heal_steps: int) -> Plan:
    """The plan of a trial, every parameter of it stored."""
    for name, distribution in distributions(layout, heal_steps).items():
        if isinstance(distribution, IntDistribution):
            trial.suggest_int(name, distribution.low, distribution.high)
        else:
            assert isinstance(distribution, CategoricalDistribution)
            trial.suggest_categorical(name, distribution.choices)
    return decode(trial.params, layout)


def _ended(study: optuna.Study) -> int:
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def _enqueue_starts(study: optuna.Study, terms: Terms, total: int) -> None:
    """The simple plans are the first trials, so that the winner never loses to them unseen.

    Those an earlier run had no room for, or was killed before, come now.
    """
    trials = study.get_trials(deepcopy=False)
    known = {(kind, trial.user_attrs.get(kind)) for trial in trials for kind in START_KINDS}
    missing = [start for start in terms.starts if (start.kind, start.name) not in known]
    for start in missing[: max(0, total - len(trials))]:
        study.enqueue_trial(encode(start.plan, terms.layout), user_attrs={start.kind: start.name, **start.kept})


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    workbench: Workbench,
    terms: Terms,
    on_trial: Callable[[FrozenTrial], None],
) -> None:
    trial.set_user_attr("attempts", trial.user_attrs.get("attempts", 0) + 1)
    plan = suggest(trial, terms.layout, terms.heal_steps)
    trials = study.get_trials(deepcopy=False)
    # as they are stored: a sampler may have named the range since the trial was made
    kept = trials[trial.number].user_attrs
    limits = limits_of(kept, terms.ranges)
    size_bytes = limits.bytes_of(plan)
    assert limits.hold(plan), f"trial {trial.number}: {size_bytes} bytes, outside of the limits"
    seed = trial_seed(terms.seed, trial.number)
    whole = any(kind in kept for kind in WHOLE_KINDS)
    bound = limits.size_range.bound_bytes
    earlier = standings(trials)
    standing = Standing(
        (),
        size_bytes,
        removed_sublayers(plan),
        plan.heal.steps,
        traits(plan, terms.layout),
        range=kept.get(RANGE),
    )

    def promote(divergences: tuple[float, ...]) -> bool:
        return whole or goes_on(replace(standing, divergences=divergences), earlier, bound, terms.survival)

    evaluation = workbench.evaluate(plan, seed, promote, terms.gate)
    trial.set_user_attr(DIVERGENCES, list(evaluation.divergences))
    trial.set_user_attr(BYTES, size_bytes)
    trial.set_user_attr(REMOVED, standing.removed)
    trial.set_user_attr(TRAITS, standing.traits)
    trial.set_user_attr(SECONDS, [round(seconds, 3) for seconds in evaluation.seconds])
    trial.set_user_attr("seed", seed)
    trial.set_user_attr("signature", terms.signature)
    if evaluation.loss is None:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, [evaluation.loss, size_bytes])
    on_trial(study.trials[trial.number])
