"""Bytes at equal divergence, coded against packed: ``make bench-gptqmodel``, or ``python -m benchmarks.rates``

All linear layers of the bundled model are stored at one rate, everything else is left alone. The divergence from the
source is that of a search's proxy; the error is that of the layers' outputs over their power, a geometric mean. From 3
bits up divergences are so small that their order is noise; errors are not. Contenders: plain rounding in groups, our
GPTQ in groups, gptqmodel's (where its environment is there) with asymmetric groups, activation order and clipping
search, and entropy-coded GPTQ.
"""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.measured import Layer, bundled, layers_of
from benchmarks.publish import publish, target
from compress.coding import code_matrix, to_bytes
from compress.gptq import Hessian, round_with_feedback
from compress.quantize import quantize
from compress.units import weight
from models.anatomy import places
from space.plan import uniform_plan
from space.rates import WHOLE, Packed
from space.size import CODED_FRAME_BYTES

CODED_BITS = (1.6, 2.0, 2.5, 3.0, 4.0, 5.0)
TARGET_BITS = (2.0, 2.5, 3.0, 4.0)
GROUPS = (32, 64, 128)
OTHER = Path(".venv-gptqmodel/bin/python")
# A contender's values of a layer and their bits an entry.
Stored = tuple[Tensor, float]


def coded(layer: Layer, bits: float) -> Stored:
    """Entropy-coded GPTQ."""
    entries = layer.weight.numel()
    found = code_matrix(layer.weight, layer.hessian, CODED_FRAME_BYTES + int(entries * bits / 8))
    return found.values(), 8 * len(to_bytes(found)) / entries


def packed(layer: Layer, bits: int, group: int, *, feedback: bool) -> Stored:
    """Our packed form, with error feedback or as plain rounding with the same choice of scales."""
    hessian = layer.hessian if feedback else Hessian(torch.diag(layer.hessian.diagonal))
    found = quantize(layer.weight, Packed(bits, group), hessian)
    return found.values(), bits + 16 * found.scales.numel() / layer.weight.numel()


def others(layers: list[Layer], options: list[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """gptqmodel's values of all layers, and what it says of them."""
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder) / "job.safetensors", Path(folder) / "out.safetensors"
        tensors = {f"{layer.name}.weight": layer.weight.contiguous() for layer in layers}
        tensors |= {f"{layer.name}.hessian": layer.hessian.moments.clone() for layer in layers}
        save_file(tensors, job)
        command = [str(OTHER), "benchmarks/gptqmodel_layers.py", str(job), str(out), *options]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        with safe_open(out, framework="pt") as file:
            said = json.loads(file.metadata()["gptqmodel"])
        return {name.removesuffix(".weight"): values for name, values in load_file(out).items()}, said


@torch.no_grad()
def main() -> None:
    """Divergence and bits of every contender; then the bits the packed ones need for the coded ones' divergence."""
    source, _, workbench = bundled()
    layers = layers_of(source, workbench)
    entries = sum(layer.weight.numel() for layer in layers)
    model = copy.deepcopy(source.model)
    modules = {
        f"{place.name}.{index}": module
        for place in places(model, uniform_plan(source.layout, WHOLE))
        for index, module in enumerate(place.matrices)
    }

    def row(name: str, values: Callable[[Layer], Stored]) -> dict[str, Any]:
        bits, errors = 0.0, []
        for layer in layers:
            found, taken = values(layer)
            weight(modules[layer.name]).copy_(found)
            bits += taken * layer.weight.numel() / entries
            errors.append(layer.hessian.error(layer.weight - found) / layer.hessian.error(layer.weight))
        divergence = workbench.divergence(model, source.layout.vocabulary)
        print(f"{name}: {bits:.3f} bits, divergence {divergence:.5f}", file=sys.stderr)
        return {
            "contender": name,
            "bits a weight": round(bits, 3),
            "divergence": round(divergence, 6),
            "error": round(float(np.exp(np.mean(np.log(errors)))), 6),
        }

    rows = [row(f"coded {bits:g}", lambda layer, bits=bits: coded(layer, bits)) for bits in CODED_BITS]  # type: ignore[misc]
    for bits in (2, 3, 4, 5):
        for group in GROUPS:
            for name, feedback in (("rounding", False), ("packed GPTQ", True)):
                rows.append(
                    row(
                        f"{name} {bits}g{group}",
                        lambda layer, bits=bits, group=group, feedback=feedback: packed(  # type: ignore[misc]
                            layer, bits, group, feedback=feedback
                        ),
                    )
                )
            if OTHER.exists() and bits < 5:
                rows.append(_others_row(row, layers, bits, group))
    targets = _targets(rows)
    if OTHER.exists():
        targets += _same_grid(layers)
    publish("rates", rows, targets)


def _others_row(row: Callable[..., dict[str, Any]], layers: list[Layer], bits: int, group: int) -> dict[str, Any]:
    """gptqmodel at its best settings, counted without the channel order it also stores."""
    options = ["--bits", str(bits), "--group", str(group), "--asymmetric", "--act-order", "--mse", "2"]
    values, said = others(layers, [*options, "--block", str(min(group, 128)), "--damp", "0.01"])
    taken = bits + (16 + bits) / group
    return row(f"gptqmodel {said['version']} {bits}g{group}", lambda layer: (values[layer.name], taken))


def _targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bits of coded over those of the best packed contender, at equal divergence and at equal error of the layers."""
    found = []
    for measure in ("divergence", "error"):
        front = _front([row for row in rows if not row["contender"].startswith("coded")], measure)
        logs, bits = [-math.log(reached) for _, reached in front], [taken for taken, _ in front]
        for row in rows:
            asked = float(row["contender"].split()[1]) if row["contender"].startswith("coded") else 0.0
            if asked in TARGET_BITS:
                ratio = row["bits a weight"] / float(np.interp(-math.log(row[measure]), logs, bits))
                name = f"coded {asked:g} bits over the best packed, equal {measure}"
                found.append(target(name, ratio, 0.75, at_least=False))
    return found


def _front(rows: list[dict[str, Any]], measure: str) -> list[tuple[float, float]]:
    """Bits and the measure of those that no other with fewer bits beats; in between by logarithms."""
    front: list[tuple[float, float]] = []
    for bits, reached in sorted((row["bits a weight"], row[measure]) for row in rows):
        if not front or reached < front[-1][1]:
            front.append((bits, reached))
    return front


def _same_grid(layers: list[Layer]) -> list[dict[str, Any]]:
    """Our error feedback on gptqmodel's own grid, symmetric and without clipping: errors and seconds of both."""
    bits, group = 3, 128
    options = ["--bits", str(bits), "--group", str(group), "--no-act-order", "--damp", "0.01", "--block", "128"]
    values, said = others(layers, options)
    ratios, ours = [], 0.0
    for layer in layers:
        Hessian(layer.hessian.moments).factor  # noqa: B018 (the first factorisation of a size is slower)
        started = time.perf_counter()
        found = round_with_feedback(layer.weight, Hessian(layer.hessian.moments).factor, _absolute_grid(bits, group))
        ours += time.perf_counter() - started
        errors = [layer.hessian.error(layer.weight - one) for one in (found, values[layer.name])]
        ratios.append(errors[0] / errors[1])
    theirs = sum(said["seconds"].values())
    total = float(np.exp(np.mean(np.log(ratios))))
    return [
        target("our error over gptqmodel's on its grid, geometric mean", total, 1.02, at_least=False),
        target("our seconds over gptqmodel's", ours / theirs, 1.0, at_least=False),
    ]


def _absolute_grid(bits: int, group: int) -> Callable[[Tensor, int, int], Tensor]:
    """gptqmodel's symmetric grid: the largest entry of a group is at the end of the range."""
    middle, scale = 1 << (bits - 1), torch.zeros(0)

    def rounded(block: Tensor, offset: int, column: int) -> Tensor:
        nonlocal scale
        if column % group == 0:
            scale = (2 * block[offset : offset + group].abs().amax(0) / (2 * middle - 1)).half().float()
        return (block[offset] / scale).round().clamp(-middle, middle - 1) * scale

    return rounded


if __name__ == "__main__":
    main()
