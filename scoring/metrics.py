"""chrF and BLEU by sacrebleu, with signatures that name everything that can change them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

# sacrebleu's own tokenizer for Chinese; 13a is that of the task's German scores.
_TOKENIZERS = {"zh": "zh", "de": "13a"}


@dataclass(frozen=True)
class Scores:
    """Corpus scores of one direction, 0 to 100, and sacrebleu's signatures."""

    bleu: float
    chrf: float
    signatures: tuple[str, str]

    def to_dict(self) -> dict[str, float]:
        return {"bleu": round(self.bleu, 2), "chrf": round(self.chrf, 2)}


def metrics_of(language: str) -> dict[str, Metric]:
    """By name what translations into a language are scored with."""
    bleu = BLEU(tokenize=_TOKENIZERS.get(language, "13a"), trg_lang=language)
    return {"BLEU": bleu, "chrF2": CHRF(), "chrF2++": CHRF(word_order=2)}


def score(hypotheses: Sequence[str], references: Sequence[str], language: str) -> Scores:
    """BLEU and chrF2 of hypotheses against one reference each, both in the same order."""
    metrics = metrics_of(language)
    bleu, chrf = metrics["BLEU"], metrics["chrF2"]
    return Scores(
        bleu=bleu.corpus_score(hypotheses, [references]).score,
        chrf=chrf.corpus_score(hypotheses, [references]).score,
        signatures=(f"BLEU|{bleu.get_signature()}", f"chrF2|{chrf.get_signature()}"),
    )
