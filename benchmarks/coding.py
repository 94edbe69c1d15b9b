"""Coded rates against the rate-distortion bound, order-0 entropy and zstandard: ``python -m benchmarks.coding``

Sources are Gaussian matrices with the Hessians of the bundled model's layers: the bound is reverse water-filling over
the Hessian's eigenvalues (Cover and Thomas, Elements of Information Theory, section 10.3.3). Once with the price of
entries at which the error of single matrices is least, once as models are stored, which are closer to the source with a
lower one (`compress.pricing`).
"""

from __future__ import annotations

from statistics import fmean

import numpy as np
import torch
import zstandard

from benchmarks.measured import Layer, bundled, layers_of
from benchmarks.publish import publish, target
from compress.coding import CodedMatrix, code_matrix, to_bytes
from compress.gptq import Hessian
from compress.pricing import CLOSEST_MODEL, LEAST_ERROR
from space.size import CODED_FRAME_BYTES

PRICINGS = {"above bound, least error": LEAST_ERROR, "above bound, as stored": CLOSEST_MODEL}
BITS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
ROWS = 1024


def bound_bits(hessian: Hessian, error: float, rows: int) -> float:
    """Bits an entry that any code needs for unit Gaussian rows at this expected squared error of all outputs."""
    powers = torch.linalg.eigvalsh(hessian.moments.double()).clamp_min(0).numpy()
    wanted, low, high = error / rows, 0.0, float(powers.max())
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(powers, level).sum() < wanted else (low, level)
    return float(0.5 * np.log2(np.maximum(powers / high, 1.0)).mean())


def order_zero(matrix: CodedMatrix) -> float:
    """Order-0 entropy of the symbols, in bytes."""
    counts = torch.unique(matrix.symbols, return_counts=True)[1].double()
    return float(-(counts * (counts / counts.sum()).log2()).sum()) / 8


def zstandard_bytes(matrix: CodedMatrix) -> int:
    """The symbols as single bytes, column by column, or two bytes where one is not enough, at zstd's level 19."""
    symbols = matrix.symbols.T.contiguous().numpy()
    small = np.abs(symbols).max(initial=0) < 128
    return len(zstandard.ZstdCompressor(level=19).compress(symbols.astype(np.int8 if small else np.int16).tobytes()))


@torch.no_grad()
def main() -> None:
    """For each rate the distance from the bound on Gaussian sources, and bytes against entropy on the model's own."""
    source, _, workbench = bundled()
    layers = layers_of(source, workbench)
    chosen = [layer for layer in layers if layer.name.split(".")[1] in ("1", "4")]
    rows = [_row(bits, chosen) for bits in BITS]
    above = max(row[next(iter(PRICINGS))] for row in rows if row["bits"] > 2)
    targets = [
        target("bits above the bound at least error, at most, above 2 bits", above, 0.30, at_least=False),
        target(
            "bytes over order-0 entropy, at most", max(row["bytes / order-0"] for row in rows), 1.01, at_least=False
        ),
    ]
    publish("coding", rows, targets)


def _row(bits: float, layers: list[Layer]) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    above: dict[str, list[float]] = {column: [] for column in PRICINGS}
    entropies, zstd, coded, entries = 0.0, 0, 0, 0
    for layer in layers:
        columns = layer.hessian.columns
        gaussian = torch.randn(ROWS, columns, generator=generator)
        most_bytes = CODED_FRAME_BYTES + int(gaussian.numel() * bits / 8)
        for column, pricing in PRICINGS.items():
            found = code_matrix(gaussian, layer.hessian, most_bytes, pricing=pricing)
            taken = 8 * len(to_bytes(found)) / gaussian.numel()
            error = layer.hessian.error(gaussian - found.values())
            above[column].append(taken - bound_bits(layer.hessian, error, ROWS))
        own = code_matrix(layer.weight, layer.hessian, CODED_FRAME_BYTES + int(layer.weight.numel() * bits / 8))
        entropies, zstd = entropies + order_zero(own), zstd + zstandard_bytes(own)
        coded, entries = coded + len(to_bytes(own)), entries + layer.weight.numel()
    return {
        "bits": bits,
        **{column: round(fmean(found), 3) for column, found in above.items()},
        "coded bits": round(8 * coded / entries, 3),
        "order-0 bits": round(8 * entropies / entries, 3),
        "bytes / order-0": round(coded / entropies, 4),
        "zstd -19 bits": round(8 * zstd / entries, 3),
    }


if __name__ == "__main__":
    main()
