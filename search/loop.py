"""The driver: asks for plans, has them evaluated, tells the study; the only one that writes the storage."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from search.baselines import baselines
from search.samplers import trial_seed
from search.workbench import Workbench
from space.bins import SizeRange
from space.genes import HEAL_STEPS, decode, distributions, encode
from space.layout import Layout
from space.plan import Plan
from space.size import plan_size

# Share of a rung's trials that go on to the next (asynchronous successive halving, Li et al. 2020, arXiv 1810.05934).
# Healing costs ten times what the first two rungs cost together, so few get there.
SURVIVAL = (1 / 3, 1 / 6)
# Until a rung has seen this many trials, all go on.
_FIRST_TRIALS = 6
# A trial that is found running after so many attempts has failed.
_ATTEMPTS = 3


@dataclass(frozen=True)
class SearchSpace:
    """The range of a study and what its sizes are counted with."""

    size_range: SizeRange
    fixed_bytes: int
    seed: int
    signature: str


def run_trials(
    study: optuna.Study, workbench: Workbench, space: SearchSpace, total: int, on_trial: Callable[[FrozenTrial], None]
) -> None:
    """Goes on until `total` trials have ended; trials a killed driver left running come first, with the same plan."""
    _enqueue_baselines(study, workbench, space, total)
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial = optuna.Trial(study, left._trial_id)
        if left.user_attrs.get("attempts", 0) < _ATTEMPTS:
            _run(study, trial, workbench, space, on_trial)
            continue
        trial.set_user_attr("failure", f"its driver died with it {_ATTEMPTS} times")
        study.tell(trial, state=TrialState.FAIL)
        on_trial(study.trials[trial.number])
    while _ended(study) < total:
        _run(study, study.ask(), workbench, space, on_trial)


def suggest(trial: optuna.Trial, layout: Layout) -> Plan:
    """The plan of a trial, every parameter of it stored."""
    for name, distribution in distributions(layout).items():
        if isinstance(distribution, IntDistribution):
            trial.suggest_int(name, distribution.low, distribution.high)
        else:
            assert isinstance(distribution, CategoricalDistribution)
            trial.suggest_categorical(name, distribution.choices)
    return decode(trial.params, layout)


def _ended(study: optuna.Study) -> int:
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def _enqueue_baselines(study: optuna.Study, workbench: Workbench, space: SearchSpace, total: int) -> None:
    """The simple plans are the first trials, so that the winner never loses to them unseen.

    Those an earlier run had no room for, or was killed before, come now.
    """
    layout = workbench.source.layout
    trials = study.get_trials(deepcopy=False)
    known = {trial.user_attrs.get("baseline") for trial in trials}
    named = baselines(layout, space.size_range, space.fixed_bytes, max(HEAL_STEPS))
    missing = [(name, plan) for name, plan in named if name not in known]
    for name, plan in missing[: max(0, total - len(trials))]:
        study.enqueue_trial(encode(plan, layout), user_attrs={"baseline": name})


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    workbench: Workbench,
    space: SearchSpace,
    on_trial: Callable[[FrozenTrial], None],
) -> None:
    layout = workbench.source.layout
    trial.set_user_attr("attempts", trial.user_attrs.get("attempts", 0) + 1)
    plan = suggest(trial, layout)
    size_bytes = plan_size(layout, plan, space.fixed_bytes).total
    assert space.size_range.holds(size_bytes), f"trial {trial.number}: {size_bytes} bytes are outside of the range"
    seed = trial_seed(space.seed, trial.number)
    baseline = "baseline" in trial.user_attrs
    earlier = _rung_scores(study)

    def promote(rung: int, divergence: float) -> bool:
        return baseline or promising(divergence, earlier[rung], SURVIVAL[rung])

    evaluation = workbench.evaluate(plan, seed, promote)
    trial.set_user_attr("divergences", list(evaluation.divergences))
    trial.set_user_attr("bytes", size_bytes)
    trial.set_user_attr("seconds", round(evaluation.seconds, 3))
    trial.set_user_attr("seed", seed)
    trial.set_user_attr("signature", space.signature)
    if evaluation.pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, [evaluation.divergences[-1], size_bytes])
    on_trial(study.trials[trial.number])


def promising(divergence: float, earlier: list[float], survival: float) -> bool:
    """Whether a score is among the best share `survival` of its rung, itself included; NaN never is."""
    better = sum(other < divergence for other in earlier)
    among_the_best = len(earlier) < _FIRST_TRIALS or better < survival * (len(earlier) + 1)
    return among_the_best and not math.isnan(divergence)


def _rung_scores(study: optuna.Study) -> list[list[float]]:
    """Scores of all ended trials by rung; what a pruned trial reached counts too."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    reached = [trial.user_attrs["divergences"] for trial in trials]
    return [[scores[rung] for scores in reached if len(scores) > rung] for rung in range(2)]
