"""The dearest proxy: chrF of a few greedy translations, which teacher-forced scores do not see coming."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sacrebleu.metrics.chrf import CHRF

from proxies.tryout import Tryout


@dataclass(frozen=True)
class Translations:
    """100 less the mean over languages of chrF2 (0 to 100) of the utterances of a rung.

    `translated` gives a candidate's translations of the first `utterances` by language, `references` are theirs.
    """

    translated: Callable[[Tryout, int], Mapping[str, Sequence[str]]]
    references: Mapping[str, Sequence[str]]
    utterances: Sequence[int]

    def __call__(self, tryout: Tryout) -> float:
        count = self.utterances[tryout.rung]
        said = self.translated(tryout, count)
        return 100 - fmean(
            CHRF().corpus_score(list(said[language]), [list(self.references[language][:count])]).score
            for language in self.references
        )
