"""Checkpoints for other runtimes: bf16 for transformers' own classes, or the packed integers of GPTQ's kernels."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.checkpoint import appear, folder_bytes, is_checkpoint, load_checkpoint, read_plan
from compress.quantize import pack
from compress.tensors import save_tensors
from compress.units import UnitWeights, biases, matrix, to_bytes, vectors
from models.anatomy import audio_tower, decoder, places
from models.modeling_tightfit import PLAN, SUMS, WEIGHTS, unpack
from models.packaging import CODE, summed
from space import VERSION
from space.errors import UserError
from space.layout import Layout, Tower
from space.plan import TABLES, Layer, Plan, Sublayer, plan_with
from space.rates import WHOLE, Packed
from space.size import units

# What GPTQ's kernels read, and the words their integers are packed in.
GPTQ_BITS = (2, 3, 4, 8)
_WORD_BITS = 32
_GROUPS = (128, 64, 32)
_MODULES = {"attention": "self_attn", "ffn": "mlp"}
# Files that say what a tightfit checkpoint is, or that a stock model has in another form.
_OWN_FILES = (WEIGHTS, PLAN, SUMS, CODE, "config.json")


@dataclass(frozen=True)
class Export:
    """A folder written for other runtimes; `stock` says that they need no custom code, `remark` what to know."""

    path: str
    form: str
    bytes: int
    stock: bool
    remark: str


def export(folder: Path, form: str, out: Path) -> Export:
    """Writes a checkpoint in one of `FORMS` to a folder that appears whole.

    Raises UserError where the folder is no checkpoint, `out` is there already, or the form cannot hold the model.
    """
    if not is_checkpoint(folder):
        raise UserError(f"{folder}: no {PLAN} there; give the folder of a checkpoint, such as a finalist's model")
    if out.exists():
        raise UserError(f"--out {out}: is there already; name a folder that is not, or move this one away")
    layout, plan = read_plan(folder)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    stock, remark = FORMS[form](folder, layout, plan, temporary)
    appear(temporary, out)
    return Export(str(out), form, folder_bytes(out), stock, remark)


def _write_dense(folder: Path, layout: Layout, plan: Plan, out: Path) -> tuple[bool, str]:
    """All weights in bf16: for transformers' own class, or where that has no such shapes for the shipped reader."""
    reason = custom_shapes(layout, plan)
    if reason:
        _write_whole(folder, layout, plan, out)
        return False, f"needs trust_remote_code, because {reason}"
    model = _stock_model(folder, layout, plan)
    _save(model, folder, out, {})
    return True, f"{type(model).__name__} of transformers loads it without custom code"


def _write_gptq(folder: Path, layout: Layout, plan: Plan, out: Path) -> tuple[bool, str]:
    """The decoder's matrices as GPTQ packs them, everything else in bf16."""
    rates = _gptq_rates(folder, layout, plan)
    model = _stock_model(folder, layout, plan)
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        for unit, place in zip(units(layout, plan), list(places(model, plan)), strict=True):
            if unit.name in rates:
                assert isinstance(unit.rate, Packed)
                data = memoryview(file.get_tensor(unit.name).numpy())
                _replace(decoder(model), _gptq_linears(data, place.matrices, unit.rate, rates[unit.name].group))
    common = Counter(rates.values()).most_common(1)[0][0]
    numbers = {f"decoder.{index}": number for number, (index, _) in enumerate(_kept(plan.decoder))}
    dynamic = {}
    for name, rate in rates.items():
        layer, part = name.rsplit(".", 1)
        if rate != common:
            module = rf"+:.*\.layers\.{numbers[layer]}\.{_MODULES[part]}\..*"
            dynamic[module] = {"bits": rate.bits, "group_size": rate.group}
    _save(model, folder, out, {"dtype": "float16", "quantization_config": _quantization_config(common, dynamic)})
    remark = f"decoder at {common}"
    if dynamic:
        remark += f", {len(dynamic)} of {len(rates)} sublayers at other rates (quantization_config.dynamic)"
    return True, remark


FORMS: dict[str, Callable[[Path, Layout, Plan, Path], tuple[bool, str]]] = {
    "dense": _write_dense,
    "gptq": _write_gptq,
}


def _kept(layers: tuple[Layer, ...]) -> list[tuple[int, Layer]]:
    """Layers of which anything stays, by their index in the source."""
    return [(i, layer) for i, layer in enumerate(layers) if layer.attention.kept or layer.ffn.kept]


def custom_shapes(layout: Layout, plan: Plan) -> str:
    """The first reason why no config of transformers' own classes says what a plan keeps; empty where one does."""
    return next((reason for tower in layout.towers if (reason := _custom_shape(tower, plan.layers(tower)))), "")


def _custom_shape(tower: Tower, layers: tuple[Layer, ...]) -> str:
    kept = _kept(layers)
    if not kept:
        return f"the {tower.name} keeps no layer"
    for index, layer in kept:
        for name, sublayer in (("attention", layer.attention), ("ffn", layer.ffn)):
            if not sublayer.kept:
                return f"{tower.name} layer {index} has no {name}"
    first, like = kept[0]
    for index, layer in kept:
        for what, one, other in (
            ("heads", layer.attention.kept, like.attention.kept),
            ("channels", layer.ffn.kept, like.ffn.kept),
        ):
            if one != other:
                return f"{tower.name} layer {index} keeps {one} {what}, layer {first} {other}"
    if tower.name == "encoder" and like.attention.kept < tower.kv_heads:
        return f"the encoder keeps {like.attention.kept} of {tower.kv_heads} heads, which its config cannot say"
    return ""


def _stock_model(folder: Path, layout: Layout, plan: Plan) -> PreTrainedModel:
    """A checkpoint's model in bf16, whose config says all of its shapes."""
    model, _ = load_checkpoint(folder)
    first = _kept(plan.decoder)[0][1]
    text = decoder(model).config
    if first.attention.kept < layout.decoder.kv_heads:
        text.num_attention_heads = first.attention.kept * layout.decoder.group
        text.num_key_value_heads = first.attention.kept
        # transformers would divide the hidden size by the heads that are left
        text.head_dim = layout.decoder.head_dim
    text.intermediate_size = first.ffn.kept
    if audio_tower(model) is not None:
        kept = _kept(plan.encoder)
        audio_tower(model).config.encoder_layers = len(kept)
        audio_tower(model).config.encoder_ffn_dim = kept[0][1].ffn.kept
    return model.bfloat16()


def _save(model: PreTrainedModel, folder: Path, out: Path, config: dict[str, Any]) -> None:
    """Weights and config as transformers writes them, with `config` added; tokenizer and so on as they are."""
    model.save_pretrained(out)
    path = out / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config, indent=2) + "\n")
    (out / "generation_config.json").unlink(missing_ok=True)
    _copy(folder, out, _OWN_FILES)


def _write_whole(folder: Path, layout: Layout, plan: Plan, out: Path) -> None:
    """A tightfit checkpoint of the same shapes with everything at 16 bits."""
    whole = _at_sixteen_bits(plan)
    model, _ = load_checkpoint(folder)
    tensors = {}
    for unit, place in zip(units(layout, whole), places(model, whole), strict=True):
        matrices = tuple(matrix(module).bfloat16() for module in place.matrices)
        stored = UnitWeights(unit, matrices, tuple(x.detach().bfloat16() for x in vectors(place)))
        tensors[unit.name] = torch.frombuffer(bytearray(to_bytes(stored)), dtype=torch.uint8)
    out.mkdir(parents=True)
    save_tensors(tensors, out / WEIGHTS)
    (out / PLAN).write_text(whole.to_json())
    _copy(folder, out, (WEIGHTS, PLAN, SUMS))
    summed(out)


def _at_sixteen_bits(plan: Plan) -> Plan:
    def whole(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        return tuple(Layer(*(_whole(x) for x in (layer.attention, layer.ffn))) for layer in layers)

    tables = {name: None if getattr(plan, name) is None else WHOLE for name in TABLES}
    return plan_with(whole(plan.encoder), whole(plan.decoder), tables, vocabulary=plan.vocabulary, heal=plan.heal)


def _whole(sublayer: Sublayer) -> Sublayer:
    return Sublayer(sublayer.kept, WHOLE) if sublayer.kept else sublayer


def _copy(folder: Path, out: Path, but: tuple[str, ...]) -> None:
    for path in folder.iterdir():
        if path.name not in but:
            shutil.copyfile(path, out / path.name)


class _GptqLinear(nn.Module):
    """A linear layer as GPTQ stores it: inputs stand in rows, integers are packed down the columns.

    `codes` (outputs, inputs), `scales` (outputs, groups): an entry is ``(code - zero) * scale``. Of the zero, the
    middle of the codes, one less is stored (checkpoint format ``gptq``).
    """

    def __init__(self, codes: Tensor, scales: Tensor, bits: int, bias: Tensor | None) -> None:
        super().__init__()
        outputs, inputs = codes.shape
        groups = scales.shape[1]
        zeros = torch.full((groups, outputs), (1 << (bits - 1)) - 1, dtype=torch.uint8)
        self.register_buffer("qweight", _words(codes, bits).T.contiguous())
        self.register_buffer("qzeros", _words(zeros, bits))
        self.register_buffer("scales", scales.T.contiguous())
        self.register_buffer("g_idx", torch.arange(inputs, dtype=torch.int32) // (inputs // groups))
        if bias is not None:
            self.register_buffer("bias", bias)


def _words(codes: Tensor, bits: int) -> Tensor:
    """Each row of codes in 32-bit words, lowest bit first; a row fills whole words."""
    words = np.frombuffer(pack(codes, bits), dtype="<i4").astype(np.int32)
    return torch.from_numpy(words.reshape(len(codes), -1))


def _gptq_linears(
    data: memoryview, matrices: tuple[nn.Module, ...], rate: Packed, group: int
) -> dict[nn.Module, nn.Module]:
    """What stands in place of each matrix of a sublayer, from its stored bytes; `group` divides every width.

    Scales of larger groups are repeated.
    """
    found: dict[nn.Module, nn.Module] = {}
    for module in matrices:
        rows, columns = matrix(module).shape
        codes, data = unpack(data, rate.bits, rows, columns)
        end = 2 * rows * -(-columns // rate.group)
        scales = torch.frombuffer(bytearray(data[:end]), dtype=torch.float16).view(rows, -1)
        data = data[end:]
        scales = scales.repeat_interleave(rate.group // group, dim=1)[:, : columns // group]
        found[module] = _GptqLinear(codes, scales, rate.bits, next((x.data for x in biases(module)), None))
    return found


def _replace(root: nn.Module, found: dict[nn.Module, nn.Module]) -> None:
    for owner in list(root.modules()):
        for name, child in list(owner.named_children()):
            if child in found:
                setattr(owner, name, found[child])


def _gptq_rates(folder: Path, layout: Layout, plan: Plan) -> dict[str, Packed]:
    """Bits and group of each of the decoder's sublayers, the group no larger than what divides all widths.

    Raises UserError with the first reason why GPTQ's runtimes could not read one.
    """
    reason = custom_shapes(layout, plan)
    if reason:
        raise _unfit(folder, f"{reason}; a GPTQ model has equal layers")
    rates = {}
    for unit in units(layout, plan):
        tower, _, rest = unit.name.partition(".")
        if tower == "decoder":
            layer, part = rest.split(".")
            if not isinstance(unit.rate, Packed) or unit.rate.bits not in GPTQ_BITS:
                bits = ", ".join(map(str, GPTQ_BITS))
                raise _unfit(
                    folder, f"decoder layer {layer} has its {part} at rate {unit.rate}; GPTQ packs {bits} bits"
                )
            for linear in unit.linears:
                if linear.rows % _WORD_BITS or linear.columns % _WORD_BITS:
                    shape = f"{linear.name} of {linear.columns} inputs and {linear.rows} outputs"
                    raise _unfit(folder, f"decoder layer {layer} has a {shape}; GPTQ packs multiples of {_WORD_BITS}")
            group = next(
                x for x in _GROUPS if x <= unit.rate.group and not any(one.columns % x for one in unit.linears)
            )
            rates[unit.name] = Packed(unit.rate.bits, group)
    return rates


def _unfit(folder: Path, reason: str) -> UserError:
    return UserError(f"{folder}: {reason}; export it --to dense")


def _quantization_config(rate: Packed, dynamic: dict[str, dict[str, int]]) -> dict[str, Any]:
    """As gptqmodel 7 writes it; transformers and vLLM read the same names."""
    return {
        "quant_method": "gptq",
        "bits": rate.bits,
        "group_size": rate.group,
        "desc_act": False,
        "sym": True,
        "lm_head": False,
        "checkpoint_format": "gptq",
        "format": "gptq",
        "pack_dtype": "int32",
        "meta": {"quantizer": [f"tightfit:{VERSION}"]},
        **({"dynamic": dynamic} if dynamic else {}),
    }
