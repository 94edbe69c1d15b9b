"""One study over all sizes: its trials keep to one range after the other, and each range learns from all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from copy import copy
from statistics import NormalDist
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import rankdata

from search.rungs import BYTES, RANGE, SeenStudy, grains
from search.samplers import PlanSampler, sampler_named
from search.steps import Steps
from space.limits import Limits
from space.policy import Loss


def sampler_over(
    ranges: Sequence[Limits],
    name: str,
    losses: Mapping[str, Loss],
    seed: int,
    heal_steps: int,
    *,
    steps: Steps | None = None,
) -> BaseSampler:
    """The sampler of a name, for plans inside one range, with `steps`, or, in turns, inside each of several."""
    if len(ranges) == 1:
        return sampler_named(name, ranges[0], losses, seed, heal_steps, steps=steps)
    samplers = {one.size_range.name: sampler_named(name, one, losses, seed, heal_steps) for one in ranges}
    return ParetoSampler(samplers)


def size_over(ranges: Sequence[Limits]) -> Callable[[FrozenTrial], int]:
    """What a trial weighs: in grains of the bound of one range, or its range's place among several."""
    names = [one.size_range.name for one in ranges]
    if len(names) == 1:
        bound = ranges[0].size_range.bound_bytes
        return lambda trial: grains(trial.user_attrs[BYTES], bound)
    return lambda trial: names.index(trial.user_attrs[RANGE])


class ParetoSampler(BaseSampler):
    """Lets samplers, by the name of the range whose limits their plans keep to, propose in turns: a round each.

    A trial keeps the name of its range.
    """

    def __init__(self, samplers: Mapping[str, PlanSampler]) -> None:
        self._samplers = samplers
        self._round = max(sampler.round for sampler in samplers.values())

    @property
    def needs_trial(self) -> bool:
        """As those of the ranges, which are of one kind."""
        return any(sampler.needs_trial for sampler in self._samplers.values())

    def space(self) -> dict[str, BaseDistribution]:
        """Of all parameters."""
        return next(iter(self._samplers.values())).space()

    def proposal(self, study: Study, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters of the trial of a number, and the user attributes it keeps, its range among them."""
        name = self._turn(number)
        params, kept = self._samplers[name].proposal(RangeStudy(study, name), number)
        return params, {**kept, RANGE: name}

    def _turn(self, number: int) -> str:
        names = list(self._samplers)
        return names[number // self._round % len(names)]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.space()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if "fixed_params" in trial.system_attrs:
            return dict(trial.system_attrs["fixed_params"])
        name = self._turn(trial.number)
        study._storage.set_trial_user_attr(trial._trial_id, RANGE, name)
        return self._samplers[name].propose(RangeStudy(study, name), trial)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} is not in the space: every parameter is sampled together")


class RangeStudy(SeenStudy):
    """A study over all sizes as the sampler of one range sees it: what was tried in others counts by its place there.

    The best plan of each range is as good as that of any other, so that what makes plans good in one is tried in all.
    Losses are normal scores of ranks within ranges (Salinas et al. 2020, "A Quantile-based Approach for Hyperparameter
    Transfer Learning", section 4), as numbers above 0. Trials as they were `told` are the range's alone.
    """

    def __init__(self, study: Study, name: str) -> None:
        super().__init__(study)
        self._range = name

    def told(self) -> list[FrozenTrial]:
        return [trial for trial in super().told() if trial.user_attrs.get(RANGE) == self._range]

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return placed(super()._get_trials(deepcopy, states, use_cache))


def placed(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials of several ranges, of which complete ones have the normal score of their rank in place of the loss.

    Those of equal losses share the mean of their ranks.
    """
    found = list(trials)
    ranges: dict[str | None, list[int]] = {}
    for i, trial in enumerate(trials):
        if trial.state == TrialState.COMPLETE:
            ranges.setdefault(trial.user_attrs.get(RANGE), []).append(i)
    for of_range in ranges.values():
        for rank, i in zip(rankdata([trials[i].values[0] for i in of_range]), of_range, strict=True):
            found[i] = copy(trials[i])
            score = NormalDist().inv_cdf((rank - 0.5) / len(of_range))
            found[i].values = [math.exp(score), *trials[i].values[1:]]
    return found
