"""Semi-finals: more trials than there will be finalists, healed for some steps, compared by what they say.

Of all that was tried, chrF of translations after some fifty steps ranks plans of the front best (decision 0015);
divergence from the source, healed for as long, hardly does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from optuna.trial import FrozenTrial
from transformers import PreTrainedModel

from compress.pipeline import compress
from models.loading import trimmed_processor
from search.finalists import Exam, read_keyed, write_whole
from search.rungs import DIVERGENCES
from search.workbench import RUNG_UTTERANCES, TRIAL_TOLERANCE, Workbench, by_turns
from space.genes import decode
from space.plan import Plan

# Trials in the semi-finals for each that becomes a finalist, and the share of a finalist's steps they heal for.
CANDIDATES = 3
SHARE = 1 / 4
_UTTERANCES = RUNG_UTTERANCES[-1]


@dataclass(frozen=True)
class Semifinal:
    """What candidates are compared by: the workbench of the search, the exam's data, a folder for results, their key.

    A candidate is translated as it is where `steps` of healing bring it no closer to the source.
    """

    workbench: Workbench
    exam: Exam
    folder: Path
    key: str
    steps: int

    def best(
        self, candidates: Sequence[FrozenTrial], count: int, progress: Callable[[int], None] = lambda _number: None
    ) -> list[FrozenTrial]:
        """The `count` best of them, the best first; `progress` is told the number of each that is compared."""
        scores = {}
        for trial in candidates:
            scores[trial.number] = self.score(trial)
            progress(trial.number)
        return sorted(candidates, key=lambda trial: -scores[trial.number])[:count]

    def score(self, trial: FrozenTrial) -> float:
        """Mean chrF over directions on utterances of the proxy role; a score of this key is only read."""
        plan = decode(trial.params, self.workbench.source.layout)
        plan = replace(plan, heal=replace(plan.heal, steps=self.steps))
        key = f"{self.key}|{trial.user_attrs['seed']}|{_UTTERANCES} utterances|{plan.to_json()}"
        path = self.folder / f"trial-{trial.number}.json"
        known = read_keyed(path, key)
        if known is None:
            known = {"key": key, "chrf": self._chrf(self._healed(plan, trial), plan.vocabulary)}
            write_whole(path, json.dumps(known, indent=1))
        found: float = known["chrf"]
        return found

    def _healed(self, plan: Plan, trial: FrozenTrial) -> PreTrainedModel:
        workbench, seed = self.workbench, trial.user_attrs["seed"]

        def carried_out(steps: int) -> PreTrainedModel:
            one = replace(plan, heal=replace(plan.heal, steps=steps))
            return compress(workbench.source, one, workbench.bank, seed=seed, tolerance=TRIAL_TOLERANCE).model

        if plan.heal.steps:
            healed = carried_out(plan.heal.steps)
            # the last rung before healing
            if workbench.divergence(healed, plan.vocabulary) < trial.user_attrs[DIVERGENCES][len(RUNG_UTTERANCES) - 1]:
                return healed
        return carried_out(0)

    def _chrf(self, model: PreTrainedModel, vocabulary: int) -> float:
        examples = by_turns(self.exam.corpus.examples("proxy"))[:_UTTERANCES]
        processor = trimmed_processor(self.workbench.source, vocabulary)
        return fmean(scores.chrf for scores in self.exam.scored(model, processor, examples).values())
