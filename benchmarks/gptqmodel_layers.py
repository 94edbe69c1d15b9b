"""gptqmodel's own GPTQ on weights and Hessians: ``.venv-gptqmodel/bin/python benchmarks/gptqmodel_layers.py --help``

Run by the environment of ``benchmarks/gptqmodel-requirements.txt``, which has nothing of tightfit. JOB.safetensors has
``NAME.weight`` (rows, columns) and ``NAME.hessian`` (columns, columns), the mean of x x^T over calibration inputs, both
float32. OUT.safetensors gets ``NAME.weight``, the float32 values that gptqmodel's packed layer stands for, and in its
metadata ``gptqmodel``, JSON of version, settings and each layer's seconds and damping.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import gptqmodel
import torch
from gptqmodel.quantization import GPTQ, QuantizeConfig
from safetensors.torch import load_file, save_file

_WEIGHT, _HESSIAN = ".weight", ".hessian"


@dataclass(frozen=True)
class Settings:
    """What gptqmodel is asked for; ``mse`` 0 takes each group's whole range, p > 0 the clip of least |q - w|^p."""

    bits: int
    group: int
    asymmetric: bool
    damp: float
    act_order: bool
    group_aware: bool
    static_groups: bool
    mse: float
    block: int

    def config(self) -> QuantizeConfig:
        """Without a fallback: a Hessian that gptqmodel cannot use is an error, never plain rounding."""
        return QuantizeConfig(
            bits=self.bits,
            group_size=self.group,
            sym=not self.asymmetric,
            damp_percent=self.damp,
            desc_act=self.act_order,
            act_group_aware=self.group_aware,
            static_groups=self.static_groups,
            mse=self.mse,
            fallback=None,
            offload_to_disk=False,
        )


@dataclass(frozen=True)
class Layer:
    """A layer's dequantised float32 weight, the seconds of its quantisation and the damping it really took."""

    weight: torch.Tensor
    seconds: float
    damp: float


def quantize(weight: torch.Tensor, hessian: torch.Tensor, settings: Settings) -> Layer:
    """``weight`` (rows, columns) as gptqmodel stores it; ValueError where it cannot invert ``hessian``."""
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight.float().clone()
    task = GPTQ(linear, settings.config())
    task.quantizer.configure(perchannel=True)
    task.H = 2 * hessian.float()  # gptqmodel's own is 2/n X^T X
    task.nsamples = 1
    started = time.perf_counter()
    values, scales, _, groups, _, _, damp, _ = task.quantize(blocksize=settings.block)
    seconds = time.perf_counter() - started
    if damp >= 1:
        raise ValueError(f"No damp lets gptqmodel invert the Hessian of a layer of shape {tuple(weight.shape)}.")
    return Layer(_stored(values, scales[:, groups.long()]), seconds, float(damp))


def _stored(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """``values``, multiples of float32 ``scales``, with the float16 scales that the packed layer keeps."""
    return (values / scales).round() * scales.half().float()


def run(job: Path, out: Path, settings: Settings) -> None:
    """Quantise every layer of ``job`` into ``out``, which appears whole."""
    tensors = load_file(job)
    names = sorted(key.removesuffix(_WEIGHT) for key in tensors if key.endswith(_WEIGHT))
    layers = {name: quantize(tensors[name + _WEIGHT], tensors[name + _HESSIAN], settings) for name in names}
    report = {
        "version": gptqmodel.__version__,
        **asdict(settings),
        "seconds": {name: layer.seconds for name, layer in layers.items()},
        "damps": {name: layer.damp for name, layer in layers.items()},
    }
    partial = out.with_name(out.name + ".partial")
    weights = {name + _WEIGHT: layer.weight.contiguous() for name, layer in layers.items()}
    save_file(weights, partial, {"gptqmodel": json.dumps(report)})
    os.replace(partial, out)


def main() -> None:
    """Parse and run; the defaults are gptqmodel's own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--group", type=int, required=True, help="a power of two from 16 to 1024, or -1: a whole row")
    parser.add_argument("--asymmetric", action="store_true")
    parser.add_argument("--damp", type=float, default=0.05)
    parser.add_argument("--act-order", action=argparse.BooleanOptionalAction, help="neither: group-aware reordering")
    parser.add_argument("--static-groups", action="store_true", help="scales of the uncorrected, contiguous columns")
    parser.add_argument("--mse", type=float, default=0.0, help="power of the error that the clip search takes; 0: none")
    parser.add_argument("--block", type=int, default=128, help="columns corrected at once; above the group, scales lag")
    found = vars(parser.parse_args())
    job, out, act_order = found.pop("job"), found.pop("out"), found.pop("act_order")
    if found["static_groups"] and act_order is None:
        parser.error("--static-groups needs --act-order or --no-act-order: gptqmodel mismatches groups it reorders.")
    run(job, out, Settings(**found, act_order=bool(act_order), group_aware=act_order is None and found["group"] > 0))


if __name__ == "__main__":
    main()
