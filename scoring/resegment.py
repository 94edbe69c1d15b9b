"""Hypotheses of whole talks cut anew where their references are, as the task's scoring does it.

The alignment is Matusov et al.'s (2005, "Evaluating Machine Translation Output with Automatic Sentence Segmentation"),
by mweralign, or by the original mwerSegmenter, each called as a command: neither is part of this package.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from space.errors import UserError

VARIABLE = "TIGHTFIT_RESEGMENTER"
_MWERALIGN, _MWERSEGMENTER = "mweralign", "mwerSegmenter"
# What the task's server takes out of both sides before it aligns them.
_TAKEN_OUT = re.compile("[<>#]")
# Chinese is aligned by characters; runs of Latin letters and digits stay whole.
_CHARACTERS = re.compile(r"[0-9A-Za-z\u00c0-\u024f]+|\S")
_WORDS = re.compile(r"\S+")
_SECONDS = 3600


@dataclass(frozen=True)
class Resegmenter:
    """The command that aligns, and what it is called in signatures."""

    path: Path
    signature: str

    @property
    def is_original(self) -> bool:
        return self.path.name.lower().startswith(_MWERSEGMENTER.lower())


def resegmenter() -> Resegmenter:
    """The command that TIGHTFIT_RESEGMENTER names, or mweralign. Raises UserError where there is none."""
    named = os.environ.get(VARIABLE)
    beside = Path(sys.executable).parent / _MWERALIGN
    name = named or (str(beside) if beside.is_file() else _MWERALIGN)
    found = shutil.which(name)
    if found is None:
        wanted = f"{VARIABLE}={named}" if named else _MWERALIGN
        raise UserError(
            f"--segments vad: {wanted} is no command that can be run; pip install mweralign, or name mwerSegmenter's "
            f"binary by {VARIABLE}"
        )
    path = Path(found)
    plain = Resegmenter(path, path.name)
    return plain if plain.is_original else Resegmenter(path, _version(path))


def _version(path: Path) -> str:
    done = subprocess.run([path, "--version"], check=False, capture_output=True, text=True)  # noqa: S603  see above
    if done.returncode:
        raise UserError(f"{path} --version ended with status {done.returncode}; install mweralign anew")
    return done.stdout.strip()


def resegment(hypotheses: Sequence[str], references: Sequence[str], language: str) -> list[str]:
    """One talk's hypotheses, of whatever segments, as one text for each of its references.

    They are joined, entities unescaped and `<`, `>` and `#` taken out; words (in Chinese characters) are aligned
    without regard to case, and the texts are stretches of what was joined, nothing lost, case and spaces kept. Where
    there is nothing to align all are empty. Raises UserError where the command fails or loses words.
    """
    pattern = _CHARACTERS if language == "zh" else _WORDS
    joined = ("" if language == "zh" else " ").join(map(_plain, hypotheses))
    joined = " ".join(joined.split())
    starts = [match.start() for match in pattern.finditer(joined)]
    if not starts:
        return [""] * len(references)
    tokens = pattern.findall(joined)
    expected = [pattern.findall(_plain(reference)) for reference in references]
    counts = _aligned([token.lower() for token in tokens], [[t.lower() for t in one] for one in expected])
    if sum(counts) != len(tokens) or len(counts) != len(references):
        raise UserError(
            f"{resegmenter().path} gave {sum(counts)} words in {len(counts)} lines for {len(tokens)} words and "
            f"{len(references)} references; install another version"
        )
    ends = [sum(counts[: place + 1]) for place in range(len(counts))]
    cuts = [starts[end] if end < len(starts) else len(joined) for end in ends]
    return [joined[start:end].strip() for start, end in zip([0, *cuts], cuts, strict=False)]


def as_many(hypotheses: Sequence[str], references: Sequence[str]) -> bool:
    """Whether the task's server would score hypotheses as they are: as many lines as references."""
    return len(hypotheses) == len(references)


def _plain(text: str) -> str:
    return " ".join(_TAKEN_OUT.sub("", html.unescape(text)).split())


def _aligned(tokens: Sequence[str], references: Sequence[Sequence[str]]) -> list[int]:
    """How many of the tokens belong to each reference; one without tokens has none.

    Commands are told of references that have something to align with.
    """
    filled = [place for place, one in enumerate(references) if one]
    counts = [0] * len(references)
    if not filled:
        counts[-1] = len(tokens)
        return counts
    with tempfile.TemporaryDirectory() as folder:
        lines = _called(Path(folder), tokens, [references[place] for place in filled])
    if len(lines) != len(filled):
        return [len(line.split()) for line in lines]
    for place, line in zip(filled, lines, strict=True):
        counts[place] = len(line.split())
    return counts


def _called(folder: Path, tokens: Sequence[str], references: Sequence[Sequence[str]]) -> list[str]:
    """The lines that the command gives."""
    tool = resegmenter()
    said, wanted, out = (folder / name for name in ("hypothesis", "reference", "__segments"))
    said.write_text(" ".join(tokens) + "\n", encoding="utf-8")
    wanted.write_text("".join(" ".join(one) + "\n" for one in references), encoding="utf-8")
    if tool.is_original:
        command = [str(tool.path), "-mref", wanted.name, "-hypfile", said.name]
    else:
        command = [str(tool.path), "-r", wanted.name, "-t", said.name, "-o", out.name, "-m", "none", "-w"]
    try:
        done = subprocess.run(  # noqa: S603  a command the user named, or the package's own
            command,
            check=False,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env={**os.environ, "PYTHONUTF8": "1"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{tool.path} could not align ({error}); name another by {VARIABLE}") from error
    if done.returncode or not out.is_file():
        last = (done.stderr.strip() or done.stdout.strip() or "no word of why").splitlines()[-1]
        raise UserError(f"{tool.path} ended with status {done.returncode}: {last}; name another by {VARIABLE}")
    return out.read_text(encoding="utf-8").removesuffix("\n").split("\n")
