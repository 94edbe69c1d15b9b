"""The paired bootstrap: as sacrebleu's own, antisymmetric, sure of what is clear and unsure of what is not."""

from __future__ import annotations

import pytest
from sacrebleu.significance import PairedTest

from scoring.metrics import metrics_of, score
from scoring.significance import lead

REFERENCES = [f"Das Modell {word} hat {number} kleine Schichten." for number, word in enumerate("abcdefghijkl" * 3)]
GOOD = [text if i % 4 else text.replace("kleine", "große") for i, text in enumerate(REFERENCES)]
POOR = [text if i % 3 else text.replace("Modell", "Haus").replace("hat", "") for i, text in enumerate(REFERENCES)]


@pytest.mark.parametrize("name", metrics_of("de"))
def test_p_values_are_sacrebleus(name: str) -> None:
    metric = metrics_of("de")[name]
    test = PairedTest([("poor", POOR), ("good", GOOD)], {name: metric}, [REFERENCES], "bs", n_samples=300)
    poor, good = next(scores for key, scores in test()[1].items() if key != "System")
    ours = lead(metric, GOOD, POOR, REFERENCES, samples=300)
    assert ours.p == pytest.approx(good.p_value, abs=1e-9)
    assert ours.value == pytest.approx(good.score - poor.score, abs=1e-4)


def test_the_lead_is_that_of_the_scores_and_turns_with_the_systems() -> None:
    metric = metrics_of("de")["BLEU"]
    one, other = lead(metric, GOOD, POOR, REFERENCES), lead(metric, POOR, GOOD, REFERENCES)
    scores = [score(system, REFERENCES, "de").bleu for system in (GOOD, POOR)]
    assert one.value == pytest.approx(scores[0] - scores[1])
    assert (one.value, one.low, one.high, one.p) == pytest.approx((-other.value, -other.high, -other.low, other.p))


def test_what_is_clear_is_significant_and_what_is_equal_is_not() -> None:
    metric = metrics_of("de")["chrF2"]
    clear = lead(metric, REFERENCES, POOR, REFERENCES)
    assert clear.low > 0
    assert clear.p < 0.01
    nothing = lead(metric, GOOD, list(GOOD), REFERENCES)
    assert (nothing.value, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 1)
    assert lead(metric, [*GOOD[:-2], *POOR[-2:]], GOOD, REFERENCES).p > 0.05
