"""The sizes of Qwen2-Audio-7B on a GPU: ``python -m benchmarks.large``, eight minutes on an H100 of 80 GB

A model of its widths and depth with random weights and the bundled model's 567 tokens, so that nothing is downloaded,
hears the bundled corpus, padded to its 30 seconds. How long its bank's parts take, how many bytes they have and how
much of the GPU's memory they need: predictions, moments and removal orders of the whole model; of two layers a tower
some options of each kind of sublayer, which are multiplied to those of all layers, and trials beside the bare forward
pass of the same model. `--layers 4 --narrow --utterances 8` tries it where there is no GPU.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from benchmarks.measured import LANGUAGES
from benchmarks.publish import publish
from compress.facts import Facts
from compress.heal import make_lessons
from compress.importance import measure
from compress.prune import removal_orders
from corpora.roles import BUNDLED as CORPUS
from corpora.roles import ROLES, Corpus, open_corpus
from models.devices import compute_of, computing, current
from models.inputs import batches, make_batch, target_logits
from models.layouts import find_anatomy
from models.loading import load_source, pad_token
from models.reference import BUNDLED
from proxies.prefixes import Prefixes
from search.gates import RUNG_UTTERANCES
from search.workbench import Workbench, by_turns, counted, make_rows, make_workbench
from space.choices import VOCABULARY, choices, plan_of
from space.layout import Layout
from space.plan import Plan, Sublayer, uniform_plan
from space.rates import WHOLE

UTTERANCES = 128
SUBLAYERS = ("encoder.0.attention", "encoder.0.ffn", "decoder.0.attention", "decoder.0.ffn")
GB = 1e9


def write_large(folder: Path, layers: int, *, narrow: bool) -> None:
    """Qwen2-Audio-7B's shapes, but for the vocabulary, in bfloat16; of an eighth of its widths where it is narrow."""
    layout, by = find_anatomy("qwen2-audio-7b").layout, 8 if narrow else 1
    assert layout.encoder is not None
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    encoder, decoder = layout.encoder, layout.decoder
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": encoder.hidden // by,
            "encoder_layers": layers,
            "encoder_attention_heads": encoder.kv_heads // (4 if narrow else 1),
            "encoder_ffn_dim": encoder.ffn // by,
            "num_mel_bins": 128,
            "max_source_positions": 1500,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": decoder.hidden // by,
            "intermediate_size": decoder.ffn // by,
            "num_hidden_layers": layers,
            "num_attention_heads": decoder.kv_heads // by,
            "num_key_value_heads": decoder.kv_heads // by,
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
            "tie_word_embeddings": False,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device(current().device):
        model = Qwen2AudioForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    heard = WhisperFeatureExtractor(feature_size=128, sampling_rate=16_000, hop_length=160, chunk_length=30)
    Qwen2AudioProcessor(feature_extractor=heard, tokenizer=tokenizer).save_pretrained(folder)


class Stages:
    """Rows of what took how long, and the most of the GPU's memory that it needed."""

    def __init__(self, layers: int) -> None:
        self.layers, self.rows = layers, list[dict[str, Any]]()

    @contextmanager
    def stage(self, name: str, **more: Any) -> Iterator[dict[str, Any]]:
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        row: dict[str, Any] = {"layers a tower": self.layers, "what": name, **more}
        started = time.perf_counter()
        yield row
        if gpu:
            torch.cuda.synchronize()
        row.setdefault("seconds", round(time.perf_counter() - started, 2))
        row["GPU, GB at most"] = round(torch.cuda.max_memory_allocated() / GB, 1) if gpu else ""
        row.setdefault("GB kept", "")
        row["GPU"] = torch.cuda.get_device_name() if gpu else ""
        self.rows.append(row)
        print(row, flush=True)


def shortened(utterances: int) -> Corpus:
    """The bundled corpus with the first utterances of each role only."""
    corpus = open_corpus(CORPUS)
    for role in ROLES:
        corpus.opened[role] = by_turns(corpus.examples(role))[:utterances]
    return corpus


def whole(stages: Stages, folder: Path, corpus: Corpus) -> None:
    """What is measured of the source once, at full depth."""
    with stages.stage("load"):
        source = counted(load_source(folder), corpus, LANGUAGES)
    rows = make_rows(source, corpus.examples("calibrate"), LANGUAGES)
    with stages.stage(f"predictions and states, {len(rows)} rows") as row:
        lessons = make_lessons(source.model, rows)
        kept = [x for lesson in lessons for x in (lesson.audio, lesson.hidden, lesson.teacher.logs) if x is not None]
        row["GB kept"] = round(sum({x.data_ptr(): x.nbytes for x in kept}.values()) / GB, 2)
    with stages.stage(f"moments, {len(rows)} rows") as row:
        first = batches(rows, len(LANGUAGES), pad_token(source.model))
        measured = measure(source.model, uniform_plan(source.layout, WHOLE), first)
        hessians = {id(one): one.moments.nbytes for of in measured.hessians.values() for one in of}
        behind = sum(one.moments.nbytes for one in measured.behind.values())
        row["GB kept"] = f"{sum(hessians.values()) / GB:.1f} + {behind / GB:.1f} of what is behind"
    with stages.stage("removal orders"):
        Facts(measured, removal_orders(source, measured.hessians))


def options_of(layout: Layout, name: str) -> list[Plan]:
    """Plans that differ in the option of one sublayer."""
    options = choices(layout)
    rest = {other: found[-1] for other, found in options.items()}
    return [plan_of(layout, {**rest, name: one}) for one in options[name] if isinstance(one, Sublayer) and one.kept]


def shallow(stages: Stages, folder: Path, corpus: Corpus, seconds: float, plans: int) -> None:
    """Options and trials, which are made of some layers or all of them alike."""
    source = counted(load_source(folder), corpus, LANGUAGES)
    bench = make_workbench(source, corpus, LANGUAGES)
    some_options(stages, bench, source.layout, seconds)
    trials(stages, bench, source.layout, plans)


def some_options(stages: Stages, bench: Workbench, layout: Layout, seconds: float) -> None:
    """Options of a sublayer of each kind, for some seconds, and what all options of such sublayers would take."""
    for name in SUBLAYERS:
        plans = options_of(layout, name)
        random.Random(0).shuffle(plans)
        before, made, started = bench.assembler.shelf.size_bytes(), 0, time.perf_counter()
        with stages.stage(f"pieces of {name}") as row:
            while made < len(plans) and time.perf_counter() - started < seconds:
                bench.assembler.prepare(plans[made], name)
                made += 1
        each = row["seconds"] / made
        row |= {
            "of it": f"{made} of {len(plans)} options, {each:.2f} s each",
            "all 32 layers' options, hours": round(32 * len(plans) * each / 3600, 2),
            "GB kept": round((bench.assembler.shelf.size_bytes() - before) / GB, 3),
        }
        print(row, flush=True)


def trials(stages: Stages, bench: Workbench, layout: Layout, count: int) -> None:
    """First rungs of plans whose pieces are there, and the bare forward pass of the same model on the same rows."""
    rng, options = random.Random(1), choices(layout)
    plans = []
    for _ in range(count):
        chosen = {name: rng.choice(found[len(found) // 2 :]) for name, found in options.items()}
        plans.append(plan_of(layout, {**chosen, VOCABULARY: options[VOCABULARY][-1]}))
    with stages.stage(f"putting {count} random plans together, pieces made"):
        for plan in plans:
            bench.assembler.assembled(plan)
    utterances = RUNG_UTTERANCES[0]
    found, fresh = [], Prefixes(layout, bench.proxy, bench.rows_an_utterance)
    bench.prefixes.divergence(bench.assembler.assembled(plans[-1]), plans[-1].vocabulary, utterances)  # kernels warm up
    for plan in plans:
        _wait()
        started = time.perf_counter()
        candidate = bench.assembler.assembled(plan)
        _wait()
        assembly = time.perf_counter() - started
        fresh.divergence(candidate, plan.vocabulary, utterances)
        _wait()
        trial = time.perf_counter() - started
        rows = [x.row for x in bench.proxy.of(plan.vocabulary)[: utterances * bench.rows_an_utterance]]
        batch = make_batch(rows, pad_token(candidate.model)).to(current().device)
        _wait()
        started = time.perf_counter()
        with torch.no_grad():
            target_logits(candidate.model, batch)
        _wait()
        found.append((trial, assembly, time.perf_counter() - started))
    with stages.stage(f"first rung of a trial, {utterances} utterances") as row:
        row["seconds"] = round(median(x[0] for x in found), 4)
        row["of it"] = (
            f"{median(x[1] for x in found):.4f} putting together; bare forward pass {median(x[2] for x in found):.4f}; "
            f"ratio {median(x[0] / x[2] for x in found):.2f}"
        )


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(words: Sequence[str] | None = None) -> None:
    """A row for each stage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=32, help="of each tower, of what is measured once")
    parser.add_argument("--narrow", action="store_true", help="an eighth of the widths")
    parser.add_argument("--utterances", type=int, default=UTTERANCES)
    parser.add_argument("--option-seconds", type=float, default=25, help="for options of each kind of sublayer")
    parser.add_argument("--plans", type=int, default=4)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(words)
    corpus, rows = shortened(options.utterances), list[dict[str, Any]]()
    with computing(compute_of(options.device, "auto")):
        print(current().name, torch.cuda.get_device_name() if torch.cuda.is_available() else "", flush=True)
        for layers in (2, options.layers):
            stages = Stages(layers)
            with tempfile.TemporaryDirectory() as folder:
                with stages.stage("make the model"):
                    write_large(Path(folder), layers, narrow=options.narrow)
                if layers == 2:
                    shallow(stages, Path(folder), corpus, options.option_seconds, options.plans)
                else:
                    whole(stages, Path(folder), corpus)
            rows += stages.rows
    publish("large", rows, [])


if __name__ == "__main__":
    main()
