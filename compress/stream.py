"""A plan carried out on a model that memory does not hold: read, treated and written a sublayer at a time.

This is the sequential procedure of GPTQ (Frantar et al. 2022, arXiv 2210.17323, section 3): the Hessians of a sublayer
are measured on activations that come out of what is compressed already, its heads or channels are chosen, its matrices
encoded, and only then do the activations pass through it, in the values that are stored. Attention comes before the
FFN behind it. Within a sublayer the last matrix's inputs are those of the uncompressed ones before it. What removed
sublayers would have added is measured by running them on what the sublayer before them makes of the activations.

Tables have their own way, since a vocabulary can be larger than any layer: rows are read, quantised and dropped in
slices. As in `compress.importance`, an embedding's Hessian is how often calibration looks up each row of the source,
lm_head's is over the positions that predict a target.

What is at work is on the current device, everything else, tables too, in host memory.

Memory: a sublayer and its copy in float32, a removed one beside them, what encoding one matrix takes, and some three
copies in double precision of the Hessian of the FFN's channels (`compress.gptq.inverse_factor`); of a table the symbols
in 16 bits, twice. Activations lie in files, three at most, and are read an utterance at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.checkpoint import appear, folder_bytes
from compress.coding import TOLERANCE
from compress.gptq import Hessian
from compress.importance import Added, Sum, hessians_of, watched
from compress.ledger import DATA, Ledger, read_states, write_states
from compress.passes import attend, embed, enter, feed_decoder, feed_encoder, listen, project
from compress.prune import blocks_of, kept_columns, kept_of, move, order_of, removed_behind, tower_of
from compress.tables import TableRows, encode_table, looked_up
from compress.units import encode, put, to_bytes
from models.anatomy import audio_tower, carved_copy, decoder, places
from models.devices import HOST, current, in_precision
from models.inputs import Batch, Row, make_batch
from models.layouts import canonical_name
from models.loading import empty_model, pad_token, renumber_ids
from models.modeling_tightfit import PLAN, WEIGHTS, present
from models.packaging import summed
from models.shards import Shards, open_shards
from models.vocabulary import Vocabulary
from space.layout import Layout
from space.plan import Plan, uniform_plan
from space.rates import WHOLE
from space.size import Unit, units

# In the order in which activations pass; the norms behind the towers are used from the start and stored last.
_STAGES = ("convolutions", "encoder", "projector", "embedding", "decoder", "lm_head", "norms")
_COPY_BYTES = 2**24
_BEHIND = "states-behind.bin"

# What a unit makes of the activations before it (None where there are none yet), residual included.
Run = Callable[[Tensor | None, Batch], Tensor]


@dataclass(frozen=True)
class Task:
    """A plan for the model in `shards`. `batches`, one an utterance, hold ids of the tokens that stay.

    `lookups` are the same texts as ids of the source, padding included. `whole` and `carved` are the model's skeletons
    in the source's and the plan's shapes on torch's meta device; only what is at work has weights.
    """

    shards: Shards
    layout: Layout
    plan: Plan
    vocabulary: Vocabulary
    whole: PreTrainedModel
    carved: PreTrainedModel
    batches: Sequence[Batch]
    lookups: Tensor

    def units(self) -> list[Unit]:
        """The plan's units in the order in which they are treated."""
        return sorted(units(self.layout, self.plan), key=lambda unit: _STAGES.index(unit.name.partition(".")[0]))


def skeleton(folder: Path) -> PreTrainedModel:
    """A model of a folder's config without weights; the rotary embedding is real, on meta it would hold nothing."""
    with torch.device("meta"):
        model = empty_model(folder)
    decoder(model).rotary_emb = type(decoder(model).rotary_emb)(decoder(model).config).to(current().device)
    return model


def make_task(
    folder: Path, plan: Plan, *, layout: Layout, vocabulary: Vocabulary, groups: Sequence[Sequence[Row]]
) -> Task:
    """What is needed to carry a plan out on a folder's model; `groups` are rows of one utterance each, as the source
    spells them.

    Raises UserError naming a shard or a tensor that is not there, or is damaged, or has another shape.
    """
    shards, whole = open_shards(folder), skeleton(folder)
    shards.check({name: tuple(parameter.shape) for name, parameter in whole.named_parameters()})
    carved = carved_copy(whole, plan)
    renumber_ids(carved, vocabulary, plan.vocabulary)
    lookups = torch.cat([make_batch(rows, pad_token(whole)).ids.reshape(-1) for rows in groups])
    pieces = None if plan.vocabulary == vocabulary.rows else vocabulary.pieces(plan.vocabulary)
    batches = [make_batch([_respelt(row, pieces) for row in rows], pad_token(carved)) for rows in groups]
    return Task(shards, layout, plan, vocabulary, whole, carved, batches, lookups)


def _respelt(row: Row, pieces: Sequence[tuple[int, ...]] | None) -> Row:
    """A row in the tokens that stay."""
    if pieces is None:
        return row
    prompt, target = (tuple(new for old in ids for new in pieces[old]) for ids in (row.prompt, row.target))
    return Row(row.speech, prompt, target)


def memory_bound(layout: Layout) -> int:
    """Promise: host memory stays under three of the largest layers or tables in float32, and 2 GiB.

    Computed for Qwen2-Audio-7B's shapes: some 8 of 10 GB. Where the FFN's squared channels outgrow the tables,
    as in decoders of 70B with 28,672 of them, the factor of one Hessian alone takes more.
    """
    tables = [linear.parameters for name in layout.tables for linear in layout.table(name, layout.vocabulary)]
    layers = [tower.parameters // tower.layers for tower in layout.towers]
    return 3 * 4 * max(*tables, *layers) + 2 * 2**30


@torch.no_grad()
def stream(
    task: Task, ledger: Ledger, progress: Callable[[str], None] = lambda _unit: None, tolerance: float = TOLERANCE
) -> Ledger:
    """Carries the plan out from the unit that was reached. `progress` is told each unit before it is begun.

    Raises UserError naming a tensor that holds NaN or whose shard is damaged, OSError where the disk is full.
    """
    smith = _Smith(task, tolerance)
    for unit in task.units()[len(ledger.done) :]:
        progress(unit.name)
        ledger = smith.carry(unit, ledger)
    return ledger


class _Smith:
    """The two skeletons at work: where their units live, and what is loaded of them."""

    def __init__(self, task: Task, tolerance: float) -> None:
        self.task, self.tolerance = task, tolerance
        whole_plan = uniform_plan(task.layout, WHOLE)
        self.whole = {place.name: place for place in places(task.whole, whole_plan)}
        self.carved = {place.name: place for place in places(task.carved, task.plan)}
        self.names = {id(module): name for name, module in task.whole.named_modules()}
        self.shell = deepcopy(decoder(task.carved))
        self.shell.norm, self.shell.config.num_hidden_layers = nn.Identity(), 1
        norms = next(unit for unit in task.units() if unit.name == "norms")
        self._load("norms")
        self.norms = encode(norms, self.carved["norms"], ())
        put(self.norms, self.carved["norms"])

    def carry(self, unit: Unit, ledger: Ledger) -> Ledger:
        """One unit measured, pruned, encoded and noted, and the activations passed through what is stored."""
        if unit.name == "norms":
            return ledger.after(unit.name, to_bytes(self.norms))
        if unit.name in ("embedding", "lm_head"):
            return self._carry_table(unit, ledger)
        carved = self.carved[unit.name]
        self._load(unit.name)
        hessians = self._measured(unit.name, ledger)
        hessians = self._pruned(unit.name, hessians, self._gone(unit.name, ledger))
        weights = encode(unit, carved, hessians, self.tolerance)
        put(weights, carved)
        run = self._run(unit.name, self.task.carved, self.task.plan)
        states = map(run, ledger.states(), self.task.batches)
        ledger = ledger.after(unit.name, to_bytes(weights), states)
        self._unload(unit.name)
        return ledger

    def _load(self, name: str) -> None:
        """Gives a unit of the source its weights; its carved form, if any, shares those whose shapes are the same."""
        whole, carved = self.whole[name], self.carved.get(name)
        for old in (*whole.matrices, *whole.norms):
            for key, _ in list(old.named_parameters()):
                values = self.task.shards.tensor(canonical_name(f"{self.names[id(old)]}.{key}")).to(current().device)
                setattr(old, key, nn.Parameter(values, requires_grad=False))
        if carved is None:
            return
        for old, new in zip((*whole.matrices, *whole.norms), (*carved.matrices, *carved.norms), strict=True):
            for key, like in list(new.named_parameters()):
                values = old.get_parameter(key).data
                same = values if like.shape == values.shape else values.new_empty(like.shape)
                setattr(new, key, nn.Parameter(same, requires_grad=False))

    def _unload(self, name: str) -> None:
        for place in (self.whole[name], *([self.carved[name]] if name in self.carved else [])):
            for module in (*place.matrices, *place.norms):
                module.to("meta")

    def _measured(self, name: str, ledger: Ledger) -> tuple[Hessian, ...]:
        """Hessians of the unit's matrices behind what is compressed so far."""
        with ExitStack() as hooks:
            running = watched(self.whole[name], hooks)
            run = self._run(name, self.task.whole, uniform_plan(self.task.layout, WHOLE))
            for state, batch in zip(ledger.states(), self.task.batches, strict=False):
                run(state, batch)
        found = hessians_of(running)
        for hessian in dict.fromkeys(found):
            hessian.findings(name)
        return found

    def _gone(self, name: str, ledger: Ledger) -> Added | None:
        """What the removed sublayers behind the unit would add, against the inputs of its last matrix."""
        removed = removed_behind(name, self.task.plan) if tower_of(name, self.task.layout) else []
        if not removed:
            return None
        plan, path, batches = uniform_plan(self.task.layout, WHOLE), ledger.folder / _BEHIND, self.task.batches
        run = self._run(name, self.task.whole, plan)
        shapes = write_states(path, map(run, ledger.states(), batches))
        for other in removed:
            self._load(other)
            passed = map(self._run(other, self.task.whole, plan), read_states(path, shapes), batches)
            shapes = write_states(path.with_suffix(".next"), passed)
            path.with_suffix(".next").replace(path)
            self._unload(other)
        last = self.whole[name].matrices[-1]
        inputs: list[Tensor] = []
        moments, mean, count, device = torch.zeros(()), torch.zeros(()), 0, current().device
        with ExitStack() as hooks:
            seen = last.register_forward_pre_hook(
                lambda _, seen: inputs.append(seen[0].float().reshape(-1, seen[0].shape[-1]))
            )
            hooks.callback(seen.remove)
            for state, batch, after in zip(ledger.states(), batches, read_states(path, shapes), strict=False):
                added = (after - run(state, batch)).to(device).reshape(-1, after.shape[-1])
                moments, mean, count = moments + inputs.pop().T @ added, mean + added.sum(0), count + len(added)
        path.unlink()
        return Added(moments / count, mean / count)

    def _pruned(self, name: str, hessians: tuple[Hessian, ...], gone: Added | None) -> tuple[Hessian, ...]:
        """Moves what stays into the carved unit; the Hessians of what stays."""
        tower = tower_of(name, self.task.layout)
        if tower is None:
            return hessians
        whole, block, kept = self.whole[name], blocks_of(name, tower), kept_of(name, self.task.plan)
        count = hessians[-1].columns // block
        order = order_of(whole, hessians[-1], block) if kept < count else torch.arange(count)
        columns = kept_columns(order, kept, block)
        return move(whole, self.carved[name], tower, columns=columns, hessians=hessians, gone=gone)

    def _run(self, name: str, model: PreTrainedModel, plan: Plan) -> Run:
        """How activations, in host memory before and behind, pass a unit of a skeleton in the shapes of `plan`."""
        return partial(_passed, self._way(name, model, plan))

    def _way(self, name: str, model: PreTrainedModel, plan: Plan) -> Run:
        part, _, rest = name.partition(".")
        if part == "convolutions":
            return partial(enter, audio_tower(model))
        if part == "projector":
            return partial(project, model)
        index, kind = rest.split(".")
        stack = audio_tower(model) if part == "encoder" else decoder(model)
        layers = json.loads(plan.to_json())[part]
        layer = stack.layers[present(layers).index(int(index))]
        ways: dict[tuple[str, str], Run] = {
            ("encoder", "attention"): partial(listen, layer),
            ("encoder", "ffn"): partial(feed_encoder, layer),
            ("decoder", "attention"): partial(attend, self.shell, layer),
            ("decoder", "ffn"): partial(feed_decoder, layer),
        }
        return ways[part, kind]

    def _carry_table(self, unit: Unit, ledger: Ledger) -> Ledger:
        kept = torch.tensor(self.task.vocabulary.kept(self.task.plan.vocabulary))
        place, batches = self.whole[unit.name], self.task.batches
        table = TableRows(self.task.shards, f"{self.names[id(place.matrices[0])]}.weight", kept)
        running = Sum(place.matrices[0])
        if unit.name == "lm_head":
            for state, batch in zip(ledger.states(), batches, strict=False):
                assert state is not None
                hidden = decoder(self.task.carved).norm(state.to(current().device))[:, :-1]
                running.add(place.matrices[0], (hidden[batch.predicts.to(hidden.device)],))
            _, data = encode_table(unit, table, running.hessian().to(HOST), self.tolerance)
            return ledger.after(unit.name, data)
        running.add(place.matrices[0], (self.task.lookups,))
        stored, data = encode_table(unit, table, running.hessian().of(kept), self.tolerance)
        ids = torch.from_numpy(np.unique(np.concatenate([batch.ids.reshape(-1).numpy() for batch in batches])))
        run = partial(embed, ids, looked_up(stored, ids), getattr(self.task.carved.config, "audio_token_index", -1))
        return ledger.after(unit.name, data, map(run, ledger.states(), batches))


def _passed(way: Run, state: Tensor | None, batch: Batch) -> Tensor:
    device = current().device
    passed = in_precision(way)(None if state is None else state.to(device), batch.to(device))
    return passed.float().to(HOST)


def write_streamed(out: Path, task: Task, ledger: Ledger) -> int:
    """The checkpoint of a finished ledger, which appears whole; returns its bytes as `stat` gives them."""
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    _write_weights(ledger, temporary / WEIGHTS)
    (temporary / PLAN).write_text(task.plan.to_json())
    for name, data in task.vocabulary.fixed_files(task.plan.vocabulary).items():
        (temporary / name).write_bytes(data)
    summed(temporary)
    appear(temporary, out)
    return folder_bytes(out)


def _write_weights(ledger: Ledger, path: Path) -> None:
    """A safetensors file of U8 vectors in the order of their names, as `space.size.header_bytes` counts it."""
    sizes = dict(ledger.done)
    starts = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
    header, offset = {}, 0
    for name in sorted(sizes):
        header[name] = {"dtype": "U8", "shape": [sizes[name]], "data_offsets": [offset, offset + sizes[name]]}
        offset += sizes[name]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file, (ledger.folder / DATA).open("rb") as data:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(sizes):
            data.seek(starts[name])
            for done in range(0, sizes[name], _COPY_BYTES):
                file.write(data.read(min(_COPY_BYTES, sizes[name] - done)))
