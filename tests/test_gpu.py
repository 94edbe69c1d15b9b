"""What a GPU computes of a tiny model is what the CPU does, but for rounding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from compress.pipeline import Bank
from models.devices import compute_of, computing, device_of
from models.loading import Source
from tests.carried import adapted, healed, mixed_plan, said, scores, streamed
from tests.tiny import load_tiny, tiny_bank, tiny_rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here"),
]
# Sums come in another order, which moves what GPTQ and AdamW make of them; bfloat16 has 8 bits of mantissa.
TOLERANCES = {"float32": 0.02, "bfloat16": 0.2}
Loaded = tuple[Source, Bank]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    source = load_tiny(tmp_path_factory.mktemp("cpu"))
    return source, tiny_bank(source)


@pytest.fixture(scope="module", params=TOLERANCES)
def there(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loaded, float]]:
    """A source and its bank on the GPU, which stays the current device, and how close numbers should be."""
    with computing(compute_of("cuda", request.param)):
        source = load_tiny(tmp_path_factory.mktemp("gpu"))
        yield (source, tiny_bank(source)), TOLERANCES[request.param]


def test_the_bank_is_in_host_memory_and_the_same(here: Loaded, there: tuple[Loaded, float]) -> None:
    (_, ours), ((source, theirs), tolerance) = here, there
    assert device_of(source.model).type == "cuda"
    for name, hessians in theirs.hessians.items():
        for one, other in zip(hessians, ours.hessians[name], strict=True):
            assert float((one.moments - other.moments).norm()) <= tolerance * float(other.moments.norm())
    for lesson, other in zip(theirs.curriculum.lessons, ours.curriculum.lessons, strict=True):
        torch.testing.assert_close(lesson.teacher.logs, other.teacher.logs, rtol=tolerance, atol=tolerance)


def test_scores_are_the_same(here: Loaded, there: tuple[Loaded, float]) -> None:
    found, tolerance = there
    plan = mixed_plan(here[0])
    # of one bank, since near ties in the order of channels may fall otherwise
    wanted = scores(*here, plan)
    assert scores(found[0], here[1], plan) == pytest.approx(wanted, rel=tolerance)


@pytest.mark.parametrize("rank", [0, 4])
def test_healing_comes_as_close(here: Loaded, there: tuple[Loaded, float], rank: int, tmp_path: Path) -> None:
    found, tolerance = there
    plan = mixed_plan(here[0])
    (tmp_path / "cpu").mkdir()
    (tmp_path / "gpu").mkdir()
    wanted = healed(*here, plan, tmp_path / "cpu", rank)
    assert healed(found[0], here[1], plan, tmp_path / "gpu", rank) == pytest.approx(wanted, rel=2 * tolerance)


def test_adaptation_comes_as_close(here: Loaded, there: tuple[Loaded, float]) -> None:
    found, tolerance = there
    rows = tiny_rows(here[0], 1)
    assert adapted(here[0].folder, rows) == pytest.approx(adapted(found[0].folder, rows), rel=tolerance)


def test_translation_and_streaming_end(there: tuple[Loaded, float], tmp_path: Path) -> None:
    """A random model's greedy tokens are near ties, so nothing is said of which they are."""
    source = there[0][0]
    assert len(said(source)) == 1
    done, state = streamed(source, mixed_plan(source), tmp_path / "streamed")
    assert [name for name, _ in done][-1] == "norms"
    assert state.device.type == "cpu"
