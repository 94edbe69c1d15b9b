"""The dearest of cheap scores: chrF of a few greedy translations, which teacher-forced scores do not see coming."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sacrebleu.metrics.chrf import CHRF
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Translations:
    """100 less the mean over languages of chrF2 (0 to 100) of what a model makes of the first utterances.

    `translated` gives the translations by language of a model in which so many tokens stay, of so many utterances;
    `references` are theirs.
    """

    translated: Callable[[PreTrainedModel, int, int], Mapping[str, Sequence[str]]]
    references: Mapping[str, Sequence[str]]

    def __call__(self, model: PreTrainedModel, vocabulary: int, utterances: int) -> float:
        said = self.translated(model, vocabulary, utterances)
        return 100 - fmean(
            CHRF().corpus_score(list(said[language]), [list(self.references[language][:utterances])]).score
            for language in self.references
        )
