"""The dearest of cheap scores: chrF of a few greedy translations, which teacher-forced scores do not see coming."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from sacrebleu.metrics.chrf import CHRF
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Translations:
    """100 less the mean over languages of chrF2 (0 to 100) of what a model makes of the first utterances.

    `translated` gives the translations by language of a model in which so many tokens stay, of some utterances;
    `references` are those of all.
    """

    translated: Callable[[PreTrainedModel, int, slice], Mapping[str, Sequence[str]]]
    references: Mapping[str, Sequence[str]]

    def __call__(self, model: PreTrainedModel, vocabulary: int, utterances: int) -> float:
        return next(self.each(model, vocabulary, [utterances]))

    def each(self, model: PreTrainedModel, vocabulary: int, utterances: Sequence[int]) -> Iterator[float]:
        """For each of ascending numbers of utterances in turn; those of the one before are not translated again."""
        said: dict[str, list[str]] = {language: [] for language in self.references}
        for first, last in pairwise((0, *utterances)):
            for language, texts in self.translated(model, vocabulary, slice(first, last)).items():
                said[language] += texts
            yield 100 - fmean(
                CHRF().corpus_score(said[language], [list(references[:last])]).score
                for language, references in self.references.items()
            )
