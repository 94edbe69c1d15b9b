"""Audio of any rate, channels and format is heard alike; what nobody could hear is named."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from corpora.audio import SAMPLE_RATE, decode_audio, encode_audio
from space.errors import UserError

TONE = 0.3 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)


def encoded(samples: np.ndarray, rate: int, form: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=form)
    return out.getvalue()


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_any_rate_and_format_is_heard_alike(form: str, rate: int) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    heard = decode_audio(encoded(np.column_stack([tone, tone]), rate, form), "a tone")
    assert heard.dtype == np.float32
    assert abs(len(heard) - SAMPLE_RATE) < 0.1 * SAMPLE_RATE  # MP3 pads
    spectrum = np.abs(np.fft.rfft(heard))
    assert abs(np.argmax(spectrum) * SAMPLE_RATE / len(heard) - 440) < 2
    assert np.abs(heard).max() == pytest.approx(0.3, rel=0.15)


def test_channels_are_averaged() -> None:
    heard = decode_audio(encoded(np.column_stack([TONE, 0 * TONE]), SAMPLE_RATE, "WAV"), "half a tone")
    assert heard == pytest.approx(TONE / 2, abs=1e-4)


def test_flac_keeps_16_bits() -> None:
    assert decode_audio(encode_audio(TONE), "a tone") == pytest.approx(TONE, abs=2**-15)


def nan() -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.where(TONE > 0.29, np.nan, TONE), SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no audio at all", "audio of sent_7 is not readable"),
        (encoded(TONE, SAMPLE_RATE, "WAV")[:30], "audio of sent_7 is"),
        (encoded(TONE[:0], SAMPLE_RATE, "WAV"), "audio of sent_7 is empty or holds NaN"),
        (encoded(0 * TONE, SAMPLE_RATE, "WAV"), "audio of sent_7 is silent"),
        (nan(), "audio of sent_7 is empty or holds NaN"),
    ],
)
def test_what_nobody_can_hear_is_named(data: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        decode_audio(data, "sent_7")
    assert "\n" not in str(raised.value)
