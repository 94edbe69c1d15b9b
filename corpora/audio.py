"""Audio files to what models hear, 16 kHz mono, and back to FLAC; what no model could use is named."""

from __future__ import annotations

import io
from math import gcd

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from space.errors import UserError

SAMPLE_RATE = 16_000
# Qwen2-Audio hears so much of an utterance; what is behind it is not heard.
HEARD_SECONDS = 30.0
# Speech is louder by far, a 16-bit file's own rounding is not.
_SILENT = 1e-4


def decode_audio(data: bytes, name: str) -> NDArray[np.float32]:
    """Samples in [-1, 1] at 16 kHz of an encoded file (WAV, FLAC, Ogg, MP3) of any rate; channels are averaged.

    Raises UserError naming the utterance where the file is broken, empty, silent or holds NaN.
    """
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise UserError(
            f"audio of {name} is not readable ({error}); convert it to WAV, FLAC, Ogg or MP3, or remove the utterance"
        ) from error
    if not len(samples) or not np.isfinite(samples).all():
        raise UserError(f"audio of {name} is empty or holds NaN; remove the utterance")
    mono = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
    if np.abs(mono).max() < _SILENT:
        raise UserError(f"audio of {name} is silent; remove the utterance")
    if rate != SAMPLE_RATE:
        shared = gcd(rate, SAMPLE_RATE)
        mono = resample_poly(mono, SAMPLE_RATE // shared, rate // shared)
    return np.ascontiguousarray(mono, dtype=np.float32)


def encode_audio(samples: NDArray[np.float32]) -> bytes:
    """Samples at 16 kHz as a 16-bit mono FLAC file."""
    out = io.BytesIO()
    soundfile.write(out, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def seconds(samples: NDArray[np.float32]) -> float:
    """How long samples at 16 kHz last."""
    return len(samples) / SAMPLE_RATE
