"""Where models run, and in which precision their forward passes are computed.

A command says so once, for all that is called within: the models it loads go to the device, and forward passes run
under torch's autocast. Weights, sums, losses and all arithmetic of quantisation stay in 32 bits or more; what is kept
in the bank or on disk is in host memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from space.errors import UserError

HOST = torch.device("cpu")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Compute:
    """A device, and the precision of forward passes."""

    device: torch.device = HOST
    precision: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        """What scores depend on; which one of several devices of a type it is changes none."""
        return f"{self.device.type} {str(self.precision).removeprefix('torch.')}"

    @property
    def signature(self) -> str:
        """The end of a signature of scores; nothing for the CPU in 32 bits, whose signatures were there before."""
        return "" if self.name == PLAIN.name else f"|{self.name}"


# What everything was computed on of which it is not said.
PLAIN = Compute()

_CURRENT: ContextVar[Compute] = ContextVar("compute", default=PLAIN)


def compute_of(device: str, precision: str) -> Compute:
    """What ``--device`` and ``--precision`` ask for. Raises UserError for what is not there or has no such name."""
    found = _device_of(device)
    if precision not in ("auto", *PRECISIONS):
        raise UserError(f"--precision {precision}: there is no such precision; choose auto, {', '.join(PRECISIONS)}")
    halves = found.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bfloat16" and not halves:
        raise UserError(f"--precision bfloat16: {found} does not compute in it; give --precision float32")
    if precision == "auto":
        precision = "bfloat16" if found.type == "cuda" and halves else "float32"
    return Compute(found, PRECISIONS[precision])


def _device_of(name: str) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return HOST
    kind, _, number = name.partition(":")
    if name not in ("auto", "cuda") and not (kind == "cuda" and number.isdecimal()):
        raise UserError(f"--device {name}: there is no such device; choose auto, cpu, cuda, or cuda:N for the Nth GPU")
    if not count:
        raise UserError(
            f"--device {name}: torch finds no CUDA GPU here; give --device cpu, or look what nvidia-smi says"
        )
    index = int(number or 0)
    if index >= count:
        raise UserError(f"--device {name}: torch finds {count} here, counted from cuda:0; give one of them")
    return torch.device("cuda", index)


@contextmanager
def computing(compute: Compute) -> Iterator[None]:
    """Within, models are loaded to the device of `compute` and forward passes run in its precision."""
    if compute.device.type == "cuda":
        # cuDNN would convolve 32-bit floats as TF32, whose mantissa has 10 bits
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
        torch.backends.cudnn.rnn.fp32_precision = "ieee"  # type: ignore[attr-defined]
    token = _CURRENT.set(compute)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current() -> Compute:
    """What the command that runs said."""
    return _CURRENT.get()


def in_precision(passed: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """A forward pass that runs in the precision of `current`."""
    return _under(passed, enabled=True)


def in_full(summed: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """What is called in the midst of a forward pass and computes in 32 bits all the same."""
    return _under(summed, enabled=False)


def _under(called: Callable[_Given, _Found], *, enabled: bool) -> Callable[_Given, _Found]:
    @wraps(called)
    def run(*args: _Given.args, **kwargs: _Given.kwargs) -> _Found:
        with _autocast(current(), enabled=enabled):
            return called(*args, **kwargs)

    return run


def _autocast(compute: Compute, *, enabled: bool) -> AbstractContextManager[object]:
    if compute.precision == torch.float32:
        return nullcontext()
    return torch.autocast(compute.device.type, dtype=compute.precision, enabled=enabled)


def device_of(model: nn.Module) -> torch.device:
    """Where a model is, all of which is in one place."""
    return next(model.parameters()).device
