"""Pins: what a user wants left alone, such as ``decoder.first:keep`` or ``lm_head:bits>=4``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from space.choices import PARTS, VOCABULARY, Option, choices, place, whole_size
from space.errors import UserError
from space.layout import Layout
from space.plan import TABLES, TOWERS, Sublayer
from space.rates import Rate, rate_named

PIN_HELP = (
    "WHERE:RULE; WHERE is all, encoder, decoder, attention, ffn, tables, a tower's layer (decoder.first, encoder.0-3), "
    f"its attention or ffn (decoder.last.ffn), {', '.join(TABLES)} or {VOCABULARY}; RULE is keep, whole, gone, "
    "bits>=4, bits<=4, bits=4, rate=c1.6 or, for the vocabulary, tokens>=8000"
)
_WHERE = re.compile(
    rf"(?P<tower>{'|'.join(TOWERS)})(\.(?P<layer>first|last|\d+(-\d+)?))?(\.(?P<part>{'|'.join(PARTS)}))?"
)
_RULE = re.compile(
    r"(?P<word>bits|tokens)(?P<relation>>=|<=|=)(?P<number>\d+(\.\d+)?)"
    r"|rate=(?P<rate>[\w.]+)|keep|whole|gone"
)
_RELATIONS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, "=": operator.eq}
_Test = Callable[[str, Option], bool]


@dataclass(frozen=True)
class Pins:
    """Constraints on the options of a layout's choices; without any, everything is allowed."""

    texts: tuple[str, ...]
    tests: tuple[tuple[frozenset[str], _Test], ...] = ()

    def allow(self, name: str, option: Option) -> bool:
        """Whether an option may be taken for the choice of this name."""
        return all(test(name, option) for names, test in self.tests if name in names)

    def concern(self, name: str) -> tuple[int, ...]:
        """Which of the pins are about the choice of this name: choices of one kind that share them allow the same."""
        return tuple(index for index, (names, _) in enumerate(self.tests) if name in names)

    def __str__(self) -> str:
        return ", ".join(f"--pin {text}" for text in self.texts)


FREE = Pins(())


def read_pins(texts: Sequence[str], layout: Layout) -> Pins:
    """Pins from their texts. Raises UserError for one that is none, or that leaves a choice without any option."""
    pins = Pins(tuple(texts), tuple(_read(text, layout) for text in texts))
    for name, options in choices(layout).items():
        if pins.concern(name) and not any(pins.allow(name, option) for option in options):
            raise UserError(f"{pins}: together they leave nothing to choose for {name}; loosen one of them")
    return pins


def _read(text: str, layout: Layout) -> tuple[frozenset[str], _Test]:
    where, colon, rule = text.replace(" ", "").partition(":")
    match = _RULE.fullmatch(rule)
    if not colon or match is None:
        raise UserError(f"--pin {text!r}: not a pin; write {PIN_HELP}")
    names = _names(where, text, layout)
    of_tokens = match["word"] == "tokens"
    if (names == {VOCABULARY}) != (of_tokens or (rule == "whole" and where == VOCABULARY)):
        raise UserError(f"--pin {text!r}: tokens are for the vocabulary, and it knows tokens and whole only")
    if rule in ("keep", "gone", "whole") and names <= set(TABLES):
        raise UserError(f"--pin {text!r}: a table is always there whole; pin its bits or its rate")
    rates = layout.rates
    if match["rate"] and match["rate"] not in map(str, rates):
        raise UserError(f"--pin {text!r}: rate {match['rate']!r} is not one of {', '.join(map(str, rates))}")
    if match["word"] == "bits" and not any(
        _RELATIONS[match["relation"]](r.bits, float(match["number"])) for r in rates
    ):
        raise UserError(f"--pin {text!r}: no rate has these bits; there are {', '.join(map(str, rates))}")
    return names, _test(match, rule, layout)


def _names(where: str, text: str, layout: Layout) -> frozenset[str]:
    """Names of the choices a WHERE stands for."""
    every = [name for name in choices(layout) if name != VOCABULARY]
    if where == VOCABULARY:
        return frozenset({VOCABULARY})
    if where == "all":
        return frozenset(every)
    if where == "tables":
        return frozenset(layout.tables)
    if where in PARTS:
        return frozenset(name for name in every if name.endswith(f".{where}"))
    if where in layout.tables:
        return frozenset({where})
    match = _WHERE.fullmatch(where)
    tower = next((tower for tower in layout.towers if match and tower.name == match["tower"]), None)
    if match is None or tower is None:
        raise UserError(f"--pin {text!r}: this model has no {where!r}; write {PIN_HELP}")
    layer = match["layer"] or f"0-{tower.layers - 1}"
    first, _, last = {"first": "0", "last": str(tower.layers - 1)}.get(layer, layer).partition("-")
    if not int(first) <= int(last or first) < tower.layers:
        raise UserError(f"--pin {text!r}: the {tower.name}'s layers are 0 to {tower.layers - 1}")
    indices = range(int(first), int(last or first) + 1)
    parts = (match["part"],) if match["part"] else PARTS
    return frozenset(place(tower.name, index, part) for index in indices for part in parts)


def _test(match: re.Match[str], rule: str, layout: Layout) -> _Test:
    """Whether an option keeps to a rule; rules of bits leave removed sublayers alone."""
    if match["word"] == "tokens":
        return lambda _name, option: (
            isinstance(option, int) and _RELATIONS[match["relation"]](option, float(match["number"]))
        )
    if match["word"] == "bits":
        relation, bits = _RELATIONS[match["relation"]], float(match["number"])
        return lambda _name, option: _removed(option) or relation(_rate(option).bits, bits)
    if match["rate"]:
        wanted = rate_named(match["rate"])
        return lambda _name, option: _removed(option) or _rate(option) == wanted
    whole = {tower.name: {part: whole_size(tower, part) for part in PARTS} for tower in layout.towers}

    def keeps(name: str, option: Option) -> bool:
        if isinstance(option, int):
            return option == layout.vocabulary
        if not isinstance(option, Sublayer):
            return True
        tower, _, part = name.split(".")
        return {"keep": option.kept > 0, "gone": option.kept == 0, "whole": option.kept == whole[tower][part]}[rule]

    return keeps


def _removed(option: Option) -> bool:
    return isinstance(option, Sublayer) and not option.kept


def _rate(option: Option) -> Rate:
    assert not isinstance(option, int)
    return option.rate if isinstance(option, Sublayer) else option
