"""What nodes are given of the driver's files: once, whole, and nowhere but in their folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from search.pools import luggage as module
from search.pools.luggage import Luggage, packed, unpacked
from space.errors import UserError

_CONTENT = {
    "config.json": b"{}",
    "weights.safetensors": bytes(range(256)) * 10,
    "empty.txt": b"",
    "deep/facts.txt": b"1",
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 1000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in _CONTENT.items():
        path = tmp_path / "driver" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "driver/notes.md").write_text("not asked for")
    return tmp_path / "driver"


@pytest.fixture
def elsewhere(folder: Path) -> Luggage:
    """What a node is told that has no such folder."""
    return replace(_packed(folder), folder=Path("/no/such/folder"))


class Fetched:
    """Chunks of a folder, counted."""

    def __init__(self, folder: Path) -> None:
        self._luggage, self.count = _packed(folder), 0

    def __call__(self, place: int) -> bytes:
        self.count += 1
        return self._luggage.chunk(place)


def _packed(folder: Path) -> Luggage:
    return packed(folder, ["*.json", "*.txt", "*.safetensors", "deep/*.txt"])


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_files_arrive_as_they_were(folder: Path, elsewhere: Luggage, tmp_path: Path) -> None:
    fetch = Fetched(folder)
    found = unpacked(elsewhere, tmp_path / "cache", fetch)
    assert content(found) == _CONTENT
    assert fetch.count == 1 + 3 + 1, "a chunk or more of each file that is not empty"
    assert found == tmp_path / "cache" / elsewhere.fingerprint


def test_a_second_worker_finds_them(folder: Path, elsewhere: Luggage, tmp_path: Path) -> None:
    first = unpacked(elsewhere, tmp_path / "cache", Fetched(folder))
    (first / "pieces").mkdir()
    fetch = Fetched(folder)
    assert unpacked(elsewhere, tmp_path / "cache", fetch) == first
    assert fetch.count == 0
    assert (first / "pieces").is_dir(), "what a worker adds stays"


def test_a_folder_with_the_same_content_is_used(folder: Path, elsewhere: Luggage, tmp_path: Path) -> None:
    fetch = Fetched(folder)
    assert unpacked(_packed(folder), tmp_path / "cache", fetch) == folder
    assert unpacked(replace(elsewhere, folder=folder), tmp_path / "cache", fetch) == folder
    assert fetch.count == 0
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "config.json").write_bytes(b"[]")
    assert unpacked(replace(elsewhere, folder=other), tmp_path / "cache", fetch) != other


def _changed(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"[]")


def _cut(folder: Path) -> None:
    with (folder / "weights.safetensors").open("ab") as file:
        file.truncate(1000)


def _lost(folder: Path) -> None:
    (folder / "deep/facts.txt").unlink()


@pytest.mark.parametrize("damage", [_changed, _cut, _lost])
def test_what_is_damaged_is_unpacked_anew(
    damage: Callable[[Path], None], folder: Path, elsewhere: Luggage, tmp_path: Path
) -> None:
    found = unpacked(elsewhere, tmp_path / "cache", Fetched(folder))
    damage(found)
    assert unpacked(elsewhere, tmp_path / "cache", Fetched(folder)) == found
    assert content(found) == _CONTENT


def test_what_a_killed_worker_left_is_unpacked_anew(folder: Path, elsewhere: Luggage, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def dies(place: int) -> bytes:
        if place == 3:
            raise KeyboardInterrupt
        return Fetched(folder)(place)

    with pytest.raises(KeyboardInterrupt):
        unpacked(elsewhere, cache, dies)
    assert not (cache / elsewhere.fingerprint).exists()
    assert content(unpacked(elsewhere, cache, Fetched(folder))) == _CONTENT
    assert {path.name for path in cache.iterdir()} == {elsewhere.fingerprint, f".{elsewhere.fingerprint}.lock"}


def test_files_that_change_meanwhile_are_refused(folder: Path, elsewhere: Luggage, tmp_path: Path) -> None:
    _changed(folder)
    with pytest.raises(UserError, match="changed since the search began"):
        unpacked(elsewhere, tmp_path / "cache", Fetched(folder))
    assert not (tmp_path / "cache" / elsewhere.fingerprint).exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "deep/../../outside", "", "a\0b"])
def test_names_that_lead_out_of_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    luggage = Luggage(tmp_path / "none", {name: 1}, "0" * 16)
    with pytest.raises(UserError, match="outside of its folder"):
        unpacked(luggage, tmp_path / "cache", lambda _place: b"x")
    assert not (tmp_path / "cache").exists()
