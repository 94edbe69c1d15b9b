"""A speaking process: lines of JSON in, 16 kHz mono PCM out, by espeak-ng.

espeak-ng is GPL-3.0, so it lives in a process of its own and is only called: ``python -m miniature.speech``. The
caller writes ``{"voice", "rate", "pitch", "text"}`` a line and reads a 4-byte length and that many 16-bit samples.
"""

from __future__ import annotations

import ctypes
import json
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from math import gcd

import espeakng_loader
import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Utterance:
    """What to say and how: espeak voice name, words a minute, pitch 0 to 99."""

    voice: str
    rate: int
    pitch: int
    text: str


def speak(utterances: Iterable[Utterance]) -> Iterator[NDArray[np.int16]]:
    """Speaks each utterance in turn; yields 16 kHz samples. Raises RuntimeError when the speaking process dies."""
    process = subprocess.Popen(
        [sys.executable, "-m", "miniature.speech"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for utterance in utterances:
            process.stdin.write(json.dumps(asdict(utterance)).encode() + b"\n")
            process.stdin.flush()
            head = process.stdout.read(4)
            if len(head) < 4:
                raise RuntimeError(f"espeak-ng ended while saying {utterance.text!r}")
            yield np.frombuffer(process.stdout.read(struct.unpack("<I", head)[0]), dtype="<i2")
    finally:
        process.stdin.close()
        process.wait()


def _serve() -> None:
    library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
    # AUDIO_OUTPUT_SYNCHRONOUS = 2; espeakCHARS_UTF8 = 1; espeakRATE = 1, espeakPITCH = 3 (speak_lib.h)
    native_rate = library.espeak_Initialize(2, 0, str(espeakng_loader.get_data_path()).encode(), 0)
    chunks: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, count * 2))
        return 0

    library.espeak_SetSynthCallback(collect)
    divisor = gcd(SAMPLE_RATE, native_rate)
    for line in sys.stdin.buffer:
        request = Utterance(**json.loads(line))
        chunks.clear()
        library.espeak_SetVoiceByName(request.voice.encode())
        library.espeak_SetParameter(1, request.rate, 0)
        library.espeak_SetParameter(3, request.pitch, 0)
        text = request.text.encode() + b"\0"
        library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 0, 0, 1, None, None)
        samples = np.frombuffer(b"".join(chunks), dtype="<i2").astype(np.float64)
        resampled = resample_poly(samples, SAMPLE_RATE // divisor, native_rate // divisor)
        pcm = np.clip(np.round(resampled), -32768, 32767).astype("<i2").tobytes()
        sys.stdout.buffer.write(struct.pack("<I", len(pcm)) + pcm)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
