"""Layouts by name, config, header and index are one layout, whatever names the tensors have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.layouts import INDEX, canonical_name, find_anatomy, layout_from_shapes
from models.loading import load_source, read_layout
from models.reference import BUNDLED
from space.errors import UserError
from space.layout import Layout
from space.plan import uniform_plan
from space.rates import WHOLE
from space.size import plan_parameters
from tests.tiny import TINY


def hub_name(name: str) -> str:
    """A name as on the hub, where transformers 5 has other ones in memory."""
    for new, old in (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.", ""),
    ):
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def same_shapes(one: Layout, other: Layout) -> bool:
    """Whether two layouts have the same matrices; the number of heads is not in a header."""
    return [[x.parameters, x.layers, x.hidden, x.ffn, x.attention_biases] for x in one.towers] == [
        [x.parameters, x.layers, x.hidden, x.ffn, x.attention_biases] for x in other.towers
    ] and (one.parameters, one.vocabulary, one.tied) == (other.parameters, other.vocabulary, other.tied)


@pytest.mark.parametrize("name", ["qwen2-audio-7b", "Qwen2-Audio-7B-Instruct"])
def test_the_7b_model_is_known_offline(name: str) -> None:
    layout = find_anatomy(name).layout
    assert layout.parameters == 8_397_094_912
    assert layout.source_bytes == 16_794_189_824
    assert layout.decoder.parameters // 32 == 202_395_648
    assert layout.vocabulary * layout.decoder.hidden == 639_107_072


@pytest.mark.parametrize("kind", TINY)
def test_a_header_gives_the_layout_of_the_config(kind: str, tmp_path: Path) -> None:
    folder = TINY[kind](tmp_path)
    layout = read_layout(folder)
    memory = {name: tuple(x.shape) for name, x in load_source(folder).model.state_dict().items()}
    if layout.tied:
        del memory["lm_head.weight"]
    file = {name: tuple(x.shape) for name, x in load_file(folder / "model.safetensors").items()}
    hub = {hub_name(name): shape for name, shape in memory.items()} if kind == "qwen2_audio" else memory
    assert set(map(canonical_name, hub)) == set(map(canonical_name, memory)) == set(map(canonical_name, file))
    for shapes in (memory, file, hub):
        assert same_shapes(layout_from_shapes(shapes), layout)
    assert find_anatomy(str(folder)).layout == layout == find_anatomy(str(folder / "config.json")).layout
    assert plan_parameters(layout, uniform_plan(layout, WHOLE)) == layout.parameters
    (folder / "config.json").unlink()
    assert same_shapes(find_anatomy(str(folder)).layout, layout)
    assert "assumed" in find_anatomy(str(folder)).remark


@pytest.mark.parametrize("kind", TINY)
def test_models_of_both_namings_load(kind: str, tmp_path: Path) -> None:
    folder = TINY[kind](tmp_path)
    before = load_source(folder).model.state_dict()
    if kind == "qwen2_audio":
        renamed = {hub_name(name): x.bfloat16().contiguous() for name, x in before.items()}
        save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    after = load_source(folder).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_index_reads_the_headers_of_its_shards(tmp_path: Path) -> None:
    tensors = load_file(BUNDLED / "model.safetensors")
    names = sorted(tensors)
    shards = {f"model-{n}.safetensors": names[n::2] for n in range(2)}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, tmp_path / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    assert same_shapes(find_anatomy(str(tmp_path / INDEX)).layout, read_layout(BUNDLED))
    assert same_shapes(find_anatomy(str(tmp_path)).layout, read_layout(BUNDLED))
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"put model-1\.safetensors or a config\.json"):
        find_anatomy(str(tmp_path / INDEX))
    (tmp_path / INDEX).write_text(
        json.dumps({"metadata": {"total_size": 16_794_189_824}, "weight_map": {"a": "gone.safetensors"}})
    )
    assert find_anatomy(str(tmp_path / INDEX)).layout == find_anatomy("qwen2-audio-7b").layout


def _drop(path: Path) -> None:
    tensors = load_file(path)
    del tensors[next(name for name in tensors if name.endswith("layers.0.mlp.gate_proj.weight"))]
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b"nonsense"), "header is not readable"),
        (_drop, "no tensor"),
    ],
)
def test_damaged_headers_are_one_line(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = TINY["qwen2"](tmp_path) / "model.safetensors"
    damage(path)
    with pytest.raises(UserError, match=message):
        find_anatomy(str(path))


@pytest.mark.parametrize("reference", ["/no/such/file.json", "no such name"])
def test_a_reference_to_nothing_names_what_there_is(reference: str) -> None:
    with pytest.raises(UserError, match="qwen2-audio-7b"):
        find_anatomy(reference)
