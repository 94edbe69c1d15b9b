"""Batches against one utterance at a time: ``python -m benchmarks.translate``, some minutes on one core.

The bundled model translates utterances of the report role into German in batches of 1, 8 and 32, whose texts must be
the same, and by a plain loop over `transformers`' own processor and `generate`, an utterance at a time with the audio
padded to the longest, as its documentation shows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from benchmarks.publish import publish, target
from corpora.audio import SAMPLE_RATE
from corpora.roles import BUNDLED as CORPUS
from corpora.roles import Example, open_corpus
from models.inputs import PROMPTS
from models.loading import load_source, pad_token
from models.reference import BUNDLED
from scoring.translate import MAX_NEW_TOKENS, translate

UTTERANCES = 96
BATCHES = (1, 8, 32)


@torch.inference_mode()
def plain_loop(model: Any, processor: Any, examples: Sequence[Example], language: str) -> list[str]:
    """Translations by the library's own steps."""
    text = f"{processor.audio_bos_token}{processor.audio_token}{processor.audio_eos_token}{PROMPTS[language]}"
    config = GenerationConfig(
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=pad_token(model),
    )
    found = []
    for example in examples:
        inputs = processor(text=text, audio=example.utterance, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        out = model.generate(**inputs, generation_config=config)
        said = out[0, inputs["input_ids"].shape[1] :]
        found.append(processor.tokenizer.decode(said, skip_special_tokens=True).strip())
    return found


def main() -> None:
    """A row for each way: utterances a second, and whether its texts are those of batches of 1."""
    source = load_source(BUNDLED)
    examples = open_corpus(CORPUS, ("de",)).examples("report")[:UTTERANCES]
    ways = {
        f"batches of {size}": lambda size=size: translate(
            source.model, source.processor, examples, "de", batch_size=size
        )
        for size in BATCHES
    }
    ways["transformers, one at a time"] = lambda: plain_loop(source.model, source.processor, examples, "de")
    translate(source.model, source.processor, examples[:8], "de")
    rows, texts = [], {}
    for name, way in ways.items():
        started = time.perf_counter()
        texts[name] = way()
        rows.append({"way": name, "utterances a second": round(len(examples) / (time.perf_counter() - started), 2)})
    first = texts["batches of 1"]
    for row in rows:
        row["texts as in batches of 1"] = sum(a == b for a, b in zip(texts[str(row["way"])], first, strict=True))
    speeds = {row["way"]: float(row["utterances a second"]) for row in rows}
    over = speeds["batches of 32"] / speeds["transformers, one at a time"]
    same = min(int(row["texts as in batches of 1"]) for row in rows[: len(BATCHES)])
    targets = [
        target("utterances of one text in batches of 1, 8 and 32", same, len(examples), at_least=True),
        target("batches of 32 over transformers one at a time, utterances a second", over, 1.0, at_least=True),
    ]
    publish("translate", rows, targets)


if __name__ == "__main__":
    main()
