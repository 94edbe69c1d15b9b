"""BLEU, chrF and chrF++ by sacrebleu, with signatures that name everything that can change them."""

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
    """Corpus scores of one direction, 0 to 100, and sacrebleu's signatures of each."""

    bleu: float
    chrf: float
    chrfpp: float
    signatures: tuple[str, ...]

    def to_dict(self) -> dict[str, float]:
        return {"bleu": round(self.bleu, 2), "chrf": round(self.chrf, 2), "chrf++": round(self.chrfpp, 2)}


def metrics_of(language: str) -> dict[str, Metric]:
    """By name what translations into a language are scored with."""
    bleu = BLEU(tokenize=_TOKENIZERS.get(language, "13a"), trg_lang=language)
    return {"BLEU": bleu, "chrF2": CHRF(), "chrF2++": CHRF(word_order=2)}


def score(hypotheses: Sequence[str], references: Sequence[str], language: str) -> Scores:
    """BLEU, chrF2 and chrF2++ of hypotheses against one reference each, both in the same order."""
    metrics = metrics_of(language)
    bleu, chrf, chrfpp = (metric.corpus_score(hypotheses, [references]).score for metric in metrics.values())
    signatures = tuple(f"{name}|{metric.get_signature()}" for name, metric in metrics.items())
    return Scores(bleu, chrf, chrfpp, signatures)


def segments_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """chrF2 of each hypothesis by itself."""
    metric = CHRF()
    return [metric.sentence_score(made, [wanted]).score for made, wanted in zip(hypotheses, references, strict=True)]
