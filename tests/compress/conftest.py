"""Tiny sources of every kind, each with a bank, for the tests that need both."""

from __future__ import annotations

import pytest

from compress.pipeline import Bank
from models.loading import Source
from tests.tiny import TINY, load_tiny, tiny_bank


@pytest.fixture(scope="module", params=TINY)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"), request.param)


@pytest.fixture(scope="module")
def bank(source: Source) -> Bank:
    return tiny_bank(source)
