"""A device that is on every machine: its tensors lie in host memory, and may no more be mixed with others than a GPU's.

Its tensors say that they are on torch's device type "lazy", for which a usual build has no backend. While `elsewhere`
lasts, every operation on them is carried out by the CPU on what they hold, and one that is also given a tensor of the
host fails, as it would on a GPU. What a GPU lets pass, numbers without dimensions and copies from place to place,
passes here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from models.devices import HOST, Compute, computing

ELSEWHERE = torch.device("lazy", 0)
# These read or write across.
_CROSSING = (torch.ops.aten.copy_, torch.ops.aten._to_copy, torch.ops.aten.to)


class Away(Tensor):
    """A tensor of the device, with what it holds in host memory."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Away:
        found: Away = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=ELSEWHERE,
        )
        found.held = held
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carried_out(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied = self.detach().clone()
            memo[id(self)] = nn.Parameter(copied, self.requires_grad) if isinstance(self, nn.Parameter) else copied
        found: Tensor = memo[id(self)]
        return found


class _Made(TorchFunctionMode):
    """`torch.tensor` is the one maker of tensors that no dispatch mode sees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") is not None:
            return func(*args, **{**kwargs, "device": HOST}).to(kwargs["device"])
        return func(*args, **kwargs)


class _Everything(TorchDispatchMode):
    """Sees what makes tensors, too: no tensor of the device need be among what it is given."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carried_out(func, args, kwargs or {})


def _carried_out(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = list(tree_iter((args, kwargs)))
    given = [x for x in leaves if isinstance(x, Tensor)]
    away = any(isinstance(x, Away) for x in given)
    asked = next((x for x in leaves if isinstance(x, torch.device)), None)
    if away and func.overloadpacket not in _CROSSING:
        strays = [x for x in given if not isinstance(x, Away) and x.dim()]
        if strays:
            raise RuntimeError(
                f"{func}: {len(strays)} of {len(given)} tensors are in host memory, the others elsewhere"
            )
    known = {id(x.held) if isinstance(x, Away) else id(x): x for x in given}
    found = func(*tree_map(_at_home, args), **tree_map(_at_home, kwargs))
    there = away if asked is None else asked.type == ELSEWHERE.type

    def placed(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        same = known.get(id(x))
        # what was changed in place, or is there already, is what was given
        if same is not None and (asked is None or isinstance(same, Away) == there):
            return same
        return Away(x) if there else x

    return tree_map(placed, found)


def _at_home(x: Any) -> Any:
    if isinstance(x, torch.device) and x.type == ELSEWHERE.type:
        return HOST
    return x.held if isinstance(x, Away) else x


@contextmanager
def elsewhere() -> Iterator[None]:
    """Within, models are loaded to the device and run there."""
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters that are tied stay so, as on a GPU
    try:
        with computing(Compute(ELSEWHERE)), _Made(), _Everything():
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapping)
