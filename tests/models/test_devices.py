"""Where to compute and how: what is asked for, what is there, and that numbers say what they were computed on."""

from __future__ import annotations

import pytest
import torch

import launch
from models.devices import PLAIN, Compute, compute_of, computing, current
from search.banking import open_bank
from search.settings import SearchSettings, comparability, differing
from space.bins import SizeRange
from space.errors import UserError

GPU = Compute(torch.device("cuda", 1), torch.bfloat16)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("two_gpus")
def test_auto_is_the_first_gpu_in_half_precision() -> None:
    assert compute_of("auto", "auto") == Compute(torch.device("cuda", 0), torch.bfloat16)
    assert compute_of("cuda", "auto") == compute_of("auto", "auto")
    assert compute_of("cuda:1", "float32") == Compute(torch.device("cuda", 1), torch.float32)
    assert compute_of("cpu", "auto") == PLAIN


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_the_cpu_in_32_bits_where_there_is_no_gpu() -> None:
    assert compute_of("auto", "auto") == PLAIN
    assert compute_of("auto", "bfloat16") == Compute(torch.device("cpu"), torch.bfloat16)


@pytest.mark.usefixtures("two_gpus")
def test_an_old_gpu_computes_in_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert compute_of("auto", "auto") == Compute(torch.device("cuda", 0), torch.float32)
    with pytest.raises(UserError, match=r"--precision bfloat16: cuda:0 .* give --precision float32"):
        compute_of("auto", "bfloat16")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("device", ["cuda:2", "cuda:x", "cuda:", "gpu", "CPU", ""])
def test_devices_that_are_not_there_are_refused(device: str) -> None:
    with pytest.raises(UserError, match=f"--device {device}"):
        compute_of(device, "auto")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    "command",
    [
        ["--bin", "3"],
        ["fidelity", "--bin", "3"],
        ["bank"],
        ["adapt", "--out", "adapted"],
        ["compress", "--plan", "plan.json", "--out", "compressed"],
        ["evaluate", "."],
    ],
)
def test_every_command_that_computes_refuses_in_one_line(
    command: list[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path_factory.mktemp("empty")
    monkeypatch.chdir(folder)
    for options, said in (
        (["--device", "cuda"], "--device cuda: torch finds no CUDA GPU here; give --device cpu"),
        (["--precision", "half"], "--precision half: there is no such precision; choose auto, float32, bfloat16"),
    ):
        assert launch.main([*command, *options]) == 2
        out, err = capsys.readouterr()
        assert said in err
        assert len(err.splitlines()) == 1
        assert not out
    assert not list(folder.iterdir())


def test_what_is_current_ends_with_its_command() -> None:
    assert current() == PLAIN
    with computing(Compute(precision=torch.bfloat16)):
        assert current().name == "cpu bfloat16"
    assert current() == PLAIN


def test_numbers_say_what_they_were_computed_on_but_for_what_they_always_were(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Banks and studies that were there before are those of the CPU in 32 bits; which GPU it is makes no difference."""
    assert PLAIN.signature == ""
    assert GPU.signature == "|cuda bfloat16"
    folder = tmp_path_factory.mktemp("bank")
    shared, banks = [], []
    for compute in (PLAIN, Compute(precision=torch.bfloat16), GPU, Compute(torch.device("cuda", 0), torch.bfloat16)):
        with computing(compute):
            banks.append(open_bank(folder, "1GB", model="m", data="d", languages=("de",)).path)
            made_of = {"model": "m", "data": "d", "space": "s", "bank": "b"}
            shared.append(comparability(SearchSettings("s", 1, bin=3), [SizeRange("any", 0, 1)], **made_of))
    assert len(set(banks[:3])) == 3
    assert banks[2] == banks[3]
    before = {key: value for key, value in shared[0].items() if key != "computed"}
    assert differing(before, shared[0]) == ""
    assert differing(before, shared[1]) == 'computed was "cpu float32", now "cpu bfloat16"'
    assert differing(shared[2], shared[0]) == 'computed was "cuda bfloat16", now "cpu float32"'
    assert differing(shared[2], shared[3]) == ""
