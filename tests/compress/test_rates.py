"""Predicted bytes are `stat` on the miniature for every rate with every width and every number of heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compress.checkpoint import load_checkpoint, write_checkpoint
from compress.pipeline import Bank, compress
from corpora.roles import BUNDLED as CORPUS
from corpora.roles import open_corpus
from models.inputs import batches
from models.loading import Source, load_source, pad_token
from models.reference import BUNDLED
from search.workbench import counted, make_rows
from space.choices import sizes
from space.plan import Layer, Plan, Sublayer, uniform_plan
from space.rates import CODED_RATES, PACKED_RATES, WHOLE, Coded, Rate
from space.size import plan_size
from tests.tiny import make_bank


@pytest.fixture(scope="module")
def source() -> Source:
    return counted(load_source(BUNDLED), open_corpus(CORPUS), ("de", "zh"))


@pytest.fixture(scope="module")
def bank(source: Source) -> Bank:
    rows = make_rows(source, open_corpus(CORPUS).examples("calibrate")[:2], ("de", "zh"))
    return make_bank(source, batches(rows, 1, pad_token(source.model)), ())


def plans_of_rate(source: Source, rate: Rate) -> list[Plan]:
    """As many plans as it takes for each tower to hold every width and every number of heads at one rate."""
    layout, base = source.layout, uniform_plan(source.layout, rate)
    heads, channels = ({t.name: sizes(t, part)[1:] for t in layout.towers} for part in ("attention", "ffn"))

    def stack(tower: str, layers: int, first: int) -> tuple[Layer, ...]:
        def part(kept: list[int], index: int) -> Sublayer:
            return Sublayer(kept[(first + index) % len(kept)], rate)

        return tuple(Layer(part(heads[tower], i), part(channels[tower], i)) for i in range(layers))

    most = max(len(kept) for kept in (*heads.values(), *channels.values()))
    layers = min(tower.layers for tower in layout.towers)
    return [
        replace(
            base,
            encoder=stack("encoder", len(base.encoder), first),
            decoder=stack("decoder", len(base.decoder), first),
            vocabulary=layout.vocabulary_sizes[first % len(layout.vocabulary_sizes)],
        )
        for first in range(0, most, layers)
    ]


@pytest.mark.parametrize("rate", [*PACKED_RATES, WHOLE, *CODED_RATES[::5]], ids=str)
def test_predicted_bytes_are_stat(source: Source, bank: Bank, rate: Rate, tmp_path: Path) -> None:
    for number, plan in enumerate(plans_of_rate(source, rate)):
        stored = compress(source, plan, bank, seed=0).stored
        on_disk = write_checkpoint(tmp_path / str(number), source, plan, stored)
        predicted = plan_size(source.layout, plan, source.fixed_bytes).total
        if isinstance(rate, Coded):
            assert 0.9999 * predicted - 100 <= on_disk <= predicted
        else:
            assert on_disk == predicted
        assert load_checkpoint(tmp_path / str(number))[1] == plan
