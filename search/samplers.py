"""Samplers by name, each wrapped so that what is stored as a trial's params is a plan inside the bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search.rungs import SeenStudy
from space.errors import UserError
from space.genes import decode, distributions, encode, repair
from space.limits import Limits

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, n_startup_trials=20),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=20),
    "nsga3": lambda seed: NSGAIIISampler(seed=seed, population_size=20),
    "qmc": lambda seed: QMCSampler(seed=seed, warn_asynchronous_seeding=False),
    "random": lambda seed: RandomSampler(seed=seed),
}


class RepairingSampler(BaseSampler):
    """Lets an inner sampler propose, repairs the proposal into the limits, and hands out the repaired parameters.

    The inner sampler is made anew for each trial, seeded by study and trial number, so that a run that was killed and
    taken up proposes what an undisturbed one does. Samplers that keep what they know in the study lose nothing by it.
    """

    def __init__(self, make_inner: Callable[[int], BaseSampler], limits: Limits, *, seed: int) -> None:
        self._make_inner = make_inner
        self._inner = make_inner(seed)
        self._limits = limits
        self._seed = seed
        self._space = distributions(limits.layout)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if "fixed_params" in trial.system_attrs:
            return dict(trial.system_attrs["fixed_params"])
        seen = SeenStudy(study)
        known = self._inner.infer_relative_search_space(seen, trial)
        params = dict(self._inner.sample_relative(seen, trial, known))
        for name, distribution in search_space.items():
            if name not in params:
                params[name] = self._inner.sample_independent(seen, trial, name, distribution)
        plan = decode(params, self._limits.layout)
        repaired = repair(plan, self._limits, trial_seed(self._seed, trial.number))
        whole = encode(repaired, self._limits.layout)
        # Parameters reach the storage one by one. Written here at once, in the form of an enqueued trial, they
        # survive a kill between two of them: who takes the trial up again gets this very plan.
        study._storage.set_trial_system_attr(trial._trial_id, "fixed_params", whole)
        return whole

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} is not in the space: every parameter is sampled together")

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner = self._make_inner(trial_seed(self._seed, trial.number))
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()


def trial_seed(seed: int, number: int) -> int:
    """The seed of everything random in a trial."""
    return (seed * 1_000_003 + number) % 2**32


def sampler_named(name: str) -> Callable[[int], BaseSampler]:
    """What makes the sampler of a name from a seed. Raises UserError for another name."""
    if name not in SAMPLERS:
        raise UserError(f"--sampler {name}: not one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]
