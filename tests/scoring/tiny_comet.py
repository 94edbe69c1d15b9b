"""Makes a tiny COMET, random and whole, in a folder: run by the interpreter of COMET's environment, without network.

    python tiny_comet.py FOLDER

FOLDER/encoder is an XLM-R with a vocabulary of its own; FOLDER/model is laid out as COMET's models are, with the
settings of wmt22-comet-da; FOLDER/unsafe has a checkpoint that writes FOLDER/ran when it is unpickled freely.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
import yaml
from comet.models import RegressionMetric
from tokenizers import SentencePieceUnigramTokenizer
from tokenizers.processors import RobertaProcessing
from transformers import XLMRobertaConfig, XLMRobertaTokenizerFast

TEXTS = ["The model is small.", "Das Modell ist klein.", "模型很小。", "It translates talks.", "Es übersetzt Vorträge."]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
# Weights far enough apart that segments have scores of their own in half precision.
SPREAD = 0.3


def make_encoder(folder: Path) -> None:
    """Configuration and tokenizer; COMET's checkpoints hold the weights."""
    tokenizer = SentencePieceUnigramTokenizer()
    tokenizer.train_from_iterator(TEXTS * 20, vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>")  # noqa: S106
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    XLMRobertaTokenizerFast(tokenizer_object=tokenizer._tokenizer).save_pretrained(folder)
    XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=130,
        initializer_range=SPREAD,
        type_vocab_size=1,
    ).save_pretrained(folder)


def make_model(encoder: Path) -> RegressionMetric:
    """As wmt22-comet-da is set, smaller."""
    return RegressionMetric(
        pretrained_model=str(encoder),
        load_pretrained_weights=False,
        layer_transformation="sparsemax",
        layer_norm=False,
        pool="avg",
        hidden_sizes=[48, 16],
        activations="Tanh",
        train_data=["train.csv"],
        validation_data=["valid.csv"],
    )


def save(model: RegressionMetric, folder: Path, **more: Any) -> None:
    """hparams.yaml and checkpoints/model.ckpt, as Lightning writes them, with `more` in the checkpoint."""
    path = folder / "checkpoints" / "model.ckpt"
    trainer = pytorch_lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)
    torch.save({**torch.load(path, weights_only=True), **more}, path)
    hparams = {**model.hparams, "class_identifier": "regression_metric"}
    (folder / "hparams.yaml").write_text(yaml.safe_dump(hparams), encoding="utf-8")


class Unsafe:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def main() -> None:
    """All three."""
    torch.manual_seed(0)
    folder = Path(sys.argv[1])
    make_encoder(folder / "encoder")
    model = make_model(folder / "encoder")
    save(model, folder / "model")
    save(model, folder / "unsafe", extra=Unsafe(folder / "ran"))


if __name__ == "__main__":
    main()
