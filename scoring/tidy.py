"""What Instruct models put around a translation, taken off by rule: preambles, quotation marks, line breaks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# "The German translation is:", "Sure, here is the translation into Chinese:", "Die Übersetzung lautet:"; and Chinese.
_LANGUAGE = r"(?:german|chinese|mandarin)"
_TRANSLATION = rf"""
    (?:here(?:'s|\ is)\s+)?(?:the\s+)?(?:{_LANGUAGE}\s+)?translation
    (?:\s+(?:
        of\s+(?:["'“„«「][^"'”“»」]{{0,300}}["'”“»」]|[^:："'“„«「]{{0,60}})
        | (?:(?:in)?to|in)\s+{_LANGUAGE}
    ))?
    """
_PREAMBLE = re.compile(
    rf"""^\s*\*{{0,2}}(?:(?:sure|certainly|of\ course|okay|ok)[,.!]?\s+)?
    (?:
        (?:
            {_TRANSLATION}(?:\s+(?:is|reads|would\ be))?(?:\s+as\s+follows)?
            | the\s+(?:speech|audio|sentence|text)\s+in\s+{_LANGUAGE}\s+(?:is|reads)
            | (?:in\s+)?{_LANGUAGE}
            | (?:die\s+)?(?:deutsche\s+)?übersetzung(?:\s+(?:ins\s+deutsche|auf\s+deutsch))?(?:\s+(?:lautet|ist))?
            | auf\s+deutsch
            | (?:这?[段句]?(?:话|语音|音频|录音)的?)?(?:中文|汉语|德语)?的?翻译
              (?:[成为](?:中文|汉语|德语))?(?:是|为|如下)?
        )\s*[:：]\s*\*{{0,2}}\s*
        | {_TRANSLATION}\s+(?:is|reads)\s+(?=["'“„«「『‘].*["'”“»」』’]$)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
# What a mark that opens may be closed by.
_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“”", "«": "»", "»": "«", "「": "」", "『": "』", "‘": "’", "‚": "‘’"}


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
    if len(text) < 3 or text[-1] not in _QUOTES.get(text[0], ""):
        return text
    inside = text[1:-1]
    return text if {text[0], text[-1]} & set(inside) else inside.strip()
