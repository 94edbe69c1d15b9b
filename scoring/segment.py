"""Whole talks cut into segments that a model can hear: speech found by silero-vad, cut at the longest pauses."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corpora.audio import HEARD_SECONDS, SAMPLE_RATE
from space.errors import UserError

# Speech as short as a "yes" counts; pauses from here on part speech; so much beside speech is kept with it.
_SPEECH_MS, _PAUSE_MS, _PAD_MS = 100, 100, 100
_PACKAGE = "silero-vad"


def segmentation(longest_seconds: float) -> str:
    """What segments depend on, for signatures. Raises UserError where silero-vad is not there."""
    try:
        found = version(_PACKAGE)
    except PackageNotFoundError as error:
        raise UserError(
            f"--segments vad: {_PACKAGE} is not installed; pip install {_PACKAGE}, or give --segments gold"
        ) from error
    return f"{_PACKAGE} {found}, speech {_SPEECH_MS} ms, pauses {_PAUSE_MS} ms, at most {longest_seconds:g} s"


def speech_segments(samples: NDArray[np.float32], longest_seconds: float = HEARD_SECONDS) -> list[tuple[int, int]]:
    """Starts and ends of segments (samples at 16 kHz) in order, disjoint, all speech within; of silence none.

    What is too long is cut in its longest pause, and its parts again (divide and conquer: Potapczyk and Przybysz 2020,
    arXiv 2006.04577, section 3); speech without a pause is cut where it becomes too long.
    """
    longest = int(longest_seconds * SAMPLE_RATE)
    found: list[tuple[int, int]] = []
    open_spans = [_spans(samples, longest)]
    while open_spans:
        spans = open_spans.pop()
        if not spans:
            continue
        if spans[-1][1] - spans[0][0] <= longest:
            found.append((spans[0][0], spans[-1][1]))
            continue
        pauses = [after[0] - before[1] for before, after in pairwise(spans)]
        cut = 1 + max(range(len(pauses)), key=pauses.__getitem__)
        open_spans += [spans[cut:], spans[:cut]]
    return found


def _spans(samples: NDArray[np.float32], longest: int) -> list[tuple[int, int]]:
    """Stretches of speech in order, none longer than `longest`."""
    model, timestamps = _detector()
    heard = timestamps(
        torch.from_numpy(np.ascontiguousarray(samples, np.float32)),
        model,
        sampling_rate=SAMPLE_RATE,
        min_speech_duration_ms=_SPEECH_MS,
        min_silence_duration_ms=_PAUSE_MS,
        speech_pad_ms=_PAD_MS,
        max_speech_duration_s=longest / SAMPLE_RATE,
    )
    found: list[tuple[int, int]] = []
    for span in heard:
        start, end = int(span["start"]), min(int(span["end"]), len(samples))
        found += [(at, min(end, at + longest)) for at in range(start, end, longest)]
    return found


@cache
def _detector() -> tuple[Any, Any]:
    """The model that the package holds, and what runs it."""
    segmentation(HEARD_SECONDS)
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from silero_vad import get_speech_timestamps, load_silero_vad  # noqa: PLC0415  it sets torch's threads

        model = load_silero_vad()
    torch.set_num_threads(threads)
    return model, get_speech_timestamps
