"""Studies as benchmarks have them: a search's own trials in this process, kept in a journal, without finalists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from search.baselines import starts
from search.gates import DEFAULT, Gate
from search.journal import open_journal
from search.loop import Terms, run_trials
from search.pools.here import InProcess
from search.pools.pool import Evaluator
from search.rungs import DIVERGENCES, SECONDS
from search.samplers import begins_with_grid, sampler_named
from space.limits import Limits
from space.plan import Heal
from space.policy import Loss


@dataclass(frozen=True)
class Recipe:
    """Of a study: so many `trials` of a sampler's, each healed for at most so many steps, on what it is `made_of`."""

    sampler: str
    seed: int
    trials: int
    heal_steps: int
    gate: Gate = DEFAULT
    made_of: str = ""

    @property
    def name(self) -> str:
        """Studies of one name are one."""
        told = f"{self.sampler}, {self.trials} trials, {self.heal_steps} steps, seed {self.seed}"
        return f"{told}|{self.made_of}"

    def run(self, limits: Limits, losses: Mapping[str, Loss], evaluator: Evaluator, journal: Path) -> optuna.Study:
        """The study with all of its trials; it goes on where it was killed."""
        grid = begins_with_grid(self.sampler)
        first = starts(limits, losses, Heal(self.heal_steps), self.trials, grid=grid)
        journal.parent.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            storage=open_journal(journal),
            study_name=self.name,
            directions=["minimize", "minimize"],
            sampler=sampler_named(self.sampler, limits, losses, self.seed, self.heal_steps),
            load_if_exists=True,
        )
        terms = Terms([limits], first, self.seed, "benchmark", self.gate, self.heal_steps)
        run_trials(study, InProcess(evaluator), terms, self.trials, _say)
        return study


def _say(trial: FrozenTrial) -> None:
    kept = trial.user_attrs
    found = [round(one, 4) for one in kept.get(DIVERGENCES, [])]
    print(trial.number, trial.state.name, found, kept.get(SECONDS), trial.values, flush=True)
