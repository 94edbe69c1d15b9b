"""A checkpoint read with nothing of tightfit at hand: ``python -m benchmarks.alone [--environment FOLDER]``

An environment of its own gets five packages at the pinned versions. There, in a folder outside of the repository,
transformers loads a mixed checkpoint of the bundled model; its logits must be tightfit's bit for bit, and damaged
copies must be refused in one line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.publish import publish, target
from compress.checkpoint import load_checkpoint, write_checkpoint
from compress.pipeline import compress
from corpora.roles import BUNDLED as CORPUS
from corpora.roles import open_corpus
from models.inputs import audio_tokens
from models.loading import load_source
from models.packaging import CODE
from models.reference import BUNDLED
from search.workbench import counted, make_workbench
from space.layout import Layout
from space.plan import REMOVED, Layer, Plan, Sublayer, uniform_plan
from space.rates import WHOLE, Coded, Packed

PACKAGES = ("torch", "transformers", "safetensors", "constriction", "numpy")
REPOSITORY = Path(__file__).parent.parent
# Least MB of stored weights decoded a second on one core.
LEAST_MB_A_SECOND = 2.0

# Run there: ARGUMENTS are the checkpoint and the inputs with the logits they must give.
_READER = """
import importlib.util, json, sys, time
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer
from transformers.utils import logging
logging.disable_progress_bar()
for name in ("compress", "models", "space", "search", "tightfit", "optuna", "peft", "scipy"):
    assert importlib.util.find_spec(name) is None, f"{name} can be imported here"
torch.set_num_threads(1)
folder, case = Path(sys.argv[1]), load_file(sys.argv[2])
wanted = case.pop("logits")
AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
started = time.perf_counter()
model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
seconds = time.perf_counter() - started
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert processor.tokenizer("a model").input_ids == tokenizer("a model").input_ids
with torch.no_grad():
    found = model(**case).logits
written = model.generate(**case, max_new_tokens=4, min_new_tokens=4, do_sample=False)
print(json.dumps({
    "seconds": seconds,
    "parameters": sum(parameter.numel() for parameter in model.parameters()),
    "differing": int((found != wanted).sum()) if found.shape == wanted.shape else found.numel(),
    "logits": found.numel(),
    "generated": written.shape[1] - case["input_ids"].shape[1],
}))
"""
_REFUSAL = """
import json, sys
from transformers import AutoModelForSeq2SeqLM
try:
    AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1], trust_remote_code=True)
except Exception as error:
    print(json.dumps({"kind": type(error).__name__, "message": str(error)}))
else:
    print(json.dumps({"kind": "none", "message": "it loaded"}))
"""


def main() -> None:
    """Writes a checkpoint, makes the environment, reads whole and damaged copies there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, help="folder of an environment made here before, or to be made")
    given = parser.parse_args().environment
    with tempfile.TemporaryDirectory() as temporary:
        away = Path(temporary)
        checkpoint, case = _write_case(away)
        python = _environment((given or away / "environment").resolve())
        found = _run(python, away, _READER, checkpoint, case)
        weights = (checkpoint / "model.safetensors").stat().st_size
        row = {
            "stored bytes": weights,
            "code bytes": (checkpoint / CODE).stat().st_size,
            "seconds": found["seconds"],
            "stored MB/s": weights / 1e6 / found["seconds"],
            "decoded MB/s": 4 * found["parameters"] / 1e6 / found["seconds"],
            "logits": found["logits"],
            "differing": found["differing"],
        }
        refused = [_refused(python, away, checkpoint, name, damage) for name, damage in _damages()]
    targets = [
        target("logits that differ from tightfit's", found["differing"], 0, at_least=False),
        target("tokens generated of 4", found["generated"], 4, at_least=True),
        target("damaged copies refused in one line of ValueError", sum(refused), len(refused), at_least=True),
        target("stored MB decoded a second", row["stored MB/s"], LEAST_MB_A_SECOND, at_least=True),
    ]
    publish("alone", [row], targets)


def mixed_plan(layout: Layout) -> Plan:
    """Layers of different widths, sublayers and a layer gone, coded, packed and 16-bit rates side by side."""
    assert layout.encoder is not None
    rates = (Coded(2.0), Packed(4, 64), WHOLE, Packed(3, 32), Coded(1.2), Packed(2, 128), Packed(8, 64))

    def tower(layers: int, heads: int, channels: int) -> tuple[Layer, ...]:
        found = [
            Layer(
                Sublayer(max(1, heads - i % 3), rates[i % len(rates)]),
                Sublayer(channels - 37 * i, rates[(i + 3) % len(rates)]),
            )
            for i in range(layers)
        ]
        found[1] = replace(found[1], ffn=REMOVED)
        found[2] = replace(found[2], attention=REMOVED)
        found[3] = Layer(REMOVED, REMOVED)
        return tuple(found)

    towers = {x.name: tower(x.layers, x.kv_heads, x.ffn) for x in layout.towers}
    return replace(
        uniform_plan(layout, Packed(4, 64)),
        **towers,
        vocabulary=layout.vocabulary_sizes[len(layout.vocabulary_sizes) // 2],
        embedding=Coded(4.0),
        convolutions=WHOLE,
    )


def _write_case(folder: Path) -> tuple[Path, Path]:
    """A checkpoint, and inputs of a fixed batch with the logits that tightfit's model gives, on one core."""
    corpus = open_corpus(CORPUS)
    source = counted(load_source(BUNDLED), corpus, ("de", "zh"))
    bank = make_workbench(source, corpus, ("de", "zh")).bank
    plan = mixed_plan(source.layout)
    checkpoint, case = folder / "checkpoint", folder / "case.safetensors"
    write_checkpoint(checkpoint, source, plan, compress(source, plan, bank, seed=0).stored)
    model, _ = load_checkpoint(checkpoint)
    inputs = _inputs(model, source.processor.feature_extractor)
    torch.set_num_threads(1)
    with torch.no_grad():
        logits = model(**inputs).logits
    save_file({**inputs, "logits": logits.contiguous()}, case)
    return checkpoint, case


def _inputs(model: Any, extractor: Any) -> dict[str, torch.Tensor]:
    """Two utterances of two seconds of noise, each between tokens drawn at random, none of them the audio's."""
    random = torch.Generator().manual_seed(0)
    noise = [torch.randn(32_000, generator=random).numpy() / 10 for _ in range(2)]
    features = extractor(
        noise, sampling_rate=16_000, padding="max_length", return_attention_mask=True, return_tensors="pt"
    )
    heard = torch.full((2, audio_tokens(int(features["attention_mask"][0].sum()))), model.config.audio_token_index)
    text = torch.randint(0, model.lm_head.out_features, (2, 24), generator=random)
    text[text == model.config.audio_token_index] += 1
    ids = torch.cat([text[:, :4], heard, text[:, 4:]], 1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "input_features": features["input_features"],
        "feature_attention_mask": features["attention_mask"].long(),
    }


def _environment(folder: Path) -> Path:
    """The Python of an environment with `PACKAGES` at the versions of requirements.txt, made where it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        pins = dict(line.split("==") for line in (REPOSITORY / "requirements.txt").read_text().split())
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)  # noqa: S603
        wanted = [f"{name}=={pins[name]}" for name in PACKAGES]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)  # noqa: S603
    return python


def _run(python: Path, away: Path, code: str, *arguments: Path) -> dict[str, Any]:
    """What a script prints as JSON on its last line, run outside of the repository and without its paths."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(away / "hub"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(  # noqa: S603
        [python, "-c", code, *arguments], cwd=away, env=kept | settings, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _damages() -> list[tuple[str, Callable[[bytes], bytes]]]:
    def changed(whole: bytes) -> bytes:
        place = max(whole.rfind(digit) for digit in (b"1", b"2", b"3", b"5"))
        return whole[:place] + b"4" + whole[place + 1 :]

    def truncated(whole: bytes) -> bytes:
        return whole[: len(whole) * 2 // 3]

    return [(name, damage) for name in ("model.safetensors", "plan.json") for damage in (changed, truncated)]


def _refused(python: Path, away: Path, checkpoint: Path, name: str, damage: Callable[[bytes], bytes]) -> bool:
    """Whether a copy with one damaged file is refused by a ValueError of one line."""
    with tempfile.TemporaryDirectory(dir=away) as folder:
        for path in checkpoint.iterdir():
            whole = path.read_bytes()
            (Path(folder) / path.name).write_bytes(damage(whole) if path.name == name else whole)
        found = _run(python, away, _REFUSAL, Path(folder))
    print(f"{name}: {found['kind']}: {found['message'].replace(folder, 'FOLDER')}")
    return found["kind"] == "ValueError" and "\n" not in found["message"]


if __name__ == "__main__":
    main()
