"""Models from folders: layout, weights, tokenizer and processor, and the files a checkpoint carries along."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    Qwen2AudioForConditionalGeneration,
)

from models.anatomy import decoder, tied
from models.devices import current
from models.packaging import packaged, source_config
from models.vocabulary import Vocabulary, read_vocabulary
from space.errors import UserError, first_line
from space.layout import MODEL_TYPES, Layout, layout_from_config
from space.size import FixedBytes

# Files of a model folder that a checkpoint carries along, where the source has them.
FIXED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "processor_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class TextProcessor:
    """What a decoder-only model has in place of a processor: its tokenizer."""

    tokenizer: Any


@dataclass(frozen=True)
class Source:
    """The uncompressed model in float32, its processor, its layout, and its tokens with the files they stand in."""

    folder: Path
    model: PreTrainedModel
    processor: Any
    layout: Layout
    vocabulary: Vocabulary

    @property
    def fixed_bytes(self) -> FixedBytes:
        """Bytes of the files a checkpoint carries along, by the number of tokens that stay."""
        return self.vocabulary.fixed_bytes


def read_layout(folder: Path) -> Layout:
    """The layout of the model in a folder; numbers its config leaves out are transformers' defaults.

    Raises UserError where there is no readable config.json.
    """
    return layout_of_config(folder / "config.json")


def layout_of_config(path: Path) -> Layout:
    """The layout of a ``config.json``; numbers it leaves out are transformers' defaults. Raises UserError."""
    try:
        raw = json.loads(path.read_bytes())
        raw = source_config(raw) if isinstance(raw, dict) else {}
        kind = raw.get("model_type")
        if kind not in MODEL_TYPES:
            raise UserError(f"{path}: model type {kind!r}; tightfit reads {', '.join(MODEL_TYPES)}")
        return layout_from_config(AutoConfig.for_model(**raw).to_dict())
    except FileNotFoundError:
        raise UserError(f"{path.parent}: no config.json there; give the folder of a model") from None
    except (OSError, ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise UserError(f"{path}: not readable ({first_line(error)}); copy the model again") from error


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file, from its header. Raises OSError or SafetensorError."""
    with safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def trimmed_processor(source: Source, vocabulary: int) -> Any:
    """The processor of a checkpoint of the source in which so many tokens stay."""
    if vocabulary == source.vocabulary.rows:
        return source.processor
    with tempfile.TemporaryDirectory() as folder:
        for name, data in source.vocabulary.fixed_files(vocabulary).items():
            (Path(folder) / name).write_bytes(data)
        return load_processor(Path(folder))


def load_source(folder: Path) -> Source:
    """Model, on the current device in float32, processor and files of a folder.

    Raises UserError where something is missing.
    """
    layout = read_layout(folder)
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"--model {folder}: no safetensors weights there; copy the model again, weights included")
    kind = Qwen2AudioForConditionalGeneration if layout.encoder else AutoModelForCausalLM
    try:
        model, loading = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        processor = load_processor(folder)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"--model {folder}: does not load ({first_line(error)}); check the folder or copy it again"
        ) from error
    if loading["missing_keys"]:
        some = sorted(loading["missing_keys"])[0]
        raise UserError(f"--model {folder}: {len(loading['missing_keys'])} weights such as {some} are not there")
    check_tokenizer(processor, model, folder)
    model = model.to(current().device).eval()
    assert tied(model) == layout.tied
    return Source(folder, model, processor, layout, read_vocabulary(layout.vocabulary, fixed_files(folder)))


def load_processor(folder: Path) -> Any:
    """Tokenizer, and for Qwen2-Audio feature extractor, of a folder. Raises UserError where they do not load."""
    layout = read_layout(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        # transformers would make an empty tokenizer of the other files
        raise UserError(f"{folder}: no tokenizer.json there; copy the folder again")
    try:
        if layout.encoder:
            # a checkpoint brings code along, which is for those without tightfit: it is not run here
            return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # the config says which tokenizer it is, without the code that a checkpoint brings along
        return TextProcessor(AutoTokenizer.from_pretrained(folder, config=read_config(folder), local_files_only=True))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = first_line(error)
        raise UserError(f"{folder}: tokenizer or processor does not load ({reason}); copy the folder again") from error


def check_tokenizer(processor: Any, model: PreTrainedModel, folder: Path) -> None:
    """Raises UserError where the tokenizer is not the model's: its tokens are more, or its audio token another."""
    audio = getattr(processor, "audio_token", None)
    wrong = audio is not None and (
        processor.tokenizer.convert_tokens_to_ids(audio) != model.config.audio_token_index  # of Qwen2-Audio
    )
    if processor.tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: the tokenizer has no end token; name one as eos_token in tokenizer_config.json")
    if wrong or len(processor.tokenizer) > decoder(model).embed_tokens.num_embeddings:
        raise UserError(f"{folder}: the tokenizer is not the one of config.json; copy the folder again")


def renumber_ids(model: PreTrainedModel, vocabulary: Vocabulary, size: int) -> None:
    """Gives a model in which `size` tokens stay the new ids of its audio, start, end and padding tokens."""
    new = vocabulary.new_ids(size)

    def renumbered(ids: Any) -> Any:
        return [new[one] for one in ids] if isinstance(ids, list) else new.get(ids, ids)

    if hasattr(model.config, "audio_token_index"):
        model.config.audio_token_index = renumbered(model.config.audio_token_index)
    for config in (model.generation_config, decoder(model).config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, renumbered(getattr(config, name, None)))


def pad_token(model: PreTrainedModel) -> int:
    """The id rows are padded with: the model's, or where it has none its end token's."""
    config = model.generation_config
    for found in (config.pad_token_id, config.eos_token_id):
        if found is not None:
            return int(found[0] if isinstance(found, list) else found)
    return 0


def fixed_files(folder: Path) -> dict[str, bytes]:
    """Bytes of the files a checkpoint carries along, with what makes it load; JSON without white space, as it counts.

    Raises UserError naming a file that is not JSON though its name says so.
    """
    found = {name: (folder / name).read_bytes() for name in FIXED_FILES if (folder / name).exists()}
    if "tokenizer.json" in found:
        # the same tokens once more, in the form of slow tokenizers
        found = {name: data for name, data in found.items() if name not in ("vocab.json", "merges.txt")}
    try:
        return packaged({name: _compact(data) if name.endswith(".json") else data for name, data in found.items()})
    except ValueError as error:
        raise UserError(f"{folder}: a JSON file is damaged ({first_line(error)}); copy the folder again") from error


def _compact(data: bytes) -> bytes:
    return json.dumps(json.loads(data), ensure_ascii=False, separators=(",", ":")).encode()


def read_config(folder: Path) -> Any:
    """The config of a model, or of the source model that a checkpoint was made of."""
    return AutoConfig.for_model(**source_config(json.loads((folder / "config.json").read_bytes())))


def empty_model(folder: Path) -> PreTrainedModel:
    """A model of a folder's config with weights that mean nothing yet, in float32."""
    config = read_config(folder)
    if config.model_type == "qwen2_audio":
        model = Qwen2AudioForConditionalGeneration(config).eval()
    else:
        model = AutoModelForCausalLM.from_config(config).float().eval()
    if (folder / "generation_config.json").exists():
        try:
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            reason = first_line(error)
            raise UserError(f"{folder}: generation_config.json does not load ({reason}); copy it again") from error
    return model
