"""chrF of a few translations: what full evaluation says of them, turned round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from proxies.translations import Translations
from scoring.metrics import score

REFERENCES = {"de": ["Das Modell ist klein.", "Wir messen es."], "zh": ["模型很小。", "我们测量它。"]}
SAID = {"de": ["Das Modell war klein.", "Wir essen."], "zh": ["模型不小。", "我们走。"]}


def proxy_of(texts: Mapping[str, list[str]], asked: list[Any]) -> Translations:
    """One that says these texts, and notes what it is asked for."""

    def translated(model: Any, vocabulary: int, utterances: slice) -> dict[str, list[str]]:
        asked.append((model, vocabulary, utterances))
        return {code: said[utterances] for code, said in texts.items()}

    return Translations(translated, REFERENCES)


@pytest.mark.parametrize("count", [1, 2])
def test_chrf_is_that_of_the_full_evaluation(count: int) -> None:
    asked: list[Any] = []
    full = [score(SAID[code][:count], REFERENCES[code][:count], code).chrf for code in REFERENCES]
    model: Any = "a model"
    assert proxy_of(SAID, asked)(model, 300, count) == pytest.approx(100 - sum(full) / 2)
    assert proxy_of(REFERENCES, asked)(model, 300, count) == pytest.approx(0.0)
    assert asked == [("a model", 300, slice(0, count))] * 2


def test_a_later_rung_translates_what_it_adds() -> None:
    asked: list[Any] = []
    model: Any = "a model"
    proxy = proxy_of(SAID, asked)
    found = list(proxy.each(model, 300, (1, 2)))
    assert [utterances for *_, utterances in asked] == [slice(0, 1), slice(1, 2)]
    assert found == [proxy(model, 300, 1), proxy(model, 300, 2)]
