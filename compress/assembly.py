"""Candidates put together in place: one model takes the shapes and values of plan after plan.

What is stored of a sublayer depends on its own option and on how many sublayers right behind it are removed, on nothing
else. So it comes in two pieces from the shelf: the last matrix, which makes up for what is removed, and the matrices
that feed it. Layers of the model are really narrowed. What the plan before had is left where it is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.gptq import Hessian, moved
from compress.pipeline import Bank
from compress.prune import Refit, blocks_of, compensated, kept_columns, kept_of, removed_behind, rows_of, tower_of
from compress.recent import Recent
from compress.shelf import Piece, Shelf
from compress.units import bias, encode_matrix, matrix, stored_values, weight
from models import modeling_tightfit as reader
from models.anatomy import Place, decoder, places, tied
from models.devices import HOST, device_of
from models.loading import Source, renumber_ids
from space.plan import Plan, uniform_plan
from space.rates import WHOLE
from space.size import Unit, units

# Of decoded pieces, and of Hessians, where the model is.
_DECODED_BYTES, _NEAR_BYTES = 2 * 10**9, 4 * 10**9


@dataclass(frozen=True)
class Assembled:
    """A model that computes what a plan's checkpoint would, unhealed, and by unit what its values are called.

    Units of two plans that are called the same have the same values. The model is good until the next is assembled.
    """

    model: PreTrainedModel
    values: dict[str, str]


@dataclass(frozen=True)
class _Part:
    """Matrices of a unit, from number `first` on, and norms; the `last` one reads heads or channels."""

    first: int
    matrices: tuple[nn.Module, ...]
    norms: tuple[nn.Module, ...]
    last: bool = False

    @property
    def owner(self) -> nn.Module:
        """The module that stands for the part."""
        return (*self.matrices, *self.norms)[0]

    @property
    def slots(self) -> list[tuple[nn.Module, str]]:
        """Where its values are: weights of matrices, then biases and norms."""
        vectors = reader.vector_owners(self.matrices, self.norms)
        return [*((module, "weight") for module in self.matrices), *vectors]


def _parts(place: Place) -> tuple[_Part, ...]:
    """Of a sublayer what feeds its last matrix, and that one; all of any other unit."""
    if "." not in place.name:
        return (_Part(0, place.matrices, place.norms),)
    feeding = _Part(0, place.matrices[:-1], place.norms)
    return feeding, _Part(len(place.matrices) - 1, place.matrices[-1:], (), last=True)


class Assembler:
    """Puts plans together from pieces; what is on no shelf is pruned, compensated and quantised on the way.

    A coded matrix takes up to a share `tolerance` less than its rate allows. Pieces are in host memory, and what they
    are made of and decoded to where the source's model is.
    """

    def __init__(self, source: Source, bank: Bank, shelf: Shelf, tolerance: float) -> None:
        self.source, self.bank, self.shelf, self.tolerance = source, bank, shelf, tolerance
        self._whole = {place.name: place for place in places(source.model, uniform_plan(source.layout, WHOLE))}
        self._shells: dict[int, PreTrainedModel] = {}
        self._layers: dict[tuple[str, int, int, int], nn.Module] = {}
        self._decoded: Recent[str, tuple[nn.Parameter, ...]] = Recent(_DECODED_BYTES)
        self._holds: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
        self._narrowed: tuple[tuple[str, int], Hessian] | None = None
        self._near: Recent[str, tuple[Hessian, ...]] = Recent(_NEAR_BYTES)
        self._device = device_of(source.model)

    @torch.no_grad()
    def assembled(self, plan: Plan) -> Assembled:
        """The plan's model; healing is left out."""
        model = self._shaped(plan)
        called = {}
        for unit, place in zip(units(self.source.layout, plan), places(model, plan), strict=True):
            parts = _parts(place)
            names = [self._name(unit, part, plan) for part in parts]
            for name, part in zip(names, parts, strict=True):
                if self._holds.get(part.owner) != name:
                    for (owner, key), values in zip(part.slots, self._values_of(name, unit, part, plan), strict=True):
                        setattr(owner, key, values)
                    self._holds[part.owner] = name
            called[unit.name] = " ".join(names)
        if tied(self.source.model):
            model.lm_head.weight = decoder(model).embed_tokens.weight
        return Assembled(model, called)

    @torch.no_grad()
    def prepare(self, plan: Plan, name: str) -> int:
        """Sees to it that the pieces of one unit of a plan are on the shelf; how many were not."""
        before = self.shelf.made
        unit = next(unit for unit in units(self.source.layout, plan) if unit.name == name)
        for part in _parts(self._whole[name]):
            called = self._name(unit, part, plan)
            if not self.shelf.has(called):
                self._piece(called, unit, part, plan)
        return self.shelf.made - before

    def called(self, plan: Plan, name: str) -> str:
        """What the values of a unit of a plan are called."""
        unit = next(unit for unit in units(self.source.layout, plan) if unit.name == name)
        return " ".join(self._name(unit, part, plan) for part in _parts(self._whole[name]))

    def _shaped(self, plan: Plan) -> PreTrainedModel:
        """The shell of the plan's vocabulary with layers in the plan's shapes."""
        if plan.vocabulary not in self._shells:
            whole = self.source.model
            # configs are copied, since they change; values are not
            shell = copy.deepcopy(whole, {id(x): x for x in (*whole.parameters(), *whole.buffers())})
            renumber_ids(shell, self.source.vocabulary, plan.vocabulary)
            reader.trim(shell, plan.vocabulary)
            self._shells[plan.vocabulary] = shell
        shell = self._shells[plan.vocabulary]
        used: dict[tuple[str, int, int, int], nn.Module] = {}
        for name, tower in reader.stacks(shell):
            shapes = [(name, i, x.attention.kept, x.ffn.kept) for i, x in enumerate(getattr(plan, name))]
            layers = {shape: self._layer(*shape) for shape in shapes if any(shape[2:])}
            tower.layers = nn.ModuleList(layers.values())
            used |= layers
        self._layers = used
        reader.renumber(decoder(shell))
        return shell

    def _layer(self, tower: str, index: int, heads: int, channels: int) -> nn.Module:
        """The layer in this shape: the one the plan before had, or a new one without values of its own."""
        if known := self._layers.get((tower, index, heads, channels)):
            return known
        layer = _sharing(dict(reader.stacks(self.source.model))[tower].layers[index])
        reader.carve_layer(layer, heads, channels)
        return layer

    def _name(self, unit: Unit, part: _Part, plan: Plan) -> str:
        """What a part of a unit is called: everything its values depend on."""
        words = [unit.name, str(unit.rate)]
        if tower_of(unit.name, self.source.layout):
            words.append(f"{'last' if part.last else 'feeding'} of {kept_of(unit.name, plan)}")
            if part.last and (run := removed_behind(unit.name, plan)):
                words.append(f"{len(run)} removed behind")
        elif unit.name in ("embedding", "lm_head"):
            words.append(f"{plan.vocabulary} tokens")
        return ", ".join(words)

    def _values_of(self, name: str, unit: Unit, part: _Part, plan: Plan) -> tuple[nn.Parameter, ...]:
        """A part's values in float32, as they are read back, in the order of its slots."""
        found = self._decoded.get(name)
        if found is None:
            piece = self._piece(name, unit, part, plan)
            shapes = [weight(module).shape for module in part.matrices]
            found_matrices = (stored_values(x, self._device) for x in piece.matrices)
            matrices = [x.view(shape) for x, shape in zip(found_matrices, shapes, strict=True)]
            values = (*matrices, *(vector.to(self._device).float() for vector in piece.vectors))
            found = tuple(nn.Parameter(x, requires_grad=False) for x in values)
            self._decoded.put(name, found, sum(x.nbytes for x in values))
        return found

    def _piece(self, name: str, unit: Unit, part: _Part, plan: Plan) -> Piece:
        return self.shelf.piece(name, lambda: self._made(unit, part, plan))

    def _made(self, unit: Unit, part: _Part, plan: Plan) -> Piece:
        """A piece of a unit, from the source's weights."""
        whole, hessians = self._whole[unit.name], self._hessians(unit.name)
        place = _parts(whole)[int(part.last)]
        tower = tower_of(unit.name, self.source.layout)
        if tower is None:
            return self._made_table(unit, place, plan)
        kept, block = kept_of(unit.name, plan), blocks_of(unit.name, tower)
        columns = kept_columns(self.bank.orders[unit.name], kept, block).to(self._device)
        norms = [vector for norm in place.norms for vector in norm.parameters()]
        if not part.last:
            rows = rows_of(whole, tower, columns)
            matrices = [matrix(module)[stay] for module, stay in zip(place.matrices, rows, strict=True)]
            biases = [bias(module) for module in place.matrices]
            stay_in = [None if one is None else one[stay] for one, stay in zip(biases, rows, strict=True)]
            return self._encoded(unit, place, matrices, hessians, [*stay_in, *norms])
        run, last = removed_behind(unit.name, plan), place.matrices[0]
        refit = Refit(matrix(last), bias(last))
        if run or len(columns) < hessians[-1].columns:
            gone = self.bank.behind[unit.name].of(len(run)).to(self._device) if run else None
            refit = compensated(refit.matrix, hessians[-1], columns, bias=refit.bias, gone=gone)
        narrowed = self._narrow(unit.name, hessians[-1], columns)
        return self._encoded(unit, place, [refit.matrix], (narrowed,) * len(whole.matrices), [refit.bias])

    def _made_table(self, unit: Unit, part: _Part, plan: Plan) -> Piece:
        """A unit that is no sublayer; of embedding and lm_head the rows of the tokens that stay."""
        matrices, hessians = [matrix(module) for module in part.matrices], self._hessians(unit.name)
        if unit.name in ("embedding", "lm_head") and plan.vocabulary < self.source.vocabulary.rows:
            rows = torch.tensor(self.source.vocabulary.kept(plan.vocabulary)).to(self._device)
            matrices = [matrices[0][rows]]
            hessians = (hessians[0].of(rows),) if unit.name == "embedding" else hessians
        return self._encoded(unit, part, matrices, hessians, reader.vectors(part.matrices, part.norms))

    def _encoded(
        self,
        unit: Unit,
        part: _Part,
        matrices: Sequence[Tensor],
        hessians: Sequence[Hessian],
        vectors: Sequence[Tensor | None],
    ) -> Piece:
        stored = [
            encode_matrix(values, unit, part.first + i, hessians[part.first + i], self.tolerance)
            for i, values in enumerate(matrices)
        ]
        return Piece(tuple(stored), tuple(x.detach().bfloat16().to(HOST) for x in vectors if x is not None))

    def _hessians(self, name: str) -> tuple[Hessian, ...]:
        """Of a unit's matrices, where the model is; the last ones are kept, so that options share their factors."""
        found = self._near.get(name)
        if found is None:
            found = moved(self.bank.hessians.get(name, ()), self._device)
            self._near.put(name, found, sum(one.moments.nbytes for one in dict.fromkeys(found)))
        return found

    def _narrow(self, name: str, hessian: Hessian, columns: Tensor) -> Hessian:
        """The Hessian of the columns that stay; the last one is kept, so that neighbouring rates share its factor."""
        if len(columns) == hessian.columns:
            return hessian
        if self._narrowed is None or self._narrowed[0] != (name, len(columns)):
            self._narrowed = (name, len(columns)), hessian.of(columns)
        return self._narrowed[1]


def _sharing(module: nn.Module) -> nn.Module:
    """A copy of a module that has what the original has, until its own children and parameters are replaced."""
    copied = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"):
        copied.__dict__[name] = copy.copy(module.__dict__[name])
    for name, child in module.named_children():
        copied._modules[name] = _sharing(child)
    return copied
