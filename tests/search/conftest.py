"""A small job for the command line: a tiny model that reads, and the first utterances of each role."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from corpora.roles import BUNDLED
from tests.tiny import write_tiny_qwen2


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("reading")
    (folder / "model").mkdir()
    (folder / "data").mkdir()
    for role, count in {"calibrate": 4, "proxy": 4, "select": 2, "report": 2}.items():
        pq.write_table(pq.read_table(BUNDLED / f"{role}.parquet").slice(0, count), folder / "data" / f"{role}.parquet")
    return ["--model", str(write_tiny_qwen2(folder / "model")), "--data", str(folder / "data"), "--rates", "packed"]
