"""What a bank's folder gives back is what was measured; what is damaged or of other rows is made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compress import importance
from compress.facts import BankFolder, Facts
from compress.heal import Lesson, make_lessons
from compress.importance import measure
from compress.prune import removal_orders
from compress.shelf import Shelf
from models.inputs import make_batch
from models.loading import Source, pad_token
from space.plan import uniform_plan
from space.rates import WHOLE
from tests.tiny import TINY, load_tiny, tiny_rows


@pytest.fixture(scope="module", params=TINY)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp(request.param), request.param)


def _refuse() -> None:
    raise AssertionError("it is in the folder")


def _facts(source: Source) -> Facts:
    batch = make_batch(tiny_rows(source), pad_token(source.model))
    measured = measure(source.model, uniform_plan(source.layout, WHOLE), [batch])
    return Facts(measured, removal_orders(source, measured.hessians))


def test_facts_come_back_as_they_were_measured(source: Source, tmp_path: Path) -> None:
    made = _facts(source)
    assert BankFolder(tmp_path, Shelf()).facts(lambda: made) is made
    found = BankFolder(tmp_path, Shelf()).facts(_refuse)  # type: ignore[arg-type]
    assert list(found.measured.hessians) == list(made.measured.hessians)
    for name, hessians in made.measured.hessians.items():
        again = found.measured.hessians[name]
        for one, other in zip(hessians, again, strict=True):
            assert torch.equal(one.moments, other.moments)
            assert (one.mean is None) == (other.mean is None)
            assert one.mean is None or other.mean is None or torch.equal(one.mean, other.mean)
        # matrices that share inputs share an object still
        assert [hessians.index(x) for x in hessians] == [again.index(x) for x in again]
    for name, behind in made.measured.behind.items():
        assert torch.equal(behind.moments, found.measured.behind[name].moments)
        assert torch.equal(behind.means, found.measured.behind[name].means)
    assert {name: order.tolist() for name, order in found.orders.items()} == {
        name: order.tolist() for name, order in made.orders.items()
    }
    assert found.measured.findings == made.measured.findings


def test_where_memory_is_short_the_same_is_measured_in_two_passes(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, summed = _facts(source).measured, importance._summed
    asked = []

    def short(*given: Any, hessians: bool = True, behind: bool = True) -> Any:
        asked.append((hessians, behind))
        found = summed(*given, hessians=hessians, behind=behind)
        if hessians and behind:
            raise torch.OutOfMemoryError
        return found

    monkeypatch.setattr(importance, "_summed", short)
    found = _facts(source).measured
    assert asked == [(True, True), (True, False), (False, True)]
    assert list(found.hessians) == list(wanted.hessians)
    assert list(found.behind) == list(wanted.behind)
    for name, hessians in wanted.hessians.items():
        for one, other in zip(hessians, found.hessians[name], strict=True):
            assert torch.equal(one.moments, other.moments)
    for name, behind in wanted.behind.items():
        assert torch.equal(behind.moments, found.behind[name].moments)

    def shorter(*_given: Any, **_which: bool) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(importance, "_summed", shorter)
    with pytest.raises(torch.OutOfMemoryError):
        _facts(source)


def _same(one: Lesson, other: Lesson) -> bool:
    pairs = ((one.teacher.logs, other.teacher.logs), (one.hidden, other.hidden), (one.audio, other.audio))
    equal = all((a is None and b is None) or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)
    return equal and (one.row, one.source_tokens) == (other.row, other.source_tokens)


def test_lessons_come_back_for_the_same_rows_and_no_others(source: Source, tmp_path: Path) -> None:
    rows = tiny_rows(source)
    made = make_lessons(source.model, rows)
    folder = BankFolder(tmp_path, Shelf())
    assert folder.lessons("proxy", rows, lambda: made) is made
    again = folder.lessons("proxy", rows, _refuse)  # type: ignore[arg-type]
    assert all(_same(one, other) for one, other in zip(made, again, strict=True))
    fewer = make_lessons(source.model, rows[:2])
    assert folder.lessons("proxy", rows[:2], lambda: fewer) is fewer


@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_damaged_files_are_made_again(source: Source, tmp_path: Path, damage: bytes | None) -> None:
    made, folder = _facts(source), BankFolder(tmp_path, Shelf())
    folder.facts(lambda: made)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-9] if damage is None else damage)
    assert folder.facts(lambda: made) is made
    assert folder.facts(_refuse) is not made  # type: ignore[arg-type]
