"""A look-alike of ACL 60/60: its layout to the letter, of bundled speech; and a manifest of the same."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from corpora.audio import SAMPLE_RATE
from corpora.roles import BUNDLED, Example, open_corpus

# Talks of each split, of which the bundled role report has as many.
SPLITS = {"dev": 3, "eval": 2}
LANGUAGES = ("en", "de", "zh")
_PAUSE = np.zeros(SAMPLE_RATE // 2, np.float32)


def write_acl6060(folder: Path, *, utterances: int = 3) -> Path:
    """Makes the archive's folder: three talks in dev, two in eval, so many utterances each; the folder to give."""
    talks = _talks(sum(SPLITS.values()), utterances)
    for split, count in SPLITS.items():
        _write_split(folder / "2" / "acl_6060" / split, split, dict(list(talks.items())[:count]))
        talks = dict(list(talks.items())[count:])
    return folder


def write_manifest(folder: Path, *, talks: int = 4, utterances: int = 2) -> Path:
    """A manifest and its audio; the manifest's path."""
    lines = []
    for talk, examples in _talks(talks, utterances).items():
        for place, example in enumerate(examples):
            name = f"{talk}-{place}.flac"
            soundfile.write(folder / name, example.utterance, SAMPLE_RATE)
            lines.append({"audio": name, "text": example.english, "talk": talk, "references": example.references})
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def wav(samples: NDArray[np.float32], rate: int = SAMPLE_RATE) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="WAV", subtype="PCM_16")
    return out.getvalue()


@cache
def _talks(count: int, utterances: int) -> dict[str, list[Example]]:
    """Shortest utterances of talks of the role report, of one length each."""
    talks: dict[str, list[Example]] = {}
    for example in open_corpus(BUNDLED).examples("report"):
        talks.setdefault(example.talk, []).append(example)
    found = {}
    for place, examples in enumerate(list(talks.values())[:count]):
        shortest = sorted(examples, key=lambda example: len(example.utterance))[:utterances]
        found[f"2022.acl-long.{110 + place}"] = shortest
    assert len(found) == count
    return found


def _write_split(root: Path, split: str, talks: Mapping[str, Sequence[Example]]) -> None:
    for name in ("full_wavs", "segmented_wavs/gold", "text/txt", "text/xml"):
        (root / name).mkdir(parents=True)
    (root / "FILE_ORDER").write_text("".join(f"{talk}\n" for talk in talks))
    number = 0
    for talk, examples in talks.items():
        audio = [part for example in examples for part in (example.utterance, _PAUSE)]
        (root / "full_wavs" / f"{talk}.wav").write_bytes(wav(np.concatenate([_PAUSE, *audio])))
        for example in examples:
            number += 1
            gold = root / "segmented_wavs" / "gold" / f"sent_{number}.wav"
            gold.write_bytes(wav(np.asarray(example.utterance)))
    for code in LANGUAGES:
        named = f"ACL.6060.{split}.en-xx.{code}"
        texts = [_text(example, code) for examples in talks.values() for example in examples]
        (root / "text" / "txt" / f"{named}.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        (root / "text" / "xml" / f"{named}.xml").write_text(_xml(talks, code), encoding="utf-8")


def _text(example: Example, code: str) -> str:
    return example.english or "" if code == "en" else example.references[code]


def _xml(talks: Mapping[str, Sequence[Example]], code: str) -> str:
    documents = []
    for talk, examples in talks.items():
        segments = "".join(
            f'<seg id="{place}">{_text(example, code)}</seg>\n' for place, example in enumerate(examples, 1)
        )
        documents.append(f'<doc docid="{talk}" genre="presentations">\n<talkid>{talk}</talkid>\n{segments}</doc>\n')
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<mteval>\n<refset>\n{"".join(documents)}</refset>\n</mteval>\n'
