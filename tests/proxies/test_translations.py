"""chrF of a few translations: what full evaluation says of them, turned round."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from compress.assembly import Assembler
from compress.pipeline import Bank
from compress.shelf import Shelf
from models.loading import Source
from proxies.translations import Translations
from proxies.tryout import Tryout
from scoring.metrics import score
from space.plan import uniform_plan
from space.rates import WHOLE

REFERENCES = {"de": ["Das Modell ist klein.", "Wir messen es."], "zh": ["模型很小。", "我们测量它。"]}
SAID = {"de": ["Das Modell war klein.", "Wir essen."], "zh": ["模型不小。", "我们走。"]}


@pytest.mark.parametrize("rung", [0, 1])
def test_chrf_is_that_of_the_full_evaluation(source: Source, bank: Bank, rung: int) -> None:
    plan = uniform_plan(source.layout, WHOLE)
    tryout = Tryout(plan, Assembler(source, bank, Shelf(), 0.03).assembled(plan), rung)
    count = rung + 1

    def proxy_of(texts: Mapping[str, list[str]]) -> Translations:
        return Translations(lambda _, asked: {code: said[:asked] for code, said in texts.items()}, REFERENCES, (1, 2))

    full = [score(SAID[code][:count], REFERENCES[code][:count], code).chrf for code in REFERENCES]
    assert proxy_of(SAID)(tryout) == pytest.approx(100 - sum(full) / 2)
    assert proxy_of(REFERENCES)(tryout) == pytest.approx(0.0)
