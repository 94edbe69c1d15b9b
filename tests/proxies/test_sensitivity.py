"""Sensitivities: what is measured is returned, what lies between is between, and nothing is measured twice."""

from __future__ import annotations

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from models.loading import Source
from proxies.sensitivity import Measured, Sensitivities, measure, points
from space.choices import VOCABULARY, choices, choices_of
from space.layout import Layout
from space.plan import REMOVED, Plan, Sublayer, uniform_plan
from space.prior import prior_loss
from space.rates import LADDERS, WHOLE, Coded, Packed
from tests.tiny import load_tiny


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    source: Source = load_tiny(tmp_path_factory.mktemp("tiny"))
    return replace(source.layout, rates=LADDERS["coded"])


def scored(layout: Layout, known: Measured | None = None) -> tuple[Sensitivities, list[Plan], list[Measured]]:
    """With the sum of prior losses for a score; what was scored, and what was saved on the way."""
    loss, asked, saved = prior_loss(layout), list[Plan](), list[Measured]()

    def score(plan: Plan) -> float:
        asked.append(plan)
        return sum(loss(name, option) for name, option in choices_of(layout, plan).items())

    return measure(layout, score, lambda: known or {}, saved.append), asked, saved


def test_every_plan_changes_one_option_of_the_source(layout: Layout) -> None:
    whole = choices_of(layout, uniform_plan(layout, WHOLE))
    found = list(points(layout))
    assert len({(name, called) for name, called, _ in found}) == len(found)
    assert {name for name, _, _ in found} == set(choices(layout))
    for name, _, plan in found:
        assert [key for key, option in choices_of(layout, plan).items() if option != whole[key]] == [name]


def test_what_was_measured_is_the_loss_and_the_rest_lies_between(layout: Layout) -> None:
    found, asked, _ = scored(layout)
    true = prior_loss(layout)
    assert len(asked) == len(list(points(layout)))
    for name, _, plan in points(layout):
        option = choices_of(layout, plan)[name]
        assert found.loss(name, option) == pytest.approx(true(name, option), rel=1e-6)
    for name, options in choices(layout).items():
        assert found.loss(name, options[-1]) == 0
        for option in options:
            assert found.loss(name, option) >= 0
    ffn = "decoder.1.ffn"
    kept = layout.decoder.ffn
    steps = sorted({x.kept for x in choices(layout)[ffn] if isinstance(x, Sublayer) and x.kept})
    widths = [found.loss(ffn, Sublayer(x, WHOLE)) for x in steps]
    assert widths == sorted(widths, reverse=True)
    rates = [found.loss(ffn, Sublayer(kept, rate)) for rate in layout.rates]
    assert rates == sorted(rates, reverse=True)
    assert found.loss(ffn, REMOVED) == pytest.approx(true(ffn, REMOVED))
    # where the true curve is known, what lies between is near it: rates, and rates beyond those measured
    for rate in layout.rates[:-1]:
        assert found.loss("lm_head", rate) == pytest.approx(true("lm_head", rate), rel=0.15)
    sizes = [found.loss(VOCABULARY, size) for size in layout.vocabulary_sizes]
    assert sizes == sorted(sizes, reverse=True)


def test_what_is_known_is_not_measured_again(layout: Layout) -> None:
    whole, asked, saved = scored(layout)
    assert len(saved) == len(choices(layout)), "saved after each choice"
    part = {name: dict(values) for name, values in list(whole.measured.items())[:5]}
    part[next(iter(part))].popitem()
    again, more, _ = scored(layout, part)
    assert len(more) == len(asked) - sum(map(len, part.values()))
    assert again.measured == whole.measured


def test_workers_that_share_measure_little_twice_and_lose_nothing(layout: Layout) -> None:
    """Both read and replace one file, whole, as the bank's is; each scores while the other does."""
    whole, everything, _ = scored(layout)
    loss = prior_loss(layout)
    file, counts, at_once = ["{}"], [0, 0], threading.Barrier(2)

    def worker(number: int) -> None:
        def score(plan: Plan) -> float:
            counts[number] += 1
            with suppress(threading.BrokenBarrierError):
                at_once.wait(1)
            return sum(loss(name, option) for name, option in choices_of(layout, plan).items())

        def save(found: Measured) -> None:
            file[0] = json.dumps(found)

        found = measure(layout, score, lambda: json.loads(file[0]), save, shuffle=random.Random(number))
        at_once.abort()
        assert found.measured == whole.measured

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(worker, (0, 1)))
    assert json.loads(file[0]) == whole.measured
    assert sum(counts) < 1.3 * len(everything)
    assert min(counts) > 0.3 * len(everything)


def test_packed_rates_are_measured_beside_coded_ones(layout: Layout) -> None:
    coded, _, _ = scored(layout)
    packed = replace(layout, rates=LADDERS["packed"])
    both, more, _ = scored(packed, coded.measured)
    assert more, "its rates were not there"
    assert all(plan.rate("lm_head") == WHOLE or isinstance(plan.rate("lm_head"), Packed) for plan in more)
    true = prior_loss(packed)
    for rate in packed.rates[:-1]:
        assert both.loss("lm_head", rate) == pytest.approx(true("lm_head", rate), rel=0.3)
    assert Sensitivities(layout, both.measured).loss("lm_head", Coded(1.2)) == coded.loss("lm_head", Coded(1.2))


def test_what_breaks_the_model_is_dear(layout: Layout) -> None:
    found = measure(layout, lambda _plan: float("nan"), dict, lambda _found: None)
    assert found.loss("decoder.0.ffn", REMOVED) >= 1000
    assert json.dumps(found.measured, allow_nan=False)


def test_negative_noise_is_no_gain(layout: Layout) -> None:
    found = Sensitivities(layout, {"decoder.0.ffn": {"0": -1e-6, "c1": -1e-6}})
    assert found.loss("decoder.0.ffn", REMOVED) == 0
    assert found.loss("decoder.0.ffn", Sublayer(layout.decoder.ffn, Coded(1.0))) < 1e-6
