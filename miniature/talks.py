"""Talks: one speaker, one voice, a couple of dozen sentences; the held-out ones first, so that training never sees them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miniature.phrases import Sentence, sample
from miniature.speech import SAMPLE_RATE, Utterance, speak

# Number of talks in each role; every talk has SENTENCES_PER_TALK sentences.
ROLES = {"calibrate": 12, "proxy": 5, "select": 4, "report": 9}
SENTENCES_PER_TALK = 24
TRAINING_TALKS = 560
MAX_SECONDS = 3.9
_ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc", "en-gb-x-gbcwmd")
_VARIANTS = (
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m7",
    "m8",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "Andrea",
    "edward",
    "steph",
    "linda",
)


@dataclass(frozen=True)
class Talk:
    """`noise` is the standard deviation of white noise as a share of the speech's own."""

    name: str
    role: str
    voice: str
    rate: int
    pitch: int
    noise: float
    sentences: tuple[Sentence, ...]


def plan_talks(seed: int) -> list[Talk]:
    """All talks, held-out roles first; no sentence of a held-out talk stands in another one."""
    rng = random.Random(seed)
    used: set[str] = set()
    roles = [role for role, count in ROLES.items() for _ in range(count)] + ["train"] * TRAINING_TALKS
    counters = dict.fromkeys([*ROLES, "train"], 0)
    talks = []
    for role in roles:
        sentences: list[Sentence] = []
        while len(sentences) < SENTENCES_PER_TALK:
            sentence = sample(rng)
            # Short templates run out of unseen sentences; training may repeat itself, never a held-out sentence.
            if sentence.en not in used:
                sentences.append(sentence)
                if role != "train":
                    used.add(sentence.en)
        counters[role] += 1
        talks.append(
            Talk(
                name=f"{role}-{counters[role]:03d}",
                role=role,
                voice=f"{rng.choice(_ACCENTS)}+{rng.choice(_VARIANTS)}",
                rate=rng.randint(165, 225),
                pitch=rng.randint(30, 70),
                noise=rng.choice((0.0, 0.02, 0.05, 0.1)),
                sentences=tuple(sentences),
            )
        )
    return talks


def utter(talks: list[Talk], seed: int) -> Iterator[tuple[Talk, Sentence, NDArray[np.int16]]]:
    """Every sentence of every talk with its noisy 16 kHz samples, at most MAX_SECONDS long (longer ones are left out)."""
    rng = np.random.default_rng(seed)
    lines = [(talk, sentence) for talk in talks for sentence in talk.sentences]
    spoken = speak(Utterance(talk.voice, talk.rate, talk.pitch, sentence.en) for talk, sentence in lines)
    for (talk, sentence), samples in zip(lines, spoken, strict=True):
        trimmed = _trim(samples)
        if len(trimmed) <= MAX_SECONDS * SAMPLE_RATE:
            yield talk, sentence, _with_noise(trimmed, talk.noise, rng)


def _trim(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """Cuts the silence espeak-ng adds at both ends down to 50 ms."""
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 100)
    pad = SAMPLE_RATE // 20
    return samples[max(0, loud[0] - pad) : loud[-1] + pad] if len(loud) else samples


def _with_noise(samples: NDArray[np.int16], noise: float, rng: np.random.Generator) -> NDArray[np.int16]:
    clean = samples.astype(np.float64)
    noisy = clean + rng.standard_normal(len(clean)) * noise * clean.std()
    return np.clip(np.round(noisy), -32768, 32767).astype(np.int16)
