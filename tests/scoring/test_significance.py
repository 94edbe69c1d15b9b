"""The paired tests: as sacrebleu's own, antisymmetric, sure of what is clear and unsure of what is not."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sacrebleu.significance import PairedTest, Result

from scoring.metrics import metrics_of, score
from scoring.significance import lead, lead_of_segments

REFERENCES = [f"Das Modell {word} hat {number} kleine Schichten." for number, word in enumerate("abcdefghijkl" * 3)]
GOOD = [text if i % 4 else text.replace("kleine", "große") for i, text in enumerate(REFERENCES)]
POOR = [text if i % 3 else text.replace("Modell", "Haus").replace("hat", "") for i, text in enumerate(REFERENCES)]


ZH_REFERENCES = [f"这个模型{word}有{number}个很小的层。" for number, word in enumerate("abcdefghijkl" * 3)]
ZH_GOOD = [text if i % 4 else text.replace("小", "大") for i, text in enumerate(ZH_REFERENCES)]
ZH_POOR = [text if i % 3 else text.replace("模型", "房子").replace("有", "") for i, text in enumerate(ZH_REFERENCES)]
SYSTEMS = {"de": (POOR, GOOD, REFERENCES), "zh": (ZH_POOR, ZH_GOOD, ZH_REFERENCES)}
# p-values are counts over counts: equal, but for the division's last bit
EXACT = 1e-12


def paired(
    metric: Any, poor: Sequence[Any], good: Sequence[Any], references: Sequence[str], *, kind: str, samples: int
) -> Result:
    """sacrebleu's own test, of the better system beside the poorer, from its own seed."""
    test = PairedTest([("poor", poor), ("good", good)], {"metric": metric}, [references], kind, n_samples=samples)
    found = next(scores for key, scores in test()[1].items() if key != "System")[1]
    assert isinstance(found, Result)
    return found


@pytest.mark.parametrize("language", ["de", "zh"])
@pytest.mark.parametrize("name", metrics_of("de"))
def test_p_values_are_sacrebleus(name: str, language: str) -> None:
    poor, good, references = SYSTEMS[language]
    metric = metrics_of(language)[name]
    ours = lead(metric, good, poor, references, samples=300, trials=400)
    bootstrap = paired(metric, poor, good, references, kind="bs", samples=300)
    randomised = paired(metric, poor, good, references, kind="ar", samples=400)
    assert ours.p == pytest.approx(bootstrap.p_value, abs=EXACT)
    assert ours.p_randomised == pytest.approx(randomised.p_value, abs=EXACT)
    assert ours.value == pytest.approx(randomised.score - metric.corpus_score(poor, [references]).score, abs=1e-4)


class _Means:
    """A metric, as far as sacrebleu's tests ask, whose translations are scores."""

    def _extract_corpus_statistics(self, system: Sequence[float], _references: object) -> list[list[float]]:
        return [[score, 1.0] for score in system]

    def _compute_score_from_stats(self, stats: Sequence[float]) -> SimpleNamespace:
        return SimpleNamespace(score=float(stats[0]) / float(stats[1]), name="mean")

    def _aggregate_and_compute(self, stats: Sequence[Sequence[float]]) -> SimpleNamespace:
        return self._compute_score_from_stats(np.array(stats).sum(0))

    def get_signature(self) -> SimpleNamespace:
        return SimpleNamespace(update=lambda *_what: None)


@pytest.mark.parametrize("ahead", [0.01, 0.02, 0.03, 0.15])
def test_p_values_of_means_are_sacrebleus(ahead: float) -> None:
    rng = np.random.default_rng(5)
    poor = rng.uniform(0.4, 0.7, 40)
    # sacrebleu adds in 32 bits: these numbers have room there
    poor, good = (np.round(scores * 2**16) / 2**16 for scores in (poor, poor + rng.normal(ahead, 0.1, 40)))
    ours = lead_of_segments(good.tolist(), poor.tolist(), samples=300, trials=400)
    assert ours.value == pytest.approx(good.mean() - poor.mean())
    bootstrap = paired(_Means(), poor.tolist(), good.tolist(), [], kind="bs", samples=300)
    randomised = paired(_Means(), poor.tolist(), good.tolist(), [], kind="ar", samples=400)
    assert ours.p == pytest.approx(bootstrap.p_value, abs=EXACT)
    assert ours.p_randomised == pytest.approx(randomised.p_value, abs=EXACT)


def test_a_lead_of_segments_is_that_of_a_metric_of_means() -> None:
    ours, theirs = [0.9, 0.8, 0.4, 0.7], [0.5, 0.8, 0.5, 0.6]
    one, other = lead_of_segments(ours, theirs), lead_of_segments(theirs, ours)
    assert one.value == pytest.approx(0.1)
    assert one.low < one.value < one.high
    assert (one.p, one.p_randomised) == (other.p, other.p_randomised)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_a_single_segment_is_no_evidence() -> None:
    metric = metrics_of("de")["BLEU"]
    found = lead(metric, [REFERENCES[0], *GOOD[1:]], GOOD, REFERENCES)
    assert found.value > 0
    assert found.p_randomised == 1
    assert lead_of_segments([0.3, *[0.1] * 30], [0.1] * 31).p_randomised == 1


def test_the_lead_is_that_of_the_scores_and_turns_with_the_systems() -> None:
    metric = metrics_of("de")["BLEU"]
    one, other = lead(metric, GOOD, POOR, REFERENCES), lead(metric, POOR, GOOD, REFERENCES)
    scores = [score(system, REFERENCES, "de").bleu for system in (GOOD, POOR)]
    assert one.value == pytest.approx(scores[0] - scores[1])
    assert (one.value, one.low, one.high, one.p) == pytest.approx((-other.value, -other.high, -other.low, other.p))
    assert one.p_randomised == pytest.approx(other.p_randomised)


def test_what_is_clear_is_significant_and_what_is_equal_is_not() -> None:
    metric = metrics_of("de")["chrF2"]
    clear = lead(metric, REFERENCES, POOR, REFERENCES)
    assert clear.low > 0
    assert max(clear.p, clear.p_randomised) < 0.01
    nothing = lead(metric, GOOD, list(GOOD), REFERENCES)
    assert (nothing.value, nothing.low, nothing.high, nothing.p, nothing.p_randomised) == (0, 0, 0, 1, 1)
    unsure = lead(metric, [*GOOD[:-2], *POOR[-2:]], GOOD, REFERENCES)
    assert min(unsure.p, unsure.p_randomised) > 0.05
