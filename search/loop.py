"""The driver: asks for plans, has them evaluated, tells the study; the only one that writes the storage."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from search.asking import UnaskedError, asked
from search.baselines import START_KINDS, WHOLE_KINDS, Start
from search.gates import DEFAULT, Gate
from search.pools.pool import Broken, Evaluated, Evaluation, Event, Pool, Reached, Refused, Task
from search.rungs import (
    BYTES,
    DIVERGENCES,
    HEALED,
    RANGE,
    REMOVED,
    SECONDS,
    TRAITS,
    Standing,
    goes_on,
    standings,
)
from search.samplers import trial_seed
from space.errors import UserError
from space.genes import HEAL_STEPS, decode, distributions, encode
from space.layout import Layout
from space.limits import Limits
from space.plan import Plan, removed_sublayers
from space.traits import traits

# Attributes of a trial: in how many drivers it was begun, and how many trials had ended then; how often it raised or
# lost its worker; why it failed.
BEGUN, BREAKS, FAILURE = "begun", "breaks", "failure"
# A trial that so many drivers died with while nothing else ended has failed, and one that broke so often.
_DEATHS, _BREAKS = 5, 2
# So many failures in a row for one cause end a study: it is not the plans.
_FAILURES = 5
# How long workers are listened to before anything else is looked at.
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Terms:
    """What all trials of a study share: ranges, plans to start with, seed, and the signature of their scores.

    Of several `ranges` each trial names the one whose limits it keeps to.

    Trials are stopped at the `gate`; `heal_steps` is for how long one heals at most.
    """

    ranges: Sequence[Limits]
    starts: Sequence[Start]
    seed: int
    signature: str
    gate: Gate = DEFAULT
    heal_steps: int = HEAL_STEPS

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
    pool: Pool,
    terms: Terms,
    total: int,
    on_trial: Callable[[FrozenTrial], None],
    *,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Goes on until `total` trials have ended or something says to `stop`, which is asked before each trial.

    Trials a killed driver left running come first, with the same plan. A driver cannot tell whether its forerunner was
    killed by a plan, by a person or by a machine that went away, so deaths are held against a trial only where several
    came one after the other and no trial ended in between: a study that gets on is never cut short, and a plan that
    kills whoever tries it does not end the study. One that raises, or that its worker dies of, is tried once more, then
    it has failed. Raises UserError where trials fail one after the other for one cause, and where a worker says what
    the user must mend; what runs then is taken up by the next to call this.
    """
    _enqueue_starts(study, terms, total)
    driver = _Driver(study, pool, terms, total, on_trial)
    while True:
        while pool.free and (trial := driver.next(stop)) is not None:
            driver.begin(trial)
        if driver.done:
            return
        for event in pool.events(_LOOK_SECONDS):
            driver.hear(event)


def suggest(trial: optuna.Trial, layout: Layout, heal_steps: int) -> Plan:
    """The plan of a trial, every parameter of it stored."""
    space, params = distributions(layout, heal_steps), trial.params
    if space.keys() <= params.keys():  # stored as a whole (`search.asking`): each would be looked up again
        return decode(params, layout)
    for name, distribution in space.items():
        if isinstance(distribution, IntDistribution):
            trial.suggest_int(name, distribution.low, distribution.high)
        else:
            assert isinstance(distribution, CategoricalDistribution)
            trial.suggest_categorical(name, distribution.choices)
    return decode(trial.params, layout)


def _enqueue_starts(study: optuna.Study, terms: Terms, total: int) -> None:
    """The simple plans are the first trials, so that the winner never loses to them unseen.

    Those an earlier run had no room for, or was killed before, come now.
    """
    trials = study.get_trials(deepcopy=False)
    known = {(kind, trial.user_attrs.get(kind)) for trial in trials for kind in START_KINDS}
    missing = [start for start in terms.starts if (start.kind, start.name) not in known]
    for start in missing[: max(0, total - len(trials))]:
        study.enqueue_trial(encode(start.plan, terms.layout), user_attrs={start.kind: start.name, **start.kept})


@dataclass
class _Running:
    """A trial under way: what it is, and how far it got; a `whole` one goes through all rungs."""

    trial: optuna.Trial
    standing: Standing
    bound_bytes: int
    seed: int
    whole: bool


class _Driver:
    """Of one pool: what runs in it, what is tried `again`, and what becomes of it."""

    def __init__(
        self, study: optuna.Study, pool: Pool, terms: Terms, total: int, on_trial: Callable[[FrozenTrial], None]
    ) -> None:
        self._study, self._pool, self._terms, self._total, self._on_trial = study, pool, terms, total, on_trial
        self.running: dict[int, _Running] = {}
        left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        self.again = deque(optuna.Trial(study, trial._trial_id) for trial in left)
        self._stopped = False
        self._cause, self._failures = "", 0

    @property
    def done(self) -> bool:
        """Whether nothing runs and nothing more is begun."""
        return not self.running and not self.again and (self._stopped or self._enough)

    @property
    def _enough(self) -> bool:
        """Whether as many trials as were asked for have ended, run, or are tried again."""
        return self._ended_count + len(self.running) + len(self.again) >= self._total

    @property
    def _ended_count(self) -> int:
        return sum(trial.state.is_finished() for trial in self._study.get_trials(deepcopy=False))

    def next(self, stop: Callable[[], bool]) -> optuna.Trial | None:
        """What is tried again, or another one; None once there are enough, or something said to `stop`."""
        if self.again:
            return self.again.popleft()
        if self._stopped or self._enough:
            return None
        self._stopped = stop()
        try:
            return None if self._stopped else asked(self._study)
        except UnaskedError:
            self._stopped = stop()
            return None

    def begin(self, trial: optuna.Trial) -> None:
        """Has a trial evaluated. One that several drivers died with, and nothing else was done, has failed."""
        ended = self._ended_count
        begun, ended_then = trial.user_attrs.get(BEGUN, (0, 0))
        if ended_then < ended:
            begun = 0
        if begun >= _DEATHS:
            self._fail(trial, f"{begun} drivers in a row died with it")
            return
        trial.set_user_attr(BEGUN, (begun + 1, ended))
        terms = self._terms
        plan = suggest(trial, terms.layout, terms.heal_steps)
        # as they are stored: a sampler may have named the range since the trial was made
        kept = self._study.get_trials(deepcopy=False)[trial.number].user_attrs
        limits = limits_of(kept, terms.ranges)
        size_bytes = limits.bytes_of(plan)
        assert limits.hold(plan), f"trial {trial.number}: {size_bytes} bytes, outside of the limits"
        standing = Standing(
            (),
            size_bytes,
            removed_sublayers(plan),
            plan.heal.steps,
            traits(plan, terms.layout),
            range=kept.get(RANGE),
        )
        seed = trial_seed(terms.seed, trial.number)
        whole = any(kind in kept for kind in WHOLE_KINDS)
        self.running[trial.number] = _Running(trial, standing, limits.size_range.bound_bytes, seed, whole)
        self._pool.begin(Task(trial.number, plan, seed, terms.gate))

    def hear(self, event: Event) -> None:
        """What follows from what a worker said."""
        match event:
            case Reached():
                self._pool.answer(event.number, self._promoted(self.running[event.number], event.scores))
            case Evaluated():
                self._tell(self.running.pop(event.number), event.evaluation)
            case Broken():
                self._broken(self.running.pop(event.number), event)
            case Refused():
                for mine in self.running.values():
                    _spared(mine.trial)
                raise UserError(event.reason)

    def _promoted(self, mine: _Running, scores: tuple[float, ...]) -> bool:
        mine.standing = replace(mine.standing, divergences=scores)
        if mine.whole:
            return True
        found = standings(self._study.get_trials(deepcopy=False))
        # in the order they were begun: what runs and got so far went on from the rungs before
        found |= {n: one.standing for n, one in self.running.items() if one is not mine and one.standing.divergences}
        earlier = [standing for _, standing in sorted(found.items(), key=lambda one: one[0])]
        return goes_on(mine.standing, earlier, mine.bound_bytes, self._terms.gate.survival)

    def _tell(self, mine: _Running, evaluation: Evaluation) -> None:
        trial, standing = mine.trial, mine.standing
        trial.set_user_attr(DIVERGENCES, list(evaluation.divergences))
        trial.set_user_attr(BYTES, standing.size_bytes)
        trial.set_user_attr(REMOVED, standing.removed)
        trial.set_user_attr(TRAITS, standing.traits)
        trial.set_user_attr(SECONDS, [round(seconds, 3) for seconds in evaluation.seconds])
        trial.set_user_attr("seed", mine.seed)
        trial.set_user_attr("signature", self._terms.signature)
        if evaluation.loss is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            if evaluation.healed is not None:
                trial.set_user_attr(HEALED, evaluation.healed)
            self._study.tell(trial, [evaluation.loss, standing.size_bytes])
        self._failures = 0
        self._ended(trial)

    def _broken(self, mine: _Running, event: Broken) -> None:
        breaks = mine.trial.user_attrs.get(BREAKS, 0) + 1
        mine.trial.set_user_attr(BREAKS, breaks)
        if breaks < _BREAKS:
            _spared(mine.trial)
            self.again.append(mine.trial)
            return
        self._fail(mine.trial, event.reason)
        self._failures = self._failures + 1 if event.cause == self._cause else 1
        self._cause = event.cause
        if self._failures >= _FAILURES:
            raise UserError(
                f"{_FAILURES} trials in a row failed, the last, trial {mine.trial.number}, as {event.reason}; "
                "what ended stays, the same command goes on"
            )

    def _fail(self, trial: optuna.Trial, reason: str) -> None:
        trial.set_user_attr(FAILURE, reason)
        self._study.tell(trial, state=TrialState.FAIL)
        self._ended(trial)

    def _ended(self, trial: optuna.Trial) -> None:
        self._on_trial(self._study.get_trials(deepcopy=False)[trial.number])


def _spared(trial: optuna.Trial) -> None:
    """What was no death of its driver does not count as one."""
    begun, ended = trial.user_attrs[BEGUN]
    trial.set_user_attr(BEGUN, (begun - 1, ended))
