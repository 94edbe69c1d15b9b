"""A small job for the command line: a tiny model that reads, and the first utterances of each role."""

from __future__ import annotations

import pytest

from tests.tiny import write_roles, write_tiny_qwen2


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("reading")
    (folder / "model").mkdir()
    (folder / "data").mkdir()
    write_roles(folder / "data", (4, 4, 2, 2))
    return ["--model", str(write_tiny_qwen2(folder / "model")), "--data", str(folder / "data"), "--rates", "packed"]
