"""Samplers by name, each wrapped so that what is stored as a trial's params is a plan inside the bound."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from optuna import Study, create_study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.baselines import least_loss_plan, policy_attribute
from search.judge import Judge, heard_of
from search.rungs import RANGE, TRAITS, SeenStudy, least
from search.settings import STEPPING
from search.steps import Steps
from search.values import EVERYTHING, Uses, Values
from space.drafts import Drafts
from space.errors import UserError
from space.genes import HEAL_STEPS, decode, distributions, encode, repair, swapped
from space.limits import Limits
from space.plan import Heal, Plan
from space.policy import Loss, Policy, multipliers, policy_loss
from space.spread import spread
from space.traits import traits

# Policies near that of the allocator's own plan before any is learnt from, about as many as there are multipliers, and
# the largest deviation from it, in shares of multipliers' ranges (decision 0033).
_FIRST_POLICIES, _FIRST_STEP = 12, 0.3
# How often a policy is proposed whose plan was tried, and how far apart the seeds of proposals are.
_TRIES, _NEXT_SEED, _FAR_SEED = 8, 15_485_863, 32_452_843
# Policies that plans are drafted of for each proposal: from the inner sampler, and near the best ones.
_ASKED, _NEAR = 8, 24
# Policies that are asked for at most in one proposal.
_ASKINGS = _TRIES * _ASKED
# Of a policy near another: how likely each multiplier changes, by what share of its range, and how far down the ranks
# the other is on the mean.
_CHANGED, _STEP, _DOWN = 0.3, 0.15, 3.0
# Policies that an inner sampler is shown, the best among them: TPE calls a tenth good, at most 25, and takes longer the
# more there are.
_SHOWN, _BEST = 250, 25
# How many deviations a plan may be better than expected.
_HOPE = 0.5


def _tpe_of_policies(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, multivariate=True, n_startup_trials=_FIRST_POLICIES)


# Propose policies, by name.
DRAFTING = STEPPING
POLICIES: dict[str, Callable[[int], BaseSampler]] = {
    DRAFTING: _tpe_of_policies,
    "policy-tpe": _tpe_of_policies,
    "policy-gp": lambda seed: GPSampler(seed=seed, n_startup_trials=_FIRST_POLICIES),
}
# Proven gap of a policy's plan: policies differ by more, and what is tighter takes a solver a second.
POLICY_GAP = 5e-3
# What prices make of a policy is as good within this, and takes a hundredth of a solver's time.
_PRICED_GAP = 2e-2
# Propose plans, by name.
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, n_startup_trials=20),
    "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=20),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=20),
    "nsga3": lambda seed: NSGAIIISampler(seed=seed, population_size=20),
    "qmc": lambda seed: QMCSampler(seed=seed, warn_asynchronous_seeding=False),
    "random": lambda seed: RandomSampler(seed=seed),
}
SWAP, ALLOCATOR = "swap", "allocator"
_OF_POLICIES = (*POLICIES, ALLOCATOR)
SAMPLER_NAMES = (*_OF_POLICIES, SWAP, *SAMPLERS)


def begins_with_grid(name: str) -> bool:
    """Whether a study of one range with this sampler does: not where it proposes policies (decision 0034)."""
    return name not in _OF_POLICIES


class PlanSampler(BaseSampler):
    """Hands out the parameters of whole plans inside the limits.

    A proposal depends on the seed, the trial's number and the trials before it alone, so that a run that was killed and
    taken up proposes what an undisturbed one does; quasi-random points (qmc) are counted, and a kill may skip one.
    """

    needs_trial = False
    # Trials after which it begins anew with what it does in turns.
    round = 1

    def __init__(self, limits: Limits, seed: int, heal_steps: int) -> None:
        self._limits = limits
        self._seed = seed
        self._space = distributions(limits.layout, heal_steps)

    @abstractmethod
    def _proposed(self, study: SeenStudy, trial: FrozenTrial, seed: int) -> tuple[Plan, dict[str, Any]]:
        """A plan inside the limits, and what the trial keeps of how it came about, by user attribute.

        The study is one in which pruned trials are complete.
        """

    def _untried(
        self, trials: Sequence[FrozenTrial], seed: int, propose: Callable[[int], tuple[Plan, dict[str, Any]]]
    ) -> tuple[Plan, dict[str, Any]]:
        """What is proposed by the first of a few seeds whose plan none of the trials has, or by the last."""
        tried = [one.params for one in trials]
        for again in range(_TRIES):
            plan, kept = propose((seed + again * _NEXT_SEED) % 2**32)
            if encode(plan, self._limits.layout) not in tried:
                break
        return plan, kept

    def space(self) -> dict[str, BaseDistribution]:
        """Of all parameters."""
        return self._space

    def proposal(self, study: Study, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters of the trial of a number, and the user attributes it keeps; of samplers that need no trial."""
        assert not self.needs_trial
        trial = create_trial(state=TrialState.RUNNING)
        trial.number = number
        return self._made(study if isinstance(study, SeenStudy) else SeenStudy(study), trial)

    def _made(self, study: SeenStudy, trial: FrozenTrial) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters of a proposal, and what its trial keeps."""
        plan, kept = self._proposed(study, trial, trial_seed(self._seed, trial.number))
        return encode(plan, self._limits.layout), kept

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if "fixed_params" in trial.system_attrs:
            return dict(trial.system_attrs["fixed_params"])
        return self.propose(SeenStudy(study), trial)

    def propose(self, study: SeenStudy, trial: FrozenTrial) -> dict[str, Any]:
        """The parameters of a plan, which the trial has from now on, whatever happens."""
        whole, kept = self._made(study, trial)
        for name, value in kept.items():
            study._storage.set_trial_user_attr(trial._trial_id, name, value)
        # Parameters reach the storage one by one. Written here at once, in the form of an enqueued trial, they
        # survive a kill between two of them: who takes the trial up again gets this very plan.
        study._storage.set_trial_system_attr(trial._trial_id, "fixed_params", whole)
        return whole

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} is not in the space: every parameter is sampled together")


class RepairingSampler(PlanSampler):
    """Lets a sampler of Optuna's propose, and repairs the proposal into the limits.

    It is made anew for each trial: samplers that keep what they know in the study, or in trials, lose nothing by it.
    Plans that were tried first are the first generation of those that breed.
    """

    needs_trial = True

    def __init__(self, make_inner: Callable[[int], BaseSampler], limits: Limits, seed: int, heal_steps: int) -> None:
        super().__init__(limits, seed, heal_steps)
        self._make_inner = make_inner

    def _proposed(self, study: SeenStudy, trial: FrozenTrial, seed: int) -> tuple[Plan, dict[str, Any]]:
        inner, seen = self._make_inner(seed), study
        if isinstance(inner, BaseGASampler):
            seen = BredStudy(study, inner._get_generation_key())
        inner.before_trial(seen, trial)
        known = inner.infer_relative_search_space(seen, trial)
        params = _sampled(inner, seen, trial, known, self._space)
        return repair(decode(params, self._limits.layout), self._limits, seed), {}


class SwapSampler(RepairingSampler):
    """Evolution from the best plan so far, one exchange of bytes after another (EvoPress: `space.genes.swapped`).

    Its narrowing of candidates over stages is what rungs do. Only trials that went through all of them are built on.
    Plans are healed for as long as trials can; before any is complete they are drawn at random.
    """

    needs_trial = False

    def __init__(self, limits: Limits, seed: int, heal_steps: int) -> None:
        super().__init__(SAMPLERS["random"], limits, seed, heal_steps)
        self._heal = Heal(heal_steps)

    def _proposed(self, study: SeenStudy, trial: FrozenTrial, seed: int) -> tuple[Plan, dict[str, Any]]:
        told = study.told()
        complete = [one for one in told if one.state == TrialState.COMPLETE]
        if not complete:
            plan, kept = super()._proposed(study, trial, seed)
            return replace(plan, heal=self._heal), kept
        parent = replace(decode(least(complete).params, self._limits.layout), heal=self._heal)
        return self._untried(told, seed, lambda again: (swapped(parent, self._limits, again), {}))


class PolicySampler(PlanSampler):
    """Lets a sampler of Optuna's propose policies, which the exact allocator makes plans of.

    When `drafting`, for every other trial it proposes many, and those near the best are varied; of the plans that are
    drafted of them one is taken by what those that were tried came to (decision 0020).

    `loss`, whose name is `basis`, is what options cost before a policy says otherwise. Policies are compared by the
    loss of their plans alone: an allocator's plan fills the bound. The policy of nothing but zeros is that of the
    allocator's own first plan, and the first ones that are proposed are near it. Plans are healed for as long as trials
    can; one that was tried is not proposed again, if others can be found.
    """

    def __init__(
        self,
        make_inner: Callable[[int], BaseSampler],
        limits: Limits,
        seed: int,
        heal_steps: int,
        *,
        basis: str,
        loss: Loss,
        drafting: bool = False,
    ) -> None:
        super().__init__(limits, seed, heal_steps)
        self._heal = Heal(heal_steps)
        self._make_inner = make_inner
        self._attribute = policy_attribute(basis)
        self._shaped = policy_loss(limits.layout, loss)
        self._multipliers: dict[str, BaseDistribution] = {
            name: FloatDistribution(*ends) for name, ends in multipliers(limits.layout).items()
        }
        self._drafts, self._drafting = Drafts(limits, loss), drafting
        self.round = 2 if drafting else 1

    def _proposed(self, study: SeenStudy, trial: FrozenTrial, seed: int) -> tuple[Plan, dict[str, Any]]:
        trials = study.get_trials(deepcopy=False)
        told = self._told(trials)
        learns = len(told) >= _FIRST_POLICIES
        policies = ListedStudy([self._policy_of(one) for one in shown(told)]) if learns else None
        judges = self._drafting and trial.number % 2 == 1 and len(told) > _FIRST_POLICIES
        judge = self._judge(told) if judges else None

        def propose(again: int) -> tuple[Plan, dict[str, Any]]:
            policy = self._asked(policies, again)
            if judge is not None:
                others = [self._asked(policies, (again + i * _FAR_SEED) % 2**32) for i in range(1, _ASKED)]
                near = self._near(told, random.Random(again))
                policy = self._likeliest([policy, *others, *near], judge)
            return self._plan(policy), {self._attribute: policy}

        return self._untried(trials, seed, propose)

    def _plan(self, policy: Policy) -> Plan:
        """The allocator's."""
        plan = self._drafts.proven(policy, self._heal, _PRICED_GAP)
        return plan or least_loss_plan(self._limits, self._shaped(policy), self._heal, POLICY_GAP)

    def _asked(self, policies: ListedStudy | None, seed: int) -> Policy:
        """The inner sampler's, if there are any to learn from."""
        if policies is None:
            own = dict.fromkeys(self._multipliers, 0.0)
            rng = random.Random(seed)
            return self._varied(own, own, rng.uniform(0, _FIRST_STEP), rng)
        return policies.proposed(self._make_inner(seed), self._multipliers)

    def _varied(self, policy: Policy, names: Iterable[str], step: float, rng: random.Random) -> Policy:
        """A policy with some multipliers moved by about this share of their ranges."""
        found, bounds = dict(policy), multipliers(self._limits.layout)
        for name in names:
            low, high = bounds[name]
            found[name] = min(high, max(low, found[name] + rng.gauss(0, step * (high - low))))
        return found

    def _near(self, told: Sequence[FrozenTrial], rng: random.Random) -> list[Policy]:
        """Policies near the best that are known."""
        best = sorted(told, key=lambda one: (one.values[0], one.number))
        names = list(self._multipliers)
        found: list[Policy] = []
        for _ in range(_NEAR):
            policy = best[min(int(rng.expovariate(1 / _DOWN)), len(best) - 1)].user_attrs[self._attribute]
            changed = [name for name in names if rng.random() < _CHANGED] or [rng.choice(names)]
            found.append(self._varied(policy, changed, _STEP, rng))
        return found

    def _judge(self, told: Sequence[FrozenTrial]) -> Judge:
        """Of these trials' plans."""
        layout, heard = self._limits.layout, [told[i] for i in heard_of([one.values[0] for one in told])]
        rows = [one.user_attrs.get(TRAITS) or traits(decode(one.params, layout), layout) for one in heard]
        return Judge([_ordered(row) for row in rows], [one.values[0] for one in heard])

    def _likeliest(self, policies: Sequence[Policy], judge: Judge) -> Policy:
        """The policy whose plan can be hoped to be the best, of those that plans can be drafted of."""
        drafts = [(policy, self._drafts.plan(policy, self._heal)) for policy in policies]
        there = [(policy, plan) for policy, plan in drafts if plan is not None]
        if not there:
            return policies[0]
        means, deviations = judge.expected([_ordered(traits(plan, self._limits.layout)) for _, plan in there])
        return there[int((means - _HOPE * deviations).argmin())][0]

    def own(self, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """The trial that has the allocator's own plan, by `loss` alone, if there is one."""
        policies = ((one, one.user_attrs[self._attribute]) for one in trials if self._attribute in one.user_attrs)
        return next((one for one, policy in policies if not any(policy.values())), None)

    def _told(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The complete trials whose policies are known."""
        return [one for one in trials if one.state == TrialState.COMPLETE and self._attribute in one.user_attrs]

    def _policy_of(self, told: FrozenTrial) -> FrozenTrial:
        """A trial with its policy for parameters, and its loss alone."""
        found = copy(told)
        found.number = told.number + _ASKINGS  # proposals have the numbers before
        found.params, found.distributions = told.user_attrs[self._attribute], self._multipliers
        found.values = told.values[:1]
        return found


class AllocatorSampler(PolicySampler):
    """Two of four proposals are of a draw of what every option costs, as the trials so far say it (`search.values`).

    The others are policies, every other one drafted. In a study over all sizes it learns from trials of its range.
    """

    def __init__(
        self, limits: Limits, seed: int, heal_steps: int, *, basis: str, loss: Loss, uses: Uses = EVERYTHING
    ) -> None:
        super().__init__(_tpe_of_policies, limits, seed, heal_steps, basis=basis, loss=loss, drafting=True)
        self._values = Values(limits, loss, self._heal, uses)
        self.round = 4

    def _proposed(self, study: SeenStudy, trial: FrozenTrial, seed: int) -> tuple[Plan, dict[str, Any]]:
        trials = study.get_trials(deepcopy=False)
        here = (None, self._limits.size_range.name)
        known = [one for one in trials if one.state == TrialState.COMPLETE and one.user_attrs.get(RANGE) in here]
        if trial.number % self.round < 2 or len(known) <= _FIRST_POLICIES:
            return super()._proposed(study, trial, seed)
        plans, losses = [decode(one.params, self._limits.layout) for one in known], [one.values[0] for one in known]
        propose = self._values.after(plans, losses)
        return self._untried(trials, seed, lambda again: (propose(again), {}))


class SteppingSampler(PlanSampler):
    """Goes on from plans that were tried in every other trial, while `others` propose the rest; where nothing heals.

    It takes the `steps` there are, from the allocator's own plan on, and where there are none what `exchanges` propose,
    single things of the best plan (`SwapSampler`): both see small differences, which healing would hide.
    """

    def __init__(
        self,
        others: PolicySampler,
        steps: Steps,
        limits: Limits,
        seed: int,
        heal_steps: int,
        *,
        exchanges: PlanSampler | None = None,
    ) -> None:
        super().__init__(limits, seed, heal_steps)
        self._others, self._steps = others, steps
        self._exchanges = exchanges or SwapSampler(limits, seed, heal_steps)
        self.round = others.round

    def _proposed(self, study: SeenStudy, trial: FrozenTrial, seed: int) -> tuple[Plan, dict[str, Any]]:
        if trial.number % 2:
            return self._others._proposed(study, trial, seed)
        told = study.told()
        step, kept = self._steps.next(told, self._others.own(told))
        if step is not None:
            return step, kept
        plan, known = self._exchanges._proposed(study, trial, seed)
        return plan, {**known, **kept}


class BredStudy(SeenStudy):
    """A study as it is `seen`, but that trials which ended are of a generation, the attribute `key`, if of none: 0."""

    def __init__(self, seen: SeenStudy, key: str) -> None:
        super().__init__(seen)
        self._seen, self._key = seen, key

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [self._bred(trial) for trial in self._seen._get_trials(deepcopy, states, use_cache)]

    def _bred(self, trial: FrozenTrial) -> FrozenTrial:
        if self._key in trial.system_attrs or not trial.state.is_finished():
            return trial
        found = copy(trial)
        found.system_attrs = {self._key: 0, **trial.system_attrs}
        return found


class ListedStudy(Study):
    """A study that has the trials of a list, which is not copied, and what is asked of it.

    Numbers of listed trials must be none that are asked for: TPE leaves out the trial of the number it is asked for.
    """

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self.__dict__.update(create_study().__dict__)
        self._listed = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        listed = [trial for trial in self._listed if states is None or trial.state in states]
        return [*listed, *super()._get_trials(deepcopy, states, use_cache)]

    def proposed(self, sampler: BaseSampler, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        """What a sampler proposes, as when the study asks it; all of the listed trials have the parameters of `space`.

        Which parameters these have in common, samplers look up in every trial, which takes them longer than to propose.
        """
        trial = self._storage.get_trial(self._storage.create_new_trial(self._study_id))
        sampler.before_trial(self, trial)
        shared = {name: space[name] for name in sorted(space)} if self._listed else {}
        return _sampled(sampler, self, trial, shared, space)


def _sampled(
    sampler: BaseSampler,
    study: Study,
    trial: FrozenTrial,
    together: dict[str, BaseDistribution],
    space: Mapping[str, BaseDistribution],
) -> dict[str, Any]:
    """What a sampler proposes for the parameters of a space, those that it takes `together` first."""
    params = dict(sampler.sample_relative(study, trial, together))
    for name, distribution in space.items():
        if name not in params:
            params[name] = sampler.sample_independent(study, trial, name, distribution)
    return params


def shown(known: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Of many trials the best, and some of the others, spread over the study; in their order."""
    if len(known) <= _SHOWN:
        return list(known)
    by_loss = sorted(range(len(known)), key=lambda i: (known[i].values[0], i))
    others = spread(sorted(by_loss[_BEST:]), _SHOWN - _BEST)
    return [known[i] for i in sorted([*by_loss[:_BEST], *others])]


def _ordered(found: Mapping[str, float]) -> list[float]:
    return [found[name] for name in sorted(found)]


def trial_seed(seed: int, number: int) -> int:
    """The seed of everything random in a trial."""
    return (seed * 1_000_003 + number) % 2**32


def sampler_named(
    name: str,
    limits: Limits,
    losses: Mapping[str, Loss],
    seed: int,
    heal_steps: int = HEAL_STEPS,
    *,
    steps: Steps | None = None,
) -> PlanSampler:
    """The sampler of a name, for plans inside the limits that heal for at most `heal_steps`.

    The last of `losses` is the best guess of what options cost. Of `steps` the default makes use.

    Raises UserError for a name that is none.
    """
    check_sampler(name)
    if name in POLICIES:
        basis = list(losses)[-1]
        drafting = name == DRAFTING
        policies = PolicySampler(
            POLICIES[name], limits, seed, heal_steps, basis=basis, loss=losses[basis], drafting=drafting
        )
        if steps is not None and name == DRAFTING:
            return SteppingSampler(policies, steps, limits, seed, heal_steps)
        return policies
    if name == ALLOCATOR:
        basis = list(losses)[-1]
        return AllocatorSampler(limits, seed, heal_steps, basis=basis, loss=losses[basis])
    if name == SWAP:
        return SwapSampler(limits, seed, heal_steps)
    return RepairingSampler(SAMPLERS[name], limits, seed, heal_steps)


def check_sampler(name: str) -> None:
    """Raises UserError for a name that no sampler has."""
    if name not in SAMPLER_NAMES:
        raise UserError(f"--sampler {name}: not one of {', '.join(SAMPLER_NAMES)}")
