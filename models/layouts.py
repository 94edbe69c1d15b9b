"""Layouts without weights: by name, from a config.json, a safetensors header or index, a folder, or the hub."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from models.loading import FIXED_FILES, fixed_files, layout_of_config, read_layout, tensor_shapes
from models.reference import BUNDLED, download, is_hub_id
from models.vocabulary import Vocabulary, read_vocabulary
from space.errors import UserError, first_line
from space.layout import Layout, layout_from_config

# What the hub's config.json of Qwen2-Audio-7B says, base and Instruct.
_SEVEN_B = {
    "model_type": "qwen2_audio",
    "audio_config": {
        "d_model": 1280,
        "encoder_layers": 32,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "num_mel_bins": 128,
        "max_source_positions": 1500,
    },
    "text_config": {
        "vocab_size": 156_032,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
}
# Tokens that stay in any case: 256 bytes, and the rows behind Qwen2's 151,643 ordinary tokens.
_SEVEN_B_LEAST = 256 + 156_032 - 151_643
NAMED = ("qwen2-audio-7b", "qwen2-audio-7b-instruct")
INDEX = "model.safetensors.index.json"
# A header gives no number of heads: the head sizes of Whisper's encoders and of 7B decoders, then smaller ones.
_ENCODER_HEAD_DIMS, _DECODER_HEAD_DIMS = (64, 32, 16, 8, 1), (128, 64, 32, 16, 8, 1)
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Anatomy:
    """What is known of a model without its weights; `vocabulary` where there is a tokenizer at hand.

    `least_vocabulary` tokens must stay. `remark` says what was assumed, if anything.
    """

    name: str
    layout: Layout
    vocabulary: Vocabulary | None
    least_vocabulary: int
    folder: Path | None = None
    remark: str = ""


def find_anatomy(reference: str | None) -> Anatomy:
    """The anatomy of the bundled model (None), a known name, a folder, a file or a hub id; weights are never read.

    Raises UserError where the reference leads to nothing readable.
    """
    if reference is None:
        return _of_folder(BUNDLED, "bundled miniature")
    if reference.lower() in NAMED:
        layout = layout_from_config(_SEVEN_B)
        return Anatomy(reference.lower(), layout, None, _SEVEN_B_LEAST, remark="tokenizer files estimated")
    path = Path(reference).expanduser()
    if path.is_dir():
        return _of_folder(path, reference)
    if path.is_file():
        return _of_file(path, reference)
    return _of_hub(reference)


def _of_folder(folder: Path, name: str) -> Anatomy:
    if (folder / "config.json").exists():
        return _with_tokenizer(folder, name, read_layout(folder))
    for file in (folder / INDEX, *sorted(folder.glob("*.safetensors"))):
        if file.exists():
            return _of_file(file, name)
    raise UserError(f"--model {name}: neither config.json nor safetensors there; give the folder of a model")


def _of_file(path: Path, name: str) -> Anatomy:
    if path.name.endswith(".safetensors"):
        layout = layout_from_shapes(_shapes(path))
        remark = _assumed(layout)
    elif path.name.endswith(".index.json"):
        layout, remark = _layout_of_index(path)
    else:
        layout, remark = layout_of_config(path), ""
    return Anatomy(name, layout, None, layout.vocabulary, remark="; ".join(filter(None, [remark, _WHOLE])))


_WHOLE = "no tokenizer at hand: the vocabulary stays whole, tokenizer files estimated"


def _assumed(layout: Layout) -> str:
    return f"head sizes assumed, a header has none: {', '.join(f'{x.name} {x.head_dim}' for x in layout.towers)}"


def _of_hub(reference: str) -> Anatomy:
    if not is_hub_id(reference):
        raise UserError(
            f"--model {reference}: no such folder or file; give one, a hub id such as Qwen/Qwen2-Audio-7B, or "
            f"{' or '.join(NAMED)}"
        )
    advice = f"check the name and the connection, or take {NAMED[0]}"
    return _of_folder(download(reference, FIXED_FILES, advice), reference)


def _with_tokenizer(folder: Path, name: str, layout: Layout) -> Anatomy:
    files = fixed_files(folder)
    if "tokenizer.json" not in files:
        return Anatomy(name, layout, None, layout.vocabulary, remark=_WHOLE)
    vocabulary = read_vocabulary(layout.vocabulary, files)
    return Anatomy(name, layout, vocabulary, vocabulary.least, folder)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file, from its header."""
    try:
        return tensor_shapes(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: header is not readable ({first_line(error)}); copy the file again") from error


def _layout_of_index(path: Path) -> tuple[Layout, str]:
    """The layout behind an index: of the shards beside it, or where they are not there of the model its bytes tell."""
    try:
        raw = json.loads(path.read_bytes())
        shards = sorted(set(raw["weight_map"].values()))
        total = raw.get("metadata", {}).get("total_size")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a readable safetensors index ({first_line(error)}); copy it again") from error
    if (path.parent / "config.json").exists():
        return layout_of_config(path.parent / "config.json"), ""
    missing = [shard for shard in shards if not (path.parent / shard).is_file()]
    if not missing:
        shapes = {name: shape for shard in shards for name, shape in _shapes(path.parent / shard).items()}
        layout = layout_from_shapes(shapes)
        return layout, _assumed(layout)
    known = layout_from_config(_SEVEN_B)
    if total == known.source_bytes:
        return known, f"taken for {NAMED[0]} by its {total:,} bytes"
    raise UserError(f"{path}: an index names tensors without shapes; put {missing[0]} or a config.json beside it")


# Names of transformers 5 to those of the hub's checkpoints, which came first.
_RENAMED = (
    (r"^model\.audio_tower\.", "audio_tower."),
    (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
    (r"^model\.language_model\.", "decoder."),
    (r"^language_model\.model\.", "decoder."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^model\.", "decoder."),
)


def canonical_name(name: str) -> str:
    """One name for a tensor, whether named as on the hub, as in transformers 5, or as in a decoder-only model."""
    for pattern, replacement in _RENAMED:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def layout_from_shapes(shapes: Shapes) -> Layout:
    """The layout whose tensors have these names and shapes; head sizes, which shapes do not tell, are assumed.

    Raises UserError where it is no model that tightfit reads, or tensors are missing.
    """
    named = {canonical_name(name): shape for name, shape in shapes.items()}
    try:
        vocabulary, hidden = named["decoder.embed_tokens.weight"]
        queries, keys = (named[f"decoder.layers.0.self_attn.{name}_proj.weight"][0] for name in ("q", "k"))
        head_dim = _head_dim(_DECODER_HEAD_DIMS, queries, keys)
        text = {
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": named["decoder.layers.0.mlp.gate_proj.weight"][0],
            "num_hidden_layers": _count(named, "decoder"),
            "num_attention_heads": queries // head_dim,
            "num_key_value_heads": keys // head_dim,
            "head_dim": head_dim,
            "attention_bias": "decoder.layers.0.self_attn.o_proj.bias" in named,
            "mlp_bias": "decoder.layers.0.mlp.down_proj.bias" in named,
            "tie_word_embeddings": "lm_head.weight" not in named,
        }
        if "audio_tower.conv1.weight" not in named:
            biased = "decoder.layers.0.self_attn.q_proj.bias" in named and not text["attention_bias"]
            layout = layout_from_config({"model_type": "qwen2" if biased else "llama", **text})
        else:
            audio_hidden, mel_bins, _ = named["audio_tower.conv1.weight"]
            audio = {
                "d_model": audio_hidden,
                "encoder_layers": _count(named, "audio_tower"),
                "encoder_attention_heads": audio_hidden // _head_dim(_ENCODER_HEAD_DIMS, audio_hidden),
                "encoder_ffn_dim": named["audio_tower.layers.0.fc1.weight"][0],
                "num_mel_bins": mel_bins,
                "max_source_positions": named["audio_tower.embed_positions.weight"][0],
            }
            layout = layout_from_config({"model_type": "qwen2_audio", "audio_config": audio, "text_config": text})
    except KeyError as error:
        raise UserError(f"the header has no tensor {error}: not a whole Qwen2-Audio, Qwen2 or Llama model") from error
    counted = sum(map(math.prod, shapes.values()))
    if counted != layout.parameters:
        raise UserError(f"the header holds {counted:,} parameters, the layout it suggests {layout.parameters:,}")
    return layout


def _head_dim(candidates: Sequence[int], *rows: int) -> int:
    """The first candidate that divides all of the rows."""
    return next(size for size in candidates if all(count % size == 0 for count in rows))


def _count(named: Shapes, stack: str) -> int:
    return 1 + max(int(match[1]) for name in named if (match := re.match(rf"{stack}\.layers\.(\d+)\.", name)))
