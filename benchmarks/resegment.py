"""What joining and re-segmentation do to a score: ``python -m benchmarks.resegment``, some minutes on one core.

References of the bundled report role stand for hypotheses: joined as they are, and with words (in Chinese characters)
dropped, doubled or exchanged at random. A boundary is right where the text before it is that of the gold segments.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from benchmarks.publish import publish, target
from corpora.audio import SAMPLE_RATE
from corpora.roles import BUNDLED, PAUSE_SECONDS, Talk, open_corpus
from scoring.metrics import score
from scoring.resegment import resegment
from scoring.segment import speech_segments

LANGUAGES = ("de", "zh")
NOISE = (0.0, 0.05, 0.1, 0.2)
SEEDS = range(3)


def noisy(text: str, share: float, language: str, rng: random.Random, words: Sequence[str]) -> str:
    """A text in which a share of its words is dropped, doubled or exchanged, a third of the share each."""
    glue = "" if language == "zh" else " "
    found = []
    for word in text if language == "zh" else text.split():
        drawn = rng.random() * 3
        if drawn < share:
            continue
        found.append(rng.choice(words) if drawn < 2 * share else word)
        if 2 * share <= drawn < 3 * share:
            found.append(word)
    return glue.join(found)


def edges(texts: Sequence[str]) -> list[int]:
    """How many characters, spaces aside, are before the end of each text but the last."""
    return list(accumulate(len("".join(text.split())) for text in texts))[:-1]


def resegmented(talks: Sequence[Talk], language: str, share: float, seed: int) -> dict[str, float]:
    """Shares of boundaries that came back, and scores by gold segments and re-segmented."""
    rng = random.Random(seed)
    references = [[example.references[language] for example in talk.examples] for talk in talks]
    words = [w for texts in references for text in texts for w in (text if language == "zh" else text.split())]
    right = total = 0
    gold: list[str] = []
    anew: list[str] = []
    for texts in references:
        said = [noisy(text, share, language, rng, words) for text in texts]
        found = resegment(said, texts, language)
        wanted, cut = edges(said), edges(found)
        right, total = right + sum(a == b for a, b in zip(wanted, cut, strict=True)), total + len(wanted)
        gold, anew = gold + said, anew + found
    flat = [text for texts in references for text in texts]
    by_gold, by_tool = score(gold, flat, language), score(anew, flat, language)
    return {
        "boundaries right": right / total,
        "BLEU, gold segments": by_gold.bleu,
        "BLEU moves": by_tool.bleu - by_gold.bleu,
        "chrF2, gold segments": by_gold.chrf,
        "chrF2 moves": by_tool.chrf - by_gold.chrf,
    }


def voice(talks: Sequence[Talk]) -> dict[str, object]:
    """How much of what is said the voice detector's segments hold, by energy and by utterances held whole."""
    inside = everything = 0.0
    whole = utterances = segments = 0
    longest = 0
    started = time.perf_counter()
    for talk in talks:
        found = speech_segments(talk.samples)
        segments, longest = segments + len(found), max(longest, *(end - start for start, end in found))
        within = np.zeros(len(talk.samples), bool)
        for start, end in found:
            within[start:end] = True
        energy = np.square(talk.samples.astype(np.float64))
        inside, everything = inside + energy[within].sum(), everything + energy.sum()
        at = 0
        for example in talk.examples:
            end = at + len(example.utterance)
            whole += energy[at:end][~within[at:end]].sum() < 0.01 * energy[at:end].sum()
            utterances, at = utterances + 1, end + round(PAUSE_SECONDS * SAMPLE_RATE)
    seconds = sum(len(talk.samples) for talk in talks) / SAMPLE_RATE
    return {
        "what": f"silero-vad, {len(talks)} talks of {seconds / 60:.1f} minutes",
        "energy within segments": round(float(inside / everything), 5),
        "utterances held whole": round(float(whole / utterances), 4),
        "segments": segments,
        "longest, seconds": round(longest / SAMPLE_RATE, 1),
        "real-time factor": round((time.perf_counter() - started) / seconds, 4),
    }


def main() -> None:
    """A row for each language and share of noise, and one of the voice detector."""
    talks = open_corpus(BUNDLED).talks("report")
    rows: list[dict[str, object]] = []
    targets = []
    for language in LANGUAGES:
        for share in NOISE:
            runs = [resegmented(talks, language, share, seed) for seed in (SEEDS if share else [0])]
            row = {name: round(float(np.mean([run[name] for run in runs])), 4) for name in runs[0]}
            rows.append({"what": f"{language}, {share:.0%} of words changed", **row})
            if not share:
                name = f"{language}: boundaries of joined references that come back"
                targets.append(target(name, row["boundaries right"], 0.99, at_least=True))
    found = voice(talks)
    held = found["energy within segments"]
    assert isinstance(held, float)
    targets.append(target("speech within the voice detector's segments, by energy", held, 0.99, at_least=True))
    publish("resegment", [*rows, found], targets)


if __name__ == "__main__":
    main()
