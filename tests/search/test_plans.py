"""``launch.py plan``: the 7B model in every bin without a weight, pins, units, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import launch
from space.bins import REFERENCE_BYTES, bin_range
from tests.tiny import write_tiny, write_tiny_llama


def plans(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert launch.main(["plan", *words, "--json"]) == 0
    loaded: dict[str, Any] = json.loads(capsys.readouterr().out)
    return loaded


def test_every_bin_of_the_7b_model_has_a_plan_inside(capsys: pytest.CaptureFixture[str]) -> None:
    found = plans(capsys, "--model", "qwen2-audio-7b", "--bin", "all")
    assert (found["parameters"], found["tensor_bytes"]) == (8_397_094_912, 16_794_189_824)
    assert [one["range"] for one in found["ranges"]] == [f"bin {number}" for number in range(1, 6)]
    for number, one in enumerate(found["ranges"], start=1):
        assert bin_range(number, REFERENCE_BYTES).holds(one["plan"]["bytes"])
        assert one["plan"]["bytes"] == sum(one["plan"]["parts"].values())
        assert one["bound_bytes"] - one["plan"]["bytes"] < 1e-3 * one["bound_bytes"]
        assert one["plan"]["gap"] <= 1e-3
        assert one["smallest_plan_bytes"] <= one["plan"]["bytes"] <= one["largest_plan_bytes"]
    fitting = [[rate["rate"] for rate in one["uniform"] if rate["under_bound"]] for one in found["ranges"]]
    assert fitting == [
        ["c0.7", "c0.85", "c1", "c1.2", "c1.4", "c1.6", "c1.8", "c2", "c2.3", "c2.6", "c3", "c3.5"],
        ["c0.7", "c0.85", "c1", "c1.2", "c1.4", "c1.6", "c1.8"],
        ["c0.7", "c0.85"],
        [],
        [],
    ]
    needs = [" ".join(need["what"] for need in one["necessary"]) for one in found["ranges"]]
    assert ["vocabulary must be trimmed" in words for words in needs] == [False] * 5
    assert ["must be pruned or trimmed" in words for words in needs] == [False] * 3 + [True] * 2


def test_the_table_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["plan", "--model", "qwen2-audio-7b", "--bin", "4"]) == 0
    printed = capsys.readouterr().out
    for words in ("8,397,094,912 parameters", "bin 4", "decoder layers", "bytes: lm_head", "must be pruned or trimmed"):
        assert words in printed


def test_pins_are_kept_and_impossible_ones_named(capsys: pytest.CaptureFixture[str]) -> None:
    seven = ("--model", "qwen2-audio-7b", "--bin", "4")
    pinned = plans(capsys, *seven, "--pin", "encoder:whole", "--pin", "lm_head:bits>=8")["ranges"][0]["plan"]
    assert pinned["towers"]["encoder"]["heads"] == 640
    assert pinned["rates"]["lm_head"] in ("c8", "16")
    few = plans(capsys, *seven, "--pin", "vocabulary:tokens<=6000")["ranges"][0]["plan"]
    assert few["vocabulary"] <= 6000
    assert launch.main(["plan", *seven, "--pin", "decoder:whole"]) == 2
    error = capsys.readouterr().err
    assert "--pin decoder:whole" in error
    assert error.count("\n") == 1
    both = plans(capsys, "--model", "qwen2-audio-7b", "--bin", "all", "--pin", "decoder:whole")
    assert ["impossible" in one for one in both["ranges"]] == [False, False, False, True, True]


def test_binary_units_say_where_they_change_the_bin(capsys: pytest.CaptureFixture[str]) -> None:
    found = plans(capsys, "--model", "qwen2-audio-7b", "--bin", "5", "--units", "binary")["ranges"][0]
    assert found["bound_bytes"] == 200 * 2**20
    assert found["plan"]["bin_in_decimal_units"] == 4


@pytest.mark.parametrize("write", [write_tiny, write_tiny_llama])
def test_folders_are_planned_with_their_own_tokenizer(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    found = plans(capsys, "--model", str(folder), "--max-size", "150kB")
    assert found["remark"] == ""
    assert found["ranges"][0]["plan"]["bytes"] < 150_000
    assert plans(capsys, "--bin", "3")["model"] == "bundled miniature"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bin", "9"], "no such bin"),
        (["--bin", "three"], "no such bin"),
        (["--max-size", "huge"], "not a size"),
        (["--max-size", "1kB"], "nothing fits"),
        (["--model", "nothing at all"], "qwen2-audio-7b"),
        (["--pin", "decoder"], "--pin 'decoder'"),
        (["--data", "/no/such/data"], "/no/such/data"),
        (["--data", "/no/such/data", "--model", "qwen2-audio-7b"], "counted with a tokenizer"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("tightfit: ")
    assert error.count("\n") == 1
