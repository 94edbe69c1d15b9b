"""``launch.py plan``: the outlook of a model for each range, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from corpora.roles import BUNDLED as BUNDLED_CORPUS
from corpora.roles import DIRECTIONS, open_corpus
from models.layouts import Anatomy, find_anatomy
from models.loading import load_processor
from models.vocabulary import ladder, with_vocabulary
from search.settings import check_directions
from search.workbench import counted_vocabulary
from space.bins import SizeRange, Units, bin_of, bin_range, max_size_range
from space.errors import UserError
from space.layout import Layout
from space.limits import Limits
from space.outlook import Outlook, find_needs, kept, look_out, mean_bits
from space.pins import read_pins
from space.prior import Coverage, prior_loss
from space.rates import LADDERS
from space.size import FixedBytes

# Where no tokenizer is at hand: compact bytes a token of Qwen2's tokenizer.json takes, and the other files together.
_BYTES_A_TOKEN, _OTHER_FILES = 31, 33_000


@dataclass(frozen=True)
class PlanSettings:
    """The options of ``launch.py plan``; exactly one of `bins` and `max_size` is given."""

    model: str | None
    bins: tuple[int, ...] | None
    max_size: str | None
    units: Units
    pins: tuple[str, ...]
    data: Path | None
    directions: tuple[str, ...]
    rates: str = "coded"

    def ranges(self, layout: Layout) -> list[SizeRange]:
        """The ranges asked for. Raises UserError for a bin or a size that is none."""
        if self.max_size is not None:
            return [max_size_range(self.max_size, self.units)]
        return [bin_range(number, layout.source_bytes, self.units) for number in self.bins or ()]


def plan_ranges(settings: PlanSettings) -> dict[str, Any]:
    """What the model can be in each range; a range nothing fits has `impossible`, the reason, instead of a plan.

    Raises UserError where no range is possible at all, or for settings that are none.
    """
    check_directions(settings.directions)
    anatomy = find_anatomy(settings.model)
    anatomy = replace(anatomy, layout=replace(anatomy.layout, rates=LADDERS[settings.rates]))
    ranges = settings.ranges(anatomy.layout)
    layout, fixed_bytes, coverage = _tokens(anatomy, settings)
    pins = read_pins(settings.pins, layout)
    loss = prior_loss(layout, coverage)
    needs = find_needs(Limits(layout, ranges[0], fixed_bytes, pins))
    outlooks = []
    reasons: list[UserError] = []
    for size_range in ranges:
        try:
            outlook = look_out(Limits(layout, size_range, fixed_bytes, pins), loss, needs)
            outlooks.append(_range(size_range) | _described(outlook, layout))
        except UserError as error:
            reasons.append(error)
            outlooks.append(_range(size_range) | {"impossible": str(error)})
    if len(reasons) == len(outlooks):
        raise reasons[0]
    return {
        "model": anatomy.name,
        "parameters": layout.parameters,
        "tensor_bytes": layout.source_bytes,
        "remark": anatomy.remark,
        "units": str(settings.units),
        "ranges": outlooks,
    }


def _tokens(anatomy: Anatomy, settings: PlanSettings) -> tuple[Layout, FixedBytes, Coverage | None]:
    """The layout with vocabulary sizes, what files weigh at each, and how much text each covers, if counted."""
    layout, vocabulary = anatomy.layout, anatomy.vocabulary
    if vocabulary is None or anatomy.folder is None:
        if settings.data is not None:
            raise UserError(f"--data {settings.data}: tokens are counted with a tokenizer; give the model's folder")
        sizes = ladder(anatomy.least_vocabulary, layout.vocabulary)
        return replace(layout, vocabulary_sizes=sizes), lambda tokens: _OTHER_FILES + _BYTES_A_TOKEN * tokens, None
    data = settings.data or (BUNDLED_CORPUS if settings.model is None else None)
    coverage = None
    if data is not None:
        languages = [DIRECTIONS[direction] for direction in settings.directions]
        corpus = open_corpus(data, languages, heard=layout.encoder is not None)
        vocabulary = counted_vocabulary(vocabulary, load_processor(anatomy.folder), corpus, languages)
        coverage = vocabulary.coverage
    return with_vocabulary(layout, vocabulary), vocabulary.fixed_bytes, coverage


def _range(size_range: SizeRange) -> dict[str, Any]:
    least, bound = size_range.least_bytes, size_range.bound_bytes
    return {"range": size_range.name, "least_bytes": least, "bound_bytes": bound}


def _described(outlook: Outlook, layout: Layout) -> dict[str, Any]:
    plan, units = outlook.plan, outlook.size_range.units
    other = units.other
    here, there = (bin_of(outlook.size_bytes, layout.source_bytes, one) for one in (units, other))
    return {
        "uniform": [
            {"rate": str(one.rate), "bytes": one.size_bytes, "under_bound": one.fits} for one in outlook.uniform
        ],
        "smallest_plan_bytes": outlook.least_bytes,
        "largest_plan_bytes": outlook.most_bytes,
        "plan": {
            "bytes": outlook.size_bytes,
            "parameters": outlook.parameters,
            "mean_bits": round(mean_bits(layout, plan), 2),
            "gap": outlook.gap,
            "vocabulary": plan.vocabulary,
            "vocabulary_of": layout.vocabulary,
            "towers": {name: asdict(one) for name, one in kept(layout, plan).items()},
            "rates": {table: str(plan.rate(table)) for table in layout.tables},
            "parts": outlook.parts,
            **({f"bin_in_{other}_units": there} if here != there else {}),
        },
        "necessary": [{"what": need.words, "bytes": need.least_bytes} for need in outlook.necessary],
    }
