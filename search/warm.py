"""A warm start: what another study of the same model found best, made to fit under this study's bound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial

from search.baselines import Start, least_loss_plan, policy_attribute
from search.rungs import RANGE
from search.samplers import trial_seed
from search.settings import SearchSettings
from search.study import best_first, complete_trials
from space.errors import UserError
from space.genes import decode, repair
from space.limits import Limits
from space.plan import Heal, Plan
from space.policy import Loss, policy_loss

KIND = "warm start"
# The best plans that are taken over, and for each of several ranges.
_MOST, _MOST_OF_EACH = 8, 2
# What both studies must share for the plans of one to be plans of the other.
_SHARED = ("format", "model", "data", "langs", "rates")


def best_trials(settings: SearchSettings, shared: Mapping[str, Any]) -> list[FrozenTrial]:
    """The trials of the study `settings.warm_start`, the best first, each plan once, however long it was healed.

    None where it names none. Raises UserError for a study that is not there, has no complete trial, or differs from
    `shared` in what plans depend on: tokens are ranked by data and languages.
    """
    name = settings.warm_start
    if name is None:
        return []
    if name == settings.study:
        raise UserError(f"--warm-start {name}: is this study itself; give the name of another")
    trials = complete_trials(settings, name, {key: shared[key] for key in _SHARED})
    if not trials:
        raise UserError(f"--warm-start {name}: has no complete trial yet; let it run on, or leave this out")
    return best_first(trials, ("heal_steps", "heal_rank", "heal_rate"))


def warm_starts(
    study: str | None,
    trials: Sequence[FrozenTrial],
    limits: Limits,
    losses: Mapping[str, Loss],
    heal: Heal,
    *,
    seed: int,
    of_each: bool = False,
) -> list[Start]:
    """A few plans of another `study`'s trials, the best first, made to fit and healed for `heal`.

    Of a study over all sizes those of the range whose bound is nearest; fewer where this is one `of_each` range.

    Where a plan was made of a policy it is made of it again, for this bound and from the last of `losses`, and the
    sampler learns from the policy. Other plans are repaired into the limits.
    """
    basis = list(losses)[-1]
    attribute, shaped = policy_attribute(basis), policy_loss(limits.layout, losses[basis])
    found: dict[Plan, Start] = {}
    for trial in _nearest(trials, limits.size_range.bound_bytes)[: _MOST_OF_EACH if of_each else _MOST]:
        policy = trial.user_attrs.get(attribute)
        if policy is not None:
            plan = least_loss_plan(limits, shaped(policy), heal)
        else:
            earlier = replace(decode(trial.params, limits.layout), heal=heal)
            plan = repair(earlier, limits, trial_seed(seed, trial.number))
        kept = {} if policy is None else {attribute: policy}
        found.setdefault(plan, Start(KIND, f"{study}, trial {trial.number}", plan, kept))
    return list(found.values())


def _nearest(trials: Sequence[FrozenTrial], bound_bytes: int) -> list[FrozenTrial]:
    """Those of the range whose largest plan, as plans fill their bounds, is nearest to a bound, by their ratio."""
    largest: dict[str | None, float] = {}
    for trial in trials:
        name = trial.user_attrs.get(RANGE)
        largest[name] = max(trial.values[1], largest.get(name, 0))
    nearest = min(largest, key=lambda name: abs(math.log(largest[name] / bound_bytes)), default=None)
    return [trial for trial in trials if trial.user_attrs.get(RANGE) == nearest]
