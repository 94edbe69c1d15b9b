"""A plan as a picture: for every layer of each tower how much of its sublayers stays, and at how many bits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from html import escape

from space.choices import PARTS, whole_size
from space.layout import Layout, Tower
from space.plan import Plan, Sublayer
from space.rates import LADDERS, Rate

_ROW, _BAR, _GAP, _MARGIN = 18, 150, 12, 16
# Width of the numbers of layers before the bars, and of a tower with the space behind it.
_NUMBERS = 24
_TOWER = _NUMBERS + 2 * (_BAR + _GAP) + _GAP
_HEAD, _LEGEND = 78, 58
_FEWEST, _MOST = LADDERS["coded"][0].bits, 8.0
_SHOWN = (0.7, 1.0, 1.4, 2.0, 3.0, 4.0, 6.0, 8.0)
# The colours of the fewest and of the most bits, between which others lie.
_PALE, _DARK = (253, 224, 160), (12, 44, 110)


def plan_picture(layout: Layout, plan: Plan, title: str) -> str:
    """An SVG: layers stand below each other, a bar's width is the share that stays, its colour says the bits."""
    rows = max(tower.layers for tower in layout.towers)
    width = max(2 * _MARGIN + len(layout.towers) * _TOWER, 2 * _MARGIN + 80 * len(_SHOWN))
    bottom = _HEAD + rows * _ROW
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom + _LEGEND}" '
            f'viewBox="0 0 {width} {bottom + _LEGEND}" font-family="sans-serif" font-size="11">',
            f'<rect width="{width}" height="{bottom + _LEGEND}" fill="#ffffff"/>',
            _text(_MARGIN, 24, title, size=14),
            *(
                line
                for place, tower in enumerate(layout.towers)
                for line in _tower(tower, plan, _MARGIN + place * _TOWER)
            ),
            _text(_MARGIN, bottom + 20, _tables(layout, plan)),
            *_legend(bottom + 30),
            "</svg>",
        ]
    )


def _tower(tower: Tower, plan: Plan, left: int) -> Iterator[str]:
    yield _text(left, 46, tower.name, size=13)
    places = [left + _NUMBERS + place * (_BAR + _GAP) for place in range(len(PARTS))]
    for part, x in zip(PARTS, places, strict=True):
        unit = "KV heads" if part == "attention" else "channels"
        yield _text(x, 64, f"{part} (of {whole_size(tower, part):,} {unit})")
    for index, layer in enumerate(plan.layers(tower)):
        y = _HEAD + index * _ROW
        yield _text(left, y + 12, str(index))
        for part, x in zip(PARTS, places, strict=True):
            yield from _bar(x, y, getattr(layer, part), whole_size(tower, part))


def _bar(x: int, y: int, sublayer: Sublayer, whole: int) -> Iterator[str]:
    """The frame is the source's width; of what is gone only a dashed frame is left."""
    dashes = "" if sublayer.kept else ' stroke-dasharray="3 3"'
    yield f'<rect x="{x}" y="{y}" width="{_BAR}" height="{_ROW - 4}" fill="none" stroke="#c4c4c4"{dashes}/>'
    if not sublayer.kept:
        yield _text(x + 5, y + 11, "removed", colour="#8a8a8a")
        return
    width = _BAR * sublayer.kept / whole
    yield f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{_ROW - 4}" fill="{colour_of(sublayer.rate)}"/>'
    words, inside = f"{sublayer.kept:,} at {sublayer.rate}", width >= _BAR / 2
    yield _text(x + 5 if inside else x + width + 5, y + 11, words, colour=_ink(sublayer.rate) if inside else "#222222")


def _tables(layout: Layout, plan: Plan) -> str:
    tables = ", ".join(f"{table} {plan.rate(table)}" for table in layout.tables)
    return f"{plan.vocabulary:,} of {layout.vocabulary:,} tokens; {tables}"


def _legend(y: int) -> Iterator[str]:
    for place, bits in enumerate(_SHOWN):
        x = _MARGIN + place * 72
        yield f'<rect x="{x}" y="{y}" width="18" height="12" fill="{_colour(bits)}" stroke="#c4c4c4"/>'
        yield _text(x + 23, y + 10, f"{bits:g} bits" + (" up" if bits == _MOST else ""))


def colour_of(rate: Rate) -> str:
    """The darker the more bits, on a logarithmic scale."""
    return _colour(rate.bits)


def _colour(bits: float) -> str:
    share = _darkness(bits)
    return _hex(round(pale + share * (dark - pale)) for pale, dark in zip(_PALE, _DARK, strict=True))


def _darkness(bits: float) -> float:
    """From 0 of the fewest to 1 of the most bits."""
    return math.log(min(max(bits, _FEWEST), _MOST) / _FEWEST) / math.log(_MOST / _FEWEST)


def _ink(rate: Rate) -> str:
    return "#ffffff" if _darkness(rate.bits) > 0.45 else "#222222"


def _hex(channels: Iterable[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def _text(x: float, y: float, words: str, *, size: int = 11, colour: str = "#222222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}">{escape(words)}</text>'
