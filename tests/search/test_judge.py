"""Judging plans by what they are made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.judge import Judge, heard_of, logs_of


@given(st.integers(2, 20), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_judge_is_a_gaussian_process(count: int, traits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known, losses, asked = (
        rng.normal(size=(count, traits)),
        np.exp(rng.normal(size=count)),
        rng.normal(size=(3, traits)),
    )
    judge = Judge(known.tolist(), losses.tolist())
    means, deviations = judge.expected(asked.tolist())

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        spread = known.std(0)
        squares = (((one[:, None] - other[None]) / spread) ** 2).mean(2)
        return np.asarray(np.exp(-squares / 2 / judge._length**2))

    logs = np.log(losses)
    inverse = np.linalg.inv(kernel(known, known) + judge._noise * np.eye(count))
    variance = (logs - logs.mean()) @ inverse @ (logs - logs.mean()) / count
    assert means == pytest.approx(logs.mean() + kernel(asked, known) @ inverse @ (logs - logs.mean()), abs=1e-6)
    left = 1 - np.einsum("ij,jk,ik->i", kernel(asked, known), inverse, kernel(asked, known))
    assert deviations**2 == pytest.approx(variance * left.clip(0), abs=1e-6)


def test_what_is_noise_is_said_to_be() -> None:
    rng = np.random.default_rng(0)
    known = rng.uniform(-1, 1, size=(60, 3))
    smooth, noise = np.exp(known[:, 0] - known[:, 1] ** 2), np.exp(rng.normal(size=60))
    clear, blurred = Judge(known.tolist(), smooth.tolist()), Judge(known.tolist(), noise.tolist())
    assert clear._noise < 0.05 < blurred._noise
    asked = rng.uniform(-1, 1, size=(40, 3))
    means, deviations = clear.expected(asked.tolist())
    assert np.abs(means - (asked[:, 0] - asked[:, 1] ** 2)).mean() < 0.05
    far = clear.expected([[9.0, 9.0, 9.0]])[1]
    assert far > 2 * deviations.max()


def test_a_loss_of_nothing_is_the_best_and_no_more() -> None:
    rng = np.random.default_rng(0)
    known, asked = rng.uniform(-1, 1, size=(60, 3)), rng.uniform(-1, 1, size=(40, 3))
    losses = np.exp(known[:, 0] - known[:, 1] ** 2)
    found = [10 * losses, losses, np.where(losses == losses.min(), 0.0, losses)]
    means = [Judge(known.tolist(), one.tolist()).expected(asked.tolist())[0] for one in found]
    assert means[0] == pytest.approx(means[1] + np.log(10), abs=1e-6)
    assert np.abs(means[2] - means[1]).mean() < 0.3
    assert np.argmin(logs_of(found[2])) == np.argmin(losses)
    assert np.isfinite(logs_of([0.0, 0.0])).all()


def test_of_many_plans_the_best_and_the_last_are_looked_at() -> None:
    losses = [1.0 + (n * 37 % 1000) for n in range(1000)]
    best = sorted(range(1000), key=lambda n: losses[n])[:150]
    assert heard_of(losses) == sorted({*best, *range(850, 1000)})
    assert heard_of(losses[:150]) == list(range(150))
