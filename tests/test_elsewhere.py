"""Everything that computes with a model does so on its device, and mixes nothing of two places: shown without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from compress.pipeline import Bank
from models.devices import device_of
from models.loading import Source
from tests.carried import adapted, healed, mixed_plan, said, scores, streamed
from tests.elsewhere import ELSEWHERE, Away, elsewhere
from tests.tiny import load_tiny, tiny_bank, tiny_rows


@pytest.fixture(scope="module", autouse=True)
def plain_attention() -> Iterator[None]:
    """The CPU's own kernel sums in another order than what other devices' attention is made of."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Bank]:
    source = load_tiny(tmp_path_factory.mktemp("here"))
    return source, tiny_bank(source)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Bank]:
    with elsewhere():
        source = load_tiny(tmp_path_factory.mktemp("there"))
        return source, tiny_bank(source)


def test_what_is_measured_elsewhere_is_what_is_measured_here(
    here: tuple[Source, Bank], there: tuple[Source, Bank]
) -> None:
    (_, ours), (source, theirs) = here, there
    assert device_of(source.model) == ELSEWHERE
    for name, hessians in theirs.hessians.items():
        for one, other in zip(hessians, ours.hessians[name], strict=True):
            assert torch.equal(one.moments, other.moments)
    assert all(torch.equal(order, ours.orders[name]) for name, order in theirs.orders.items())
    assert all(torch.equal(one.moments, ours.behind[name].moments) for name, one in theirs.behind.items())
    for lesson, other in zip(theirs.curriculum.lessons, ours.curriculum.lessons, strict=True):
        assert torch.equal(lesson.teacher.logs, other.teacher.logs)


Computed = Callable[[Source, Bank, Path], Any]


def _streamed(source: Source, _: Bank, folder: Path) -> Any:
    done, state = streamed(source, mixed_plan(source), folder / "streamed")
    return done, state.tolist()


COMPUTED: dict[str, Computed] = {
    "scores": lambda source, bank, _: scores(source, bank, mixed_plan(source)),
    "all weights healed": lambda source, bank, folder: healed(source, bank, mixed_plan(source), folder, 0),
    "LoRA healed": lambda source, bank, folder: healed(source, bank, mixed_plan(source), folder, 4),
    "translation": lambda source, _bank, _folder: said(source),
    "adaptation": lambda source, _bank, _folder: adapted(source.folder, tiny_rows(source, 1)),
    "streaming": _streamed,
}

CLOSE = {"scores": 1e-6, "all weights healed": 1e-5, "LoRA healed": 1e-5}


@pytest.mark.parametrize("what", COMPUTED)
def test_what_is_computed_elsewhere_is_what_is_computed_here(
    here: tuple[Source, Bank], there: tuple[Source, Bank], what: str, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    ours = COMPUTED[what](*here, tmp_path / "here")
    with elsewhere():
        theirs = COMPUTED[what](*there, tmp_path / "there")
    # sums of gradients alone come in another order, and steps of healing go by them
    assert theirs == (pytest.approx(ours, rel=CLOSE[what]) if what in CLOSE else ours)


def test_tensors_of_two_places_are_not_mixed() -> None:
    with elsewhere():
        there, here = torch.ones(3, device=ELSEWHERE), torch.ones(3)
        assert isinstance(there, Away)
        assert torch.equal((there + torch.ones(())).to("cpu"), here + 1)
        for mixed in (lambda: there + here, lambda: here + there, lambda: torch.cat([here, there])):
            with pytest.raises(RuntimeError, match="host memory"):
                mixed()
        with pytest.raises(RuntimeError):
            there.numpy()
