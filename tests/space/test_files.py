"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from space.files import whole_file, write_whole


@pytest.mark.parametrize("shared", [True, False])
def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path: Path, *, shared: bool) -> None:
    path = tmp_path / "deep" / "down" / "text.json"
    write_whole(path, "模型")
    assert path.read_text(encoding="utf-8") == "模型"

    def interrupted() -> None:
        with whole_file(path, shared=shared) as temporary:
            temporary.write_text("half")
            assert path.read_text(encoding="utf-8") == "模型"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text(encoding="utf-8") == "模型"
    assert list(path.parent.iterdir()) == [path]
    with whole_file(path, shared=shared) as temporary:
        temporary.write_text("all")
    assert path.read_text() == "all"
