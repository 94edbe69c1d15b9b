"""``python -m miniature.build``: speech, tokenizer, training, and the files the product ships; everything from one seed.

Hours on two cores; stopped at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
from transformers import Qwen2AudioProcessor

from miniature.anatomy import make_model, make_processor, train_tokenizer
from miniature.phrases import Sentence
from miniature.speech import SAMPLE_RATE
from miniature.talks import ROLES, Talk, plan_talks, utter
from miniature.train import Spoken, Trainer, featurize, train
from models.inputs import PROMPTS

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "bundled"
CORPUS = ROOT / "corpora" / "bundled"


def main() -> None:
    """Builds corpus and model, or goes on where a build was stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=60)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--stop-after", type=int, default=None, help="stop at this step; the schedule stays as it is")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "miniature", help="features and training state")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)

    talks = plan_talks(options.seed)
    processor = make_processor(train_tokenizer(_texts(talks)))
    if not (CORPUS / "report.parquet").exists():
        _write_corpus([talk for talk in talks if talk.role in ROLES], options.seed)
    spoken = _training_speech(talks, processor, options.seed + 1, options.work / "features.npz")
    print(f"{len(spoken)} utterances to train on", flush=True)
    held_out = spoken[-240:]
    trainer = Trainer(make_model(processor.tokenizer), processor)
    train(
        trainer,
        spoken[:-240],
        held_out,
        steps=options.steps,
        batch_size=24,
        peak_rate=1.2e-3,
        seed=options.seed,
        state_path=options.work / "state.safetensors",
        stop_after=options.stop_after,
    )
    _write_model(trainer, processor)


def _training_speech(talks: list[Talk], processor: Qwen2AudioProcessor, seed: int, cache: Path) -> list[Spoken]:
    """Features of every training utterance; kept in `cache` for a run that goes on."""
    training = [talk for talk in talks if talk.role == "train"]
    if not cache.exists():
        found = [(featurize(processor, samples), sentence) for _, sentence, samples in utter(training, seed)]
        np.savez(
            cache,
            features=np.concatenate([features for features, _ in found], axis=1),
            frames=np.array([features.shape[1] for features, _ in found]),
            texts=np.array([(s.en, s.de, s.zh) for _, s in found]),
        )
    with np.load(cache) as kept:
        features, ends = kept["features"], np.cumsum(kept["frames"])
        sentences = [Sentence(*map(str, row)) for row in kept["texts"]]
    pieces = np.split(features, ends[:-1], axis=1)
    return [Spoken(np.ascontiguousarray(piece), sentence) for piece, sentence in zip(pieces, sentences, strict=True)]


def _texts(talks: list[Talk]) -> list[str]:
    training = [sentence for talk in talks if talk.role == "train" for sentence in talk.sentences]
    # The prompts often, so that they take few tokens.
    return [text for s in training for text in (s.de, s.zh)] + list(PROMPTS.values()) * 2000


def _write_corpus(talks: list[Talk], seed: int) -> None:
    """One parquet file a role: id, talk, audio (Opus in Ogg), English, German, Chinese."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, object]]] = {role: [] for role in ROLES}
    for talk, sentence, samples in utter(talks, seed):
        role = rows[talk.role]
        name = f"{talk.name}-{len(role):03d}"
        audio = {"bytes": _compress(samples), "path": f"{name}.ogg"}
        role.append(
            {"id": name, "talk": talk.name, "audio": audio, "en": sentence.en, "de": sentence.de, "zh": sentence.zh}
        )
    for role, table in rows.items():
        pq.write_table(pa.Table.from_pylist(table), CORPUS / f"{role}.parquet", compression="zstd")


def _compress(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=0.9)
    return buffer.getvalue()


def _write_model(trainer: Trainer, processor: Qwen2AudioProcessor) -> None:
    """The folder as Hugging Face writes it, tokenizer.json without its white space."""
    MODEL.mkdir(parents=True, exist_ok=True)
    trainer.model.to(torch.bfloat16).save_pretrained(MODEL)
    processor.save_pretrained(MODEL)
    tokenizer = MODEL / "tokenizer.json"
    compact = json.dumps(json.loads(tokenizer.read_text()), ensure_ascii=False, separators=(",", ":"))
    tokenizer.write_text(compact)
    (MODEL / "model.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
