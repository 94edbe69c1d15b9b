"""Studies as benchmarks have them: a search's own trials in this process, kept in a journal, without finalists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from search.baselines import starts
from search.gates import DEFAULT, Gate
from search.loop import Terms, run_trials
from search.pools.here import InProcess
from search.rungs import DIVERGENCES, SECONDS
from search.samplers import begins_with_grid, sampler_named
from search.workbench import Workbench
from space.limits import Limits
from space.plan import Heal
from space.policy import Loss


@dataclass(frozen=True)
class Studied:
    """What a study tries: so many `trials` of a sampler's, each healed for at most so many steps."""

    sampler: str
    seed: int
    trials: int
    heal_steps: int
    gate: Gate = DEFAULT

    def __str__(self) -> str:
        return f"{self.sampler}, {self.heal_steps} steps, seed {self.seed}"

    def made(
        self, limits: Limits, losses: Mapping[str, Loss], workbench: Workbench, journal: Path, name: str
    ) -> optuna.Study:
        """Made, or gone on with where it was killed."""
        grid = begins_with_grid(self.sampler)
        first = starts(limits, losses, Heal(self.heal_steps), self.trials, grid=grid)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name=name,
            directions=["minimize", "minimize"],
            sampler=sampler_named(self.sampler, limits, losses, self.seed, self.heal_steps),
            load_if_exists=True,
        )
        terms = Terms([limits], first, self.seed, "benchmark", self.gate, self.heal_steps)
        run_trials(study, InProcess(workbench), terms, self.trials, _said)
        return study


def _said(trial: FrozenTrial) -> None:
    found = [round(one, 4) for one in trial.user_attrs[DIVERGENCES]]
    print(trial.number, found, trial.user_attrs[SECONDS], trial.values and round(trial.values[0], 1), flush=True)
