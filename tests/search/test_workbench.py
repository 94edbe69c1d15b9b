"""What a trial's last rung finds: of the healed model or of the plain one, whichever is closer to the source."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from corpora.roles import BUNDLED, open_corpus
from search.workbench import Workbench, make_workbench
from space.plan import Heal, uniform_plan
from space.rates import Packed
from tests.tiny import load_tiny


@pytest.fixture(scope="module")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    corpus = open_corpus(BUNDLED)
    for role in ("calibrate", "proxy", "select"):
        corpus.opened[role] = corpus.examples(role)[:2]
    return make_workbench(load_tiny(tmp_path_factory.mktemp("tiny")), corpus, ("de", "zh"))


def scaled(model: PreTrainedModel, factor: float) -> PreTrainedModel:
    found = deepcopy(model)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(factor)
    return found


@pytest.mark.parametrize(("factor", "helps"), [(None, True), (0.5, False), (float("nan"), False)])
def test_a_trial_that_healing_makes_worse_is_worth_what_it_is_unhealed(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch, factor: float | None, helps: bool
) -> None:
    """Healing has the source itself for an outcome, or what is left of the candidate."""
    plan = uniform_plan(workbench.source.layout, Packed(2, 32))
    candidate = workbench.assembler.assembled(plan)
    outcome = workbench.source.model if factor is None else scaled(candidate.model, factor)
    asked = []

    def healed(_: Workbench, heals: object, seed: int) -> PreTrainedModel:
        asked.append((heals, seed))
        return outcome

    monkeypatch.setattr(Workbench, "healed", healed)
    heals = replace(plan, heal=Heal(4))
    found, best = workbench.worth(heals, candidate, 3), outcome if helps else candidate.model
    assert asked == [(heals, 3)]
    assert found == (
        workbench.translations(best, plan.vocabulary, 48),
        workbench.divergence(best, plan.vocabulary),
    )
    broken = replace(candidate, model=scaled(candidate.model, float("nan")))
    monkeypatch.setattr(Workbench, "healed", lambda *_: candidate.model)
    mended = workbench.translations(candidate.model, plan.vocabulary, 48)
    assert workbench.worth(heals, broken, 3) == (mended, workbench.divergence(candidate.model, plan.vocabulary))
    assert workbench.worth(plan, candidate, 3)[1] == workbench.divergence(candidate.model, plan.vocabulary)
    assert len(asked) == 1, "what has no steps of healing is not healed"
