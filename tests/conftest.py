"""Settings of Hypothesis, and tiny sources of every kind with their banks.

Hypothesis draws the same examples every time and has no deadline: machines are noisy. Where tests run in several
processes, each of them, and what it starts, has one thread, and tests of searches come first.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from compress.pipeline import Bank
from models.loading import Source
from tests.tiny import TINY, load_tiny, tiny_bank

# A shell's background job ignores Ctrl-C, and so would everything it starts; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of searches come first: the other processes would wait for one that begins a long file last."""
    searches = Path(__file__).parent / "search"
    items.sort(key=lambda item: not item.path.is_relative_to(searches))


settings.register_profile("tightfit", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("tightfit")


@pytest.fixture(scope="module", params=TINY)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"), request.param)


@pytest.fixture(scope="module")
def bank(source: Source) -> Bank:
    return tiny_bank(source)
