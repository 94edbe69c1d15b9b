"""Whole talks are cut in pauses: nothing said is lost, no segment is longer than a model hears."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from corpora.audio import SAMPLE_RATE
from corpora.roles import BUNDLED, PAUSE_SECONDS, Talk, open_corpus
from scoring.segment import segmentation, speech_segments


@pytest.fixture(scope="module")
def talk() -> Talk:
    return open_corpus(BUNDLED).talks("select")[0]


def speech_of(talk: Talk) -> list[tuple[int, int]]:
    """Where each utterance stands."""
    found, at = [], 0
    for example in talk.examples:
        found.append((at, at + len(example.utterance)))
        at += len(example.utterance) + round(PAUSE_SECONDS * SAMPLE_RATE)
    return found


@pytest.mark.parametrize("longest", [4.0, 12.0, 30.0])
def test_segments_are_short_enough_and_hold_what_is_said(talk: Talk, longest: float) -> None:
    segments = speech_segments(talk.samples, longest)
    assert all(0 <= start < end <= len(talk.samples) for start, end in segments)
    assert all(before[1] <= after[0] for before, after in pairwise(segments))
    assert max(end - start for start, end in segments) <= longest * SAMPLE_RATE
    within = np.zeros(len(talk.samples), bool)
    for start, end in segments:
        within[start:end] = True
    energy = np.square(talk.samples.astype(np.float64))
    assert energy[within].sum() / energy.sum() > 0.995


def test_talks_are_cut_in_pauses(talk: Talk) -> None:
    """Where an utterance is shorter than a segment may be, none is cut in two."""
    spoken = speech_of(talk)
    whole = [(start, end) for start, end in spoken if end - start < 8 * SAMPLE_RATE]
    edges = [edge for segment in speech_segments(talk.samples, 12.0) for edge in segment]
    margin = SAMPLE_RATE // 5
    inside = sum(start + margin < edge < end - margin for start, end in whole for edge in edges)
    assert inside <= len(whole) // 20


def test_segments_do_not_depend_on_what_came_before(talk: Talk) -> None:
    first = speech_segments(talk.samples)
    speech_segments(talk.samples[: 5 * SAMPLE_RATE])
    assert speech_segments(talk.samples) == first


def test_of_silence_and_noise_there_is_nothing() -> None:
    assert speech_segments(np.zeros(3 * SAMPLE_RATE, np.float32)) == []
    noise: NDArray[np.float32] = np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE).astype(np.float32)
    assert speech_segments(noise * np.float32(0.01)) == []


def test_speech_without_a_pause_is_cut(talk: Talk) -> None:
    start, end = max(speech_of(talk), key=lambda span: span[1] - span[0])
    segments = speech_segments(talk.samples[start:end], 0.7)
    assert len(segments) > 1
    assert max(end - start for start, end in segments) <= 0.7 * SAMPLE_RATE


def test_the_detector_leaves_torchs_threads_alone(talk: Talk) -> None:
    threads = torch.get_num_threads()
    speech_segments(talk.samples[:SAMPLE_RATE])
    assert torch.get_num_threads() == threads
    assert segmentation(30.0).startswith("silero-vad 6.")
