"""Utterances made of pieces of others: more to listen to, or to read, out of the same few.

After Lam et al. 2022 (arXiv 2203.08757); here cuts fall anywhere, and what the source model makes of an utterance
is its reference (sequence-level distillation: Kim and Rush 2016, arXiv 1606.07947).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# How many pieces an utterance has, two twice as often as three, and which share of an utterance a piece is.
_PIECES = (2, 2, 3)
_LEAST_SHARE, _MOST_SHARE = 0.35, 0.7


def recombined(
    utterances: Sequence[NDArray[np.float32] | str], count: int, seed: int
) -> list[NDArray[np.float32] | str]:
    """`count` new utterances, audio from samples and texts from words; the same seed gives the same ones.

    Of no utterances none are made. One can be longer than what a model hears at once, which is then its beginning.
    """
    rng = random.Random(seed)
    return [_one(utterances, rng) for _ in range(count if utterances else 0)]


def _one(utterances: Sequence[NDArray[np.float32] | str], rng: random.Random) -> NDArray[np.float32] | str:
    chosen = [utterances[rng.randrange(len(utterances))] for _ in range(rng.choice(_PIECES))]
    words = [_piece(text.split(), rng) for text in chosen if isinstance(text, str)]
    if words:
        return " ".join(word for piece in words for word in piece)
    return np.concatenate([_piece(audio, rng) for audio in chosen if not isinstance(audio, str)])


def _piece(whole: Any, rng: random.Random) -> Any:
    """A stretch of a sequence, one entry at least where there is one."""
    length = min(len(whole), max(1, round(len(whole) * rng.uniform(_LEAST_SHARE, _MOST_SHARE))))
    start = rng.randrange(len(whole) - length + 1)
    return whole[start : start + length]
