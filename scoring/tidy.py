"""What Instruct models put around a translation, taken off by rule: preambles, quotation marks, line breaks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# What a translation into a language may be called in English.
_NAMES = {"de": "german", "zh": r"(?:mandarin\ )?chinese|mandarin"}
# "The German translation is:", "Sure, here is the translation into Chinese:"; white space is single.
_ENGLISH = r"""
    (?:here(?:'s|\ is)\ )?(?:the\ )?(?:(?:{name})\ )?translation
    (?:\ (?:
        of\ (?:["'“„«「][^"'”“»」]{{0,300}}["'”“»」]|[^:："'“„«「]{{0,60}})
        | (?:(?:in)?to|in)\ (?:{name})
    ))?
    """
# "Die Übersetzung lautet", "Auf Deutsch"; "这句话翻译成中文是", "翻译";
# but for "Übersetzung" and "语音翻译", which begin titles, too.
_OWN = {
    "de": r"""
        (?:die\ )?deutsche\ übersetzung(?:\ (?:lautet|ist))?
        | (?:die\ )?übersetzung(?:\ (?:ins\ deutsche|auf\ deutsch))(?:\ (?:lautet|ist))?
        | (?:die\ )?übersetzung\ (?:lautet|ist)
        | auf\ deutsch
        """,
    "zh": r"""
        这[段句]?(?:话|语音|音频|录音)的?(?:中文|汉语)?的?翻译(?:[成为](?:中文|汉语))?(?:是|为|如下)?
        | (?:(?:话|语音|音频|录音)的?)?(?:中文|汉语)的?翻译(?:是|为|如下)?
        | 翻译(?:[成为](?:中文|汉语))?(?:是|为|如下)?
        """,
}


def _preamble(language: str) -> re.Pattern[str]:
    translation = _ENGLISH.format(name=_NAMES[language])
    return re.compile(
        rf"""^(?P<bold>\*\*)?(?:(?:sure|certainly|of\ course|okay|ok)[,.!]?\ )?
        (?:
            (?:
                {translation}(?:\ (?:is|reads|would\ be))?(?:\ as\ follows)?
                | the\ (?:speech|audio|sentence|text)\ in\ (?:{_NAMES[language]})\ (?:is|reads)
                | (?:in\ )?(?:{_NAMES[language]})
                | {_OWN[language]}
            )\ ?(?(bold)(?:\*\*\ ?[:：]|[:：]\ ?\*\*)|[:：])\ ?
            | {translation}\ (?:is|reads)\ (?=["'“„«「『‘].*["'”“»」』’]$)
        )""",
        re.IGNORECASE | re.VERBOSE,
    )


_PREAMBLES = {language: _preamble(language) for language in _NAMES}
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


def tidied(texts: Sequence[str], language: str) -> Tidied:
    """Preambles and quotation marks around a whole text are taken off, white space is single; nothing else changes.

    Of texts in a `language` what may belong to a translation into it stays. A text that is nothing but a preamble
    stays, too: it may be the translation.
    """
    found, preambles, quotes = [], 0, 0
    for text in texts:
        plain = " ".join(text.split())
        without = _PREAMBLES[language].sub("", plain, count=1) or plain
        bare = _unquoted(without)
        preambles += without != plain
        quotes += bare != without
        found.append(bare)
    return Tidied(found, preambles, quotes)


def _unquoted(text: str) -> str:
    """Without one pair of marks that enclose all of it, if none of their kind is within."""
    if len(text) < 3 or text[-1] not in _QUOTES.get(text[0], ""):
        return text
    inside = text[1:-1]
    return text if {text[0], *_QUOTES[text[0]]} & set(inside) else inside.strip()
