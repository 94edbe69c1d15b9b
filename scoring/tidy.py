"""What Instruct models put around a translation, taken off by rule: preambles, quotation marks, line breaks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# "The German translation is:", "Sure, here is the translation into Chinese:", "Die Übersetzung lautet:"; and Chinese.
_PREAMBLE = re.compile(
    r"""^\s*(?:(?:sure|certainly|of\ course|okay|ok)[,.!]?\s+)?
    (?:
        (?:here(?:'s|\ is)\s+)?(?:the\s+)?(?:(?:german|chinese|mandarin)\s+)?translation
        (?:\s+(?:of\b[^:：]{0,60}|(?:in)?to\s+(?:german|chinese|mandarin)|in\s+(?:german|chinese|mandarin)))?
        (?:\s+(?:is|reads|would\ be))?(?:\s+as\s+follows)?
        | (?:die\s+)?(?:deutsche\s+)?übersetzung(?:\s+(?:lautet|ist))?
        | (?:(?:这段话|这句话|语音)的?)?(?:中文|汉语|德语)?(?:的)?翻译(?:是|为|如下)?
        | in\s+(?:german|chinese|mandarin)
    )\s*[:：]\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "«": "»", "»": "«", "「": "」", "『": "』", "‘": "’", "‚": "‘"}


# What is counted.
PREAMBLES, QUOTES = "preambles", "quotation marks"


@dataclass(frozen=True)
class Tidied:
    """Texts without what was put around them, and in how many something was taken off."""

    texts: list[str]
    preambles: int
    quotes: int


def tidied(texts: Sequence[str]) -> Tidied:
    """Preambles and quotation marks around a whole text are taken off, white space is single; nothing else changes.

    A text that is nothing but a preamble stays: it may be the translation.
    """
    found, preambles, quotes = [], 0, 0
    for text in texts:
        plain = " ".join(text.split())
        without = _PREAMBLE.sub("", plain, count=1) or plain
        bare = _unquoted(without)
        preambles += without != plain
        quotes += bare != without
        found.append(bare)
    return Tidied(found, preambles, quotes)


def _unquoted(text: str) -> str:
    """Without one pair of marks that enclose all of it, if the same marks are not within."""
    if len(text) < 3 or _QUOTES.get(text[0]) != text[-1]:
        return text
    inside = text[1:-1]
    return text if {text[0], text[-1]} & set(inside) else inside.strip()
