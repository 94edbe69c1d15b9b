"""What translating costs: parameters, operations, seconds, real-time factor, memory; each with how it was measured."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from corpora.audio import SAMPLE_RATE
from corpora.roles import Example
from models.devices import device_of
from scoring.translate import translate

# Operations are counted on the first few utterances: counting takes longer than running.
_COUNTED = 16


def figures_of(
    model: PreTrainedModel,
    processor: Any,
    examples: Sequence[Example],
    language: str,
    *,
    batch_size: int,
    beams: int = 1,
) -> dict[str, dict[str, Any]]:
    """Of translating examples, gold segments, into one language: by name a `value` and the `method` it was measured by.

    There is no real-time factor of utterances that are read.
    """
    device = device_of(model)
    counted = examples[:_COUNTED]
    with FlopCounterMode(display=False) as counter:
        translate(model, processor, counted, language, batch_size=batch_size, beams=beams)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    translate(model, processor, examples, language, batch_size=batch_size, beams=beams)
    taken = time.perf_counter() - started
    speech = sum(len(e.utterance) for e in examples if not isinstance(e.utterance, str)) / SAMPLE_RATE
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    decoded = "greedy" if beams == 1 else f"{beams} beams"
    how = f"{len(examples)} gold segments into {language}, {decoded}, in batches of {batch_size} on {where}"
    found: dict[str, dict[str, Any]] = {
        "parameters": _figure(sum(one.numel() for one in model.parameters()), "of the loaded model"),
        "FLOPs an utterance": _figure(
            counter.get_total_flops() // len(counted),
            f"torch's FlopCounterMode (matrix products, convolutions, attention), {len(counted)} gold segments, "
            f"{decoded}, padding of batches of {batch_size} included",
        ),
        "seconds an utterance": _figure(round(taken / len(examples), 4), f"wall clock, features included, {how}"),
        "peak memory bytes": _figure(_peak(device), _PEAKS[device.type]),
    }
    if speech:
        found["real-time factor"] = _figure(round(taken / speech, 4), f"seconds a second of speech, {how}")
    return found


_PEAKS = {"cuda": "torch.cuda.max_memory_allocated", "cpu": "the process's largest resident set, libraries included"}


def _figure(value: float, method: str) -> dict[str, Any]:
    return {"value": value, "method": method}


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
