"""Reads a checkpoint with torch, transformers, safetensors and constriction alone: every checkpoint carries this file.

It imports nothing of tightfit. A checkpoint is a source model's config, a plan that says what stays of it
(``plan.json``), and one tensor of bytes a unit (a sublayer, a table, the final norms) in ``model.safetensors``:

- a matrix at rate ``16``: bf16 entries;
- at ``4g64``: codes of 4 bits, lowest bit first, then a 16-bit float scale for every 64 entries of a row or what is
  left; an entry is ``(code - 8) * scale``, and scales may be negative;
- at ``c1.6``: an ANS stream (`decode_matrix`);
- behind the matrices, in bf16, their biases and the weights and biases of the unit's norms.

``SHA256SUMS`` has the hash of every other file.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import constriction
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import cached_file

WEIGHTS, PLAN, SUMS = "model.safetensors", "plan.json", "SHA256SUMS"
# Head of a coded matrix: step, grid of the row exponents (steps an octave), transposed or not, tables, words.
HEAD = "<fBBBI"
# Head of a table: the last column exponent it is for, its first symbol, how many symbols it has.
TABLE_HEAD = "<hhH"
COLUMN_GRID = 2
# Arguments of from_pretrained: where files are found, and those that make no difference here.
OF_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
HARMLESS = ("adapter_kwargs", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors", "weights_only")
# A plan's layer, ``[heads, rate, channels, rate]``, and its towers, as in plan.json.
Layers = list[list[Any]]


class Gone(nn.Module):
    """In place of what a removed sublayer adds to the residual stream: nothing."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return torch.zeros_like(hidden_states)


class GoneAttention(Gone):
    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return torch.zeros_like(hidden_states), None


def audio_tower(model: Any) -> Any:
    """The encoder of a Qwen2-Audio; None of a decoder-only model."""
    return model.model.audio_tower if isinstance(model, Qwen2AudioForConditionalGeneration) else None


def decoder(model: Any) -> Any:
    """The stack of decoder layers with its embedding and last norm."""
    return model.model.language_model if isinstance(model, Qwen2AudioForConditionalGeneration) else model.model


def stacks(model: Any) -> list[tuple[str, Any]]:
    """The towers by name, in the order in which they are stored."""
    return [(name, tower) for name, tower in (("encoder", audio_tower(model)), ("decoder", decoder(model))) if tower]


def parts(layer: Any) -> tuple[tuple[Any, tuple[str, ...], str, str], ...]:
    """Attention and FFN of a layer: what holds the matrices, their names, the last one apart, the norm's name."""
    attention, projections = layer.self_attn, ("q_proj", "k_proj", "v_proj")
    if hasattr(layer, "fc1"):
        return (
            (attention, projections, "out_proj", "self_attn_layer_norm"),
            (layer, ("fc1",), "fc2", "final_layer_norm"),
        )
    return (
        (attention, projections, "o_proj", "input_layernorm"),
        (layer.mlp, ("gate_proj", "up_proj"), "down_proj", "post_attention_layernorm"),
    )


def present(layers: Layers) -> list[int]:
    """Source indices of the layers of which anything stays."""
    return [i for i, (heads, _, channels, _) in enumerate(layers) if heads or channels]


def carve(model: Any, plan: Mapping[str, Any]) -> None:
    """Gives a source-shaped model the shapes of a plan in place; weights of what is narrowed are left undefined."""
    for name, tower in stacks(model):
        for layer, (heads, _, channels, _) in zip(tower.layers, plan[name], strict=True):
            carve_layer(layer, heads, channels)
        tower.layers = nn.ModuleList(tower.layers[i] for i in present(plan[name]))
    renumber(decoder(model))
    trim(model, plan["vocabulary"])


def carve_layer(layer: Any, heads: int, channels: int) -> None:
    """Leaves `heads` key/value heads and `channels` channels of a source-shaped layer, 0 of a sublayer that goes."""
    for kept, (owner, inputs, output, norm) in zip((heads, channels), parts(layer), strict=True):
        if kept:
            _narrow(owner, inputs, output, kept)
        else:
            setattr(layer, norm, nn.Identity())
            for gone in inputs:
                setattr(owner, gone, nn.Identity())
            setattr(owner, output, Gone())
    if not heads:
        layer.self_attn = GoneAttention()


def _narrow(owner: Any, inputs: tuple[str, ...], output: str, kept: int) -> None:
    """Leaves `kept` key/value heads of an attention, or channels of an FFN."""
    last = getattr(owner, output)
    whole = last.in_features
    if hasattr(owner, "k_proj"):
        whole = owner.k_proj.out_features // owner.head_dim
        owner.num_heads = kept  # which Qwen2-Audio's encoder asks for
    for name in inputs:
        linear = getattr(owner, name)
        setattr(owner, name, _resized(linear, linear.out_features * kept // whole, linear.in_features))
    setattr(owner, output, _resized(last, last.out_features, last.in_features * kept // whole))


def _resized(linear: nn.Linear, rows: int, columns: int) -> nn.Linear:
    if (rows, columns) == (linear.out_features, linear.in_features):
        return linear

    def empty(*shape: int) -> nn.Parameter:
        return nn.Parameter(linear.weight.new_empty(shape), linear.weight.requires_grad)

    # without what nn.Linear draws at random
    made = nn.Linear.__new__(nn.Linear)
    nn.Module.__init__(made)
    made.in_features, made.out_features, made.weight = columns, rows, empty(rows, columns)
    made.register_parameter("bias", None if linear.bias is None else empty(rows))
    return made


def renumber(text: Any) -> None:
    """Cache slots must be filled from 0 without gaps: generation asks slot 0 how long the text is."""
    attentions = [x.self_attn for x in text.layers if not isinstance(x.self_attn, GoneAttention)]
    for slot, attention in enumerate(attentions):
        attention.layer_idx = slot
    text.config.num_hidden_layers = len(text.layers)
    if getattr(text.config, "layer_types", None) is not None:
        text.config.layer_types = ["full_attention"] * len(text.layers)


def trim(model: Any, vocabulary: int) -> None:
    """Gives embedding and lm_head a row for each token that stays."""
    text = decoder(model)
    old = text.embed_tokens
    if old.num_embeddings == vocabulary:
        return
    shared = model.lm_head.weight is old.weight
    text.embed_tokens = nn.Embedding(vocabulary, old.embedding_dim, device=old.weight.device, dtype=old.weight.dtype)
    model.lm_head = _resized(model.lm_head, vocabulary, old.embedding_dim)
    if shared:
        model.lm_head.weight = text.embed_tokens.weight
    text.config.vocab_size = vocabulary


def places(model: Any, plan: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[Any, ...], tuple[Any, ...]]]:
    """Name, rate, matrices and norms of each unit of a model carved by the plan, in the order they are stored."""
    audio, text = audio_tower(model), decoder(model)
    if audio:
        yield "convolutions", plan["convolutions"], (audio.conv1, audio.conv2, audio.embed_positions), ()
    for tower, stack in stacks(model):
        for layer, index in zip(stack.layers, present(plan[tower]), strict=True):
            heads, attention_rate, channels, ffn_rate = plan[tower][index]
            attention, ffn = parts(layer)
            for kept, rate, sublayer, (owner, inputs, output, norm) in (
                (heads, attention_rate, "attention", attention),
                (channels, ffn_rate, "ffn", ffn),
            ):
                if kept:
                    matrices = tuple(getattr(owner, name) for name in (*inputs, output))
                    yield f"{tower}.{index}.{sublayer}", rate, matrices, (getattr(layer, norm),)
    yield "embedding", plan["embedding"], (text.embed_tokens,), ()
    if "lm_head" in plan:
        yield "lm_head", plan["lm_head"], (model.lm_head,), ()
    if audio:
        yield "projector", plan["projector"], (model.model.multi_modal_projector.linear,), ()
    yield "norms", "16", (), (audio.layer_norm, text.norm) if audio else (text.norm,)


def vectors(matrices: tuple[Any, ...], norms: tuple[Any, ...]) -> list[nn.Parameter]:
    """What of a unit stays in 16 bits: biases of its matrices, then weights and biases of its norms."""
    return [getattr(owner, name) for owner, name in vector_owners(matrices, norms)]


def vector_owners(matrices: tuple[Any, ...], norms: tuple[Any, ...]) -> Iterator[tuple[Any, str]]:
    """The module and the name of each of a unit's `vectors`."""
    for module in matrices:
        if getattr(module, "bias", None) is not None:
            yield module, "bias"
    for norm in norms:
        for name, _ in norm.named_parameters():
            yield norm, name


def read_unit(data: memoryview, rate: str, matrices: tuple[Any, ...], norms: tuple[Any, ...]) -> None:
    """Writes a unit's stored values into its modules. Raises ValueError where the bytes are too many or too few."""
    for module in matrices:
        shape = module.weight.shape
        values, data = decode_matrix(data, rate, shape[0], shape[1:].numel())
        _set(module, "weight", values.view(shape))
    for owner, name in vector_owners(matrices, norms):
        values, data = _bf16(data, getattr(owner, name).numel())
        _set(owner, name, values)
    if len(data):
        raise ValueError(f"{len(data)} bytes too many")


def _set(module: Any, name: str, values: Tensor) -> None:
    """In place where there is memory, so that what is tied stays tied; a parameter on meta is replaced."""
    old = getattr(module, name)
    if old.is_meta:
        setattr(module, name, nn.Parameter(values.to(old.dtype), requires_grad=False))
    else:
        old.data.copy_(values)


def decode_matrix(data: memoryview, rate: str, rows: int, columns: int) -> tuple[Tensor, memoryview]:
    """A matrix (rows, columns) in float32 from the start of `data`, and what is behind it."""
    if rate == "16":
        values, data = _bf16(data, rows * columns)
        return values.float().view(rows, columns), data
    if rate[0] == "c":
        return decode_coded(data, rows, columns)
    bits, group = map(int, rate.split("g"))
    codes, data = unpack(data, bits, rows, columns)
    groups = -(-columns // group)
    raw, data = _take(data, 2 * rows * groups)
    scales = torch.frombuffer(bytearray(raw), dtype=torch.float16).view(rows, groups)
    return unpacked_values(codes, scales, bits, group), data


def unpack(data: memoryview, bits: int, rows: int, columns: int) -> tuple[Tensor, memoryview]:
    """Packed codes (rows, columns) in uint8, and what is behind them."""
    raw, data = _take(data, -(-rows * columns * bits // 8))
    planes = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), bitorder="little", count=rows * columns * bits)
    codes = np.packbits(planes.reshape(-1, bits), axis=1, bitorder="little")
    return torch.from_numpy(codes.reshape(rows, columns)), data


def unpacked_values(codes: Tensor, scales: Tensor, bits: int, group: int) -> Tensor:
    """Entries in float32 of codes (rows, columns) and scales (rows, groups)."""
    steps = scales.float().repeat_interleave(group, dim=1)[:, : codes.shape[1]]
    return (codes.float() - (1 << (bits - 1))) * steps


def decode_coded(data: memoryview, rows: int, columns: int) -> tuple[Tensor, memoryview]:
    """A matrix (rows, columns) from its ANS stream, and what is behind it.

    Behind the head stand tables of frequencies, for row exponents, column exponents, and the symbols of the columns
    up to an exponent; then 32-bit words. An entry is
    ``symbol * step * 2^(row exponent / grid) * 2^(column exponent / 2)``.
    """
    raw, data = _take(data, struct.calcsize(HEAD))
    step, grid, transposed, count, words = struct.unpack(HEAD, raw)
    if transposed:
        rows, columns = columns, rows
    tables = []
    for _ in range(count):
        raw, data = _take(data, struct.calcsize(TABLE_HEAD))
        last, first, symbols = struct.unpack(TABLE_HEAD, raw)
        raw, data = _take(data, symbols)
        tables.append((last, first, table_model(np.frombuffer(raw, dtype=np.uint8))))
    raw, data = _take(data, 4 * words)
    coder = constriction.stream.stack.AnsCoder(np.frombuffer(raw, dtype="<u4").astype(np.uint32))
    of_rows = coder.decode(tables[0][2], rows) + tables[0][1]
    of_columns = coder.decode(tables[1][2], columns) + tables[1][1]
    found = np.empty((columns, rows), dtype=np.int32)
    before = -(2**15)
    for last, first, model in tables[2:]:
        chosen = (of_columns > before) & (of_columns <= last)
        found[chosen] = coder.decode(model, int(chosen.sum()) * rows).reshape(-1, rows) + first
        before = last
    values = coded_values(
        torch.from_numpy(found).T, step, torch.from_numpy(of_rows), torch.from_numpy(of_columns), grid
    )
    return (values.T if transposed else values).contiguous(), data


def coded_values(symbols: Tensor, step: float, of_rows: Tensor, of_columns: Tensor, grid: int) -> Tensor:
    """Entries in float32 of symbols (rows, columns) with their exponents."""
    row_scales = step * torch.exp2(of_rows.double() / grid)
    column_scales = torch.exp2(of_columns.double() / COLUMN_GRID)
    return symbols.float() * row_scales.float()[:, None] * column_scales.float()


def table_model(codes: NDArray[np.uint8]) -> Any:
    """The entropy model of a table: each byte is a frequency, ``(8 + low three bits) << others``, 0 for none."""
    wide = codes.astype(np.uint64)
    frequencies = np.where(codes > 0, (8 + (wide & 7)) << (wide >> np.uint64(3)), np.uint64(0)).astype(np.float64)
    return constriction.stream.model.Categorical((frequencies / frequencies.sum()).astype(np.float32), perfect=False)


def _bf16(data: memoryview, count: int) -> tuple[Tensor, memoryview]:
    raw, data = _take(data, 2 * count)
    return torch.frombuffer(bytearray(raw), dtype=torch.bfloat16) if count else torch.empty(0), data


def _take(data: memoryview, count: int) -> tuple[memoryview, memoryview]:
    if len(data) < count:
        raise ValueError(f"{count - len(data)} bytes too few")
    return data[:count], data[count:]


def check_sums(folder: str, **hub: Any) -> dict[str, str]:
    """Paths of a checkpoint's files, each with the hash that stands in SHA256SUMS. Raises ValueError where not."""
    found = {}
    with open(_path(folder, SUMS, hub), encoding="utf-8") as sums:
        lines = sums.read().splitlines()
    for line in lines:
        wanted, _, name = line.partition("  ")
        found[name] = _path(folder, name, hub)
        with open(found[name], "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != wanted:
            raise ValueError(f"{folder}: {name} is damaged, its hash is not that of {SUMS}; copy the checkpoint again")
    if not {WEIGHTS, PLAN, "config.json"} <= set(found):
        raise ValueError(f"{folder}: {SUMS} is damaged; copy the checkpoint again")
    return found


def _path(folder: str, name: str, hub: Mapping[str, Any]) -> str:
    path = cached_file(folder, name, **hub)
    assert isinstance(path, str)
    return path


def fill(model: Any, plan: Mapping[str, Any], weights: str) -> None:
    """Decodes every unit of a weights' file into a carved model. Raises ValueError naming what does not fit."""
    with safe_open(weights, framework="pt") as file:
        for name, rate, matrices, norms in places(model, plan):
            try:
                read_unit(memoryview(file.get_tensor(name).numpy()), rate, matrices, norms)
            except (ValueError, AssertionError) as error:
                raise ValueError(
                    f"{weights}: {name} does not fit {PLAN} ({error}); copy the checkpoint again"
                ) from error


def one_device(device_map: Any) -> Any:
    """The device that all of a model goes to. Raises ValueError for a map with several parts."""
    if isinstance(device_map, dict):
        if set(device_map) != {""}:
            raise ValueError("device_map: a tightfit checkpoint goes to one device; give its name")
        device_map = device_map[""]
    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        device_map = torch.accelerator.current_accelerator(True)
    return "cpu" if device_map is None else device_map


class Stored:
    """What makes a model class read checkpoints: `from_pretrained` checks hashes, carves, decodes once."""

    @classmethod
    def from_pretrained(
        cls: Any, folder: Any, *, config: Any = None, dtype: Any = None, device_map: Any = None, **given: Any
    ) -> Any:
        """The model on one device, in 32-bit floats unless `dtype` is given.

        Raises ValueError for a damaged folder, and for an argument that it could not heed.
        """
        hub = {name: given.pop(name) for name in OF_HUB if name in given}
        files = check_sums(str(folder), **hub)
        if config is None:
            config, given = cls.config_class.from_pretrained(folder, return_unused_kwargs=True, **hub, **given)
        dtype = given.pop("torch_dtype", None) if dtype is None else dtype
        if attention := given.pop("attn_implementation", None):
            config._attn_implementation = attention
        unheeded = [name for name, value in given.items() if value and name[0] != "_" and name not in HARMLESS]
        if unheeded:
            raise ValueError(f"{folder}: a tightfit checkpoint cannot heed {', '.join(unheeded)}; leave it out")
        device = one_device(device_map)
        with open(files[PLAN], encoding="utf-8") as file:
            plan = json.load(file)
        with torch.device("meta"):
            model = cls._from_config(config, dtype=torch.float32 if dtype in (None, "auto") else dtype)
        carve(model, plan)
        fill(model, plan, files[WEIGHTS])
        text = decoder(model)
        if "lm_head" not in plan:
            model.lm_head.weight = text.embed_tokens.weight
        # made on meta, where they hold nothing
        text.rotary_emb = type(text.rotary_emb)(text.config)
        if "generation_config.json" in files:
            model.generation_config = GenerationConfig.from_pretrained(folder, **hub)
        return model.to(device).eval()

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Refused, since a checkpoint is more than weights."""
        raise NotImplementedError("a tightfit checkpoint is not saved again; copy the folder it was loaded from")


class TightfitQwen2AudioConfig(Qwen2AudioConfig):
    model_type = "tightfit_qwen2_audio"


class TightfitQwen2Audio(Stored, Qwen2AudioForConditionalGeneration):
    config_class = TightfitQwen2AudioConfig


class TightfitQwen2Config(Qwen2Config):
    model_type = "tightfit_qwen2"


class TightfitQwen2(Stored, Qwen2ForCausalLM):
    config_class = TightfitQwen2Config


class TightfitLlamaConfig(LlamaConfig):
    model_type = "tightfit_llama"


class TightfitLlama(Stored, LlamaForCausalLM):
    config_class = TightfitLlamaConfig


class TightfitMistralConfig(MistralConfig):
    model_type = "tightfit_mistral"


class TightfitMistral(Stored, MistralForCausalLM):
    config_class = TightfitMistralConfig
