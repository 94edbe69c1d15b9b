"""A plan carried out on a model that memory does not hold: read, treated and written a sublayer at a time.

This is the sequential procedure of GPTQ (Frantar et al. 2022, arXiv 2210.17323, section 3): the Hessians of a sublayer
are measured on activations that come out of what is compressed already, its heads or channels are chosen, its matrices
encoded, and only then do the activations pass through it, in the values that are stored. Attention comes before the
FFN behind it. Within a sublayer the last matrix's inputs are those of the uncompressed ones before it. What removed
sublayers would have added is measured by running them on what the sublayer before them makes of the activations.

Tables have their own way, since a vocabulary can be larger than any layer: rows are read, quantised and dropped in
slices. As in `compress.importance`, an embedding's Hessian is how often calibration looks up each row of the source,
lm_head's is over the positions that predict a target.

Memory: a sublayer and its copy in float32, what encoding one matrix takes, and some five copies in double precision of
the Hessian of the FFN's channels (`Hessian.factor`); of a table the symbols in 16 bits, twice. Activations lie in a
file and are read an utterance at a time.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.checkpoint import appear, folder_bytes
from compress.coding import (
    _LARGEST_SYMBOL,
    _ROW_GRIDS,
    TOLERANCE,
    CodedMatrix,
    _Table,
    _table,
    _Target,
    code_matrix,
    stream_bytes,
    write_stream,
)
from compress.gptq import Hessian, round_with_feedback
from compress.importance import Sum, hessians_of, watched
from compress.prune import blocks_of, kept_columns, kept_of, move, order_of, removed_behind, tower_of
from compress.quantize import PackedMatrix, quantize
from compress.units import Matrix, UnitWeights, encode, put, to_bytes
from models.anatomy import audio_tower, carved_copy, decoder, places
from models.inputs import Batch, Row, SpeechBatch, make_batch
from models.layouts import canonical_name
from models.loading import empty_model, pad_token, renumber_ids
from models.modeling_tightfit import COLUMN_GRID, PLAN, WEIGHTS, present
from models.packaging import summed
from models.shards import Shards, open_shards
from models.vocabulary import Vocabulary
from space.layout import Layout
from space.plan import Plan, uniform_plan
from space.rates import WHOLE, Coded
from space.size import Unit, linear_bytes, units

# In the order in which activations pass; the norms behind the towers are used from the start and stored last.
_STAGES = ("convolutions", "encoder", "projector", "embedding", "decoder", "lm_head", "norms")
# Entries of a table that are in memory at once, in float32; a table of no more is coded as every other matrix is.
_SLICE_ENTRIES = 2**24
_COPY_BYTES = 2**24
_MOST_PASSES = 10
_DATA, _PROGRESS, _BEHIND = "data.bin", "progress.json", "behind.bin"

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
    decoder(model).rotary_emb = type(decoder(model).rotary_emb)(decoder(model).config)
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


@dataclass(frozen=True)
class Ledger:
    """What is done, in a folder: encoded units one after the other, and the activations behind the last of them.

    `shapes` are those of the activations, an utterance each, in the file that was written with unit `behind`. What
    progress.json does not name yet is not done: it is replaced when all else is on disk.
    """

    folder: Path
    key: str
    done: tuple[tuple[str, int], ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    behind: int = 0

    def states(self) -> Iterator[Tensor | None]:
        """The activations, utterance by utterance; None for each before there are any."""
        return _read_states(self._states(self.behind), self.shapes) if self.shapes else repeat(None)

    def after(self, name: str, data: bytes, states: Iterable[Tensor] | None = None) -> Ledger:
        """With one more unit, and the activations behind it if they are others."""
        with (self.folder / _DATA).open("r+b" if self.done else "wb") as file:
            file.seek(sum(size for _, size in self.done))
            file.truncate()
            file.write(data)
            _flush(file)
        found = replace(self, done=(*self.done, (name, len(data))))
        if states is not None:
            found = replace(found, behind=len(found.done))
            found = replace(found, shapes=_write_states(found._states(found.behind), states))
        temporary = self.folder / f".{_PROGRESS}.tmp"
        with temporary.open("wb") as file:
            fields = {"key": found.key, "done": found.done, "shapes": found.shapes, "behind": found.behind}
            file.write(json.dumps(fields).encode())
            _flush(file)
        temporary.replace(self.folder / _PROGRESS)
        if found.behind != self.behind:
            self._states(self.behind).unlink(missing_ok=True)
        return found

    def _states(self, unit: int) -> Path:
        return self.folder / f"states-{unit}.bin"


def open_ledger(folder: Path, key: str) -> Ledger:
    """What an earlier run with the same `key` did; where there is none, or it had another key, nothing yet."""
    try:
        raw = json.loads((folder / _PROGRESS).read_bytes())
        done = tuple((str(name), int(size)) for name, size in raw["done"])
        found = Ledger(folder, str(raw["key"]), done, tuple(map(tuple, raw["shapes"])), int(raw["behind"]))
        if found.key == key and (folder / _DATA).stat().st_size >= sum(size for _, size in done):
            return found
    except (OSError, ValueError, TypeError, KeyError):
        pass  # never begun, or cut off before the first unit
    for path in (folder / _PROGRESS, folder / _DATA, *folder.glob("states-*.bin")):
        path.unlink(missing_ok=True)
    return Ledger(folder, key)


def _write_states(path: Path, states: Iterable[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Writes activations one after the other; their shapes."""
    shapes = []
    with path.open("wb") as file:
        for one in states:
            file.write(one.contiguous().numpy().tobytes())
            shapes.append(tuple(one.shape))
        _flush(file)
    return tuple(shapes)


def _read_states(path: Path, shapes: Iterable[tuple[int, ...]]) -> Iterator[Tensor]:
    with path.open("rb") as file:
        for shape in shapes:
            yield torch.from_numpy(np.fromfile(file, dtype=np.float32, count=math.prod(shape))).view(shape)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


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
                values = self.task.shards.tensor(canonical_name(f"{self.names[id(old)]}.{key}"))
                setattr(old, key, nn.Parameter(values, requires_grad=False))
        if carved is None:
            return
        for old, new in zip((*whole.matrices, *whole.norms), (*carved.matrices, *carved.norms), strict=True):
            for key, like in list(new.named_parameters()):
                values = old.get_parameter(key).data
                same = values if like.shape == values.shape else torch.empty(like.shape)
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

    def _gone(self, name: str, ledger: Ledger) -> tuple[Tensor, Tensor] | None:
        """E[x o^T] and E[o] for the inputs x of the unit's last matrix and what the removed sublayers behind it add."""
        removed = removed_behind(name, self.task.plan) if tower_of(name, self.task.layout) else []
        if not removed:
            return None
        plan, path, batches = uniform_plan(self.task.layout, WHOLE), ledger.folder / _BEHIND, self.task.batches
        run = self._run(name, self.task.whole, plan)
        shapes = _write_states(path, map(run, ledger.states(), batches))
        for other in removed:
            self._load(other)
            passed = map(self._run(other, self.task.whole, plan), _read_states(path, shapes), batches)
            shapes = _write_states(path.with_suffix(".next"), passed)
            path.with_suffix(".next").replace(path)
            self._unload(other)
        last = self.whole[name].matrices[-1]
        inputs: list[Tensor] = []
        hook = last.register_forward_pre_hook(lambda _, seen: inputs.append(seen[0].reshape(-1, seen[0].shape[-1])))
        moments, mean, count = torch.zeros(()), torch.zeros(()), 0
        for state, batch, after in zip(ledger.states(), batches, _read_states(path, shapes), strict=False):
            added = (after - run(state, batch)).reshape(-1, after.shape[-1])
            moments, mean, count = moments + inputs.pop().T @ added, mean + added.sum(0), count + len(added)
        hook.remove()
        path.unlink()
        return moments / count, mean / count

    def _pruned(
        self, name: str, hessians: tuple[Hessian, ...], gone: tuple[Tensor, Tensor] | None
    ) -> tuple[Hessian, ...]:
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
        """How activations pass a unit of one of the skeletons, which has the shapes of `plan`."""
        part, _, rest = name.partition(".")
        if part == "convolutions":
            return partial(_enter, audio_tower(model))
        if part == "projector":
            return partial(_project, model)
        index, kind = rest.split(".")
        stack = audio_tower(model) if part == "encoder" else decoder(model)
        layers = json.loads(plan.to_json())[part]
        layer = stack.layers[present(layers).index(int(index))]
        ways: dict[tuple[str, str], Run] = {
            ("encoder", "attention"): partial(_listen, layer),
            ("encoder", "ffn"): lambda states, _: (
                states + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(states))))
            ),
            ("decoder", "attention"): partial(_attend, self.shell, layer),
            ("decoder", "ffn"): lambda states, _: states + layer.mlp(layer.post_attention_layernorm(states)),
        }
        return ways[part, kind]

    def _carry_table(self, unit: Unit, ledger: Ledger) -> Ledger:
        kept = torch.tensor(self.task.vocabulary.kept(self.task.plan.vocabulary))
        place, batches = self.whole[unit.name], self.task.batches
        table = _Rows(self.task.shards, f"{self.names[id(place.matrices[0])]}.weight", kept)
        running = Sum(place.matrices[0])
        if unit.name == "lm_head":
            for state, batch in zip(ledger.states(), batches, strict=False):
                running.add(place.matrices[0], (decoder(self.task.carved).norm(state)[:, :-1][batch.predicts],))
            _, data = _encode_table(unit, table, running.hessian(), self.tolerance)
            return ledger.after(unit.name, data)
        running.add(place.matrices[0], (self.task.lookups,))
        stored, data = _encode_table(unit, table, running.hessian().of(kept), self.tolerance)
        ids = torch.from_numpy(np.unique(np.concatenate([batch.ids.reshape(-1).numpy() for batch in batches])))
        run = partial(_embed, ids, _looked_up(stored, ids), getattr(self.task.carved.config, "audio_token_index", -1))
        return ledger.after(unit.name, data, map(run, ledger.states(), batches))


def _speech(batch: Batch) -> SpeechBatch:
    assert batch.speech is not None
    return batch.speech


# The next three are `models.inputs.encode_audio`, taken apart.
def _enter(tower: Any, _: Tensor | None, batch: Batch) -> Tensor:
    """What the convolutions make of mel features, positions added (utterances, frames / 2, hidden)."""
    features, frames = _speech(batch).features, _speech(batch).frames
    used = min(features.shape[2], (int(frames.max()) + 8 + 3) // 4 * 4)
    states = nn.functional.gelu(tower.conv1(features[:, :, :used]))
    states = nn.functional.gelu(tower.conv2(states)).permute(0, 2, 1)
    found: Tensor = states + tower.embed_positions(torch.arange(states.shape[1]))
    return found


def _listen(layer: Any, states: Tensor | None, batch: Batch) -> Tensor:
    """Attention of an encoder layer."""
    assert states is not None
    lengths, length = (_speech(batch).frames - 1) // 2 + 1, states.shape[1]
    keep = (torch.arange(length)[None] < lengths[:, None])[:, None, None, :].expand(-1, -1, length, -1)
    found: Tensor = states + layer.self_attn(layer.self_attn_layer_norm(states), keep)[0]
    return found


def _project(model: Any, states: Tensor | None, _: Batch) -> Tensor:
    """Pool, norm and projector behind the encoder."""
    assert states is not None
    tower = audio_tower(model)
    pooled = tower.avg_pooler(states.permute(0, 2, 1)).permute(0, 2, 1)
    found: Tensor = model.model.multi_modal_projector(tower.layer_norm(pooled))
    return found


def _embed(ids: Tensor, rows: Tensor, audio_token: int, audio: Tensor | None, batch: Batch) -> Tensor:
    """`models.inputs.embed` with the rows of `ids` (ascending) alone."""
    embeds = rows[torch.searchsorted(ids, batch.ids)]
    if audio is None:
        return embeds
    speech = _speech(batch)
    pieces = [audio[i, : int(speech.audio_tokens[i])] for i in speech.of_row.tolist()]
    return embeds.masked_scatter((batch.ids == audio_token)[..., None], torch.cat(pieces))


class _Attention(nn.Module):
    """Attention of a decoder layer, in the place of all its layers."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, **given: Any) -> Tensor:
        normed = self.layer.input_layernorm(hidden_states)
        found: Tensor = hidden_states + self.layer.self_attn(hidden_states=normed, **given)[0]
        return found


def _attend(shell: Any, layer: Any, states: Tensor | None, batch: Batch) -> Tensor:
    """Masks and positions are the decoder's own."""
    shell.layers = nn.ModuleList([_Attention(layer)])
    found: Tensor = shell(inputs_embeds=states, attention_mask=batch.mask, use_cache=False).last_hidden_state
    return found


@dataclass(frozen=True)
class _Rows:
    """A table's rows that stay, read slice by slice."""

    shards: Shards
    name: str
    kept: Tensor

    @property
    def columns(self) -> int:
        return self.shards.found[canonical_name(self.name)].shape[1]

    @property
    def entries(self) -> int:
        return len(self.kept) * self.columns

    def of(self, places: Tensor) -> Tensor:
        return self.shards.rows(self.name, self.kept[places])

    def slices(self) -> Iterator[tuple[slice, Tensor]]:
        """Where each slice stands among the rows that stay, and its weights in float32."""
        at_once = max(1, _SLICE_ENTRIES // self.columns)
        for start in range(0, len(self.kept), at_once):
            part = slice(start, min(len(self.kept), start + at_once))
            yield part, self.shards.rows(self.name, self.kept[part])


def _encode_table(unit: Unit, table: _Rows, hessian: Hessian, tolerance: float) -> tuple[Matrix, bytes]:
    """A table as stored, and its unit's bytes."""
    rate = unit.rate
    hessian.findings(unit.name)
    stored: Matrix
    if isinstance(rate, Coded):
        most_bytes = sum(linear_bytes(unit.linears[0], rate))
        if table.entries > _SLICE_ENTRIES:
            return _code_slices(table, hessian, most_bytes, tolerance)
        stored = code_matrix(table.of(torch.arange(len(table.kept))), hessian, most_bytes, tolerance)
    elif rate.bits == 16:
        stored = torch.cat([weights.bfloat16() for _, weights in table.slices()])
    else:
        parts = [quantize(weights, rate, hessian) for _, weights in table.slices()]
        codes, scales = torch.cat([x.codes for x in parts]), torch.cat([x.scales for x in parts])
        stored = PackedMatrix(codes, scales, rate)
    return stored, to_bytes(UnitWeights(unit, (stored,), ()))


def _looked_up(stored: Matrix, ids: Tensor) -> Tensor:
    """Rows of an embedding in float32, as they are read back."""
    if isinstance(stored, Tensor):
        return stored[ids].float()
    if isinstance(stored, PackedMatrix):
        return PackedMatrix(stored.codes[ids], stored.scales[ids], stored.rate).values()
    return replace(stored, symbols=stored.symbols[:, ids], of_columns=stored.of_columns[ids]).values()


def _code_slices(table: _Rows, hessian: Hessian, most_bytes: int, tolerance: float) -> tuple[CodedMatrix, bytes]:
    """`compress.coding.code_matrix` of a table that is read in slices, and its stream.

    The step begins with that of a sample of the rows; an octave more is about a bit an entry less.
    """
    sample = torch.arange(0, len(table.kept), -(-8 * table.entries // _SLICE_ENTRIES))
    lookup = hessian.moments.dim() == 1
    share = hessian.of(sample) if lookup else hessian
    log_step = math.log2(
        code_matrix(table.of(sample), share, most_bytes * len(sample) // len(table.kept), tolerance).step
    )
    bits, best = 8 * most_bytes / table.entries, None
    for _ in range(_MOST_PASSES):
        found = _with_step(table, hessian, 2.0**log_step)
        tables = _tables(found)
        taken = 8 * stream_bytes(tables) / table.entries
        if taken <= bits:
            best = found, tables
            if taken >= (1 - tolerance) * bits:
                break
        log_step += taken - (1 - tolerance / 2) * bits
    assert best is not None, f"{table.name}: no step found for {bits} bits"
    return best[0], _stream(*best)


def _with_step(table: _Rows, hessian: Hessian, step: float) -> CodedMatrix:
    """`_Target.with_step`, slice by slice."""
    lookup = hessian.moments.dim() == 1
    of_columns = _Target(torch.empty(0), hessian, even=False).of_columns
    relative = step * torch.exp2(of_columns.double() / COLUMN_GRID).float()
    symbols = torch.empty(len(table.kept), table.columns, dtype=torch.int16)
    along, power = (torch.empty(len(table.kept), dtype=torch.float64) for _ in range(2))
    for part, weights in table.slices():
        steps = relative[part, None] if lookup else relative

        def rounded(block: Tensor, offset: int, column: int, steps: Tensor = steps) -> Tensor:
            return (block[offset] / steps[column]).round_().mul_(steps[column])

        values = weights if lookup else round_with_feedback(weights, hessian.factor, rounded)
        found = (values / steps).round_().clamp_(-_LARGEST_SYMBOL, _LARGEST_SYMBOL)
        symbols[part] = found.to(torch.int16)
        values = found * steps
        weighted = values * hessian.moments[part, None] if lookup else values @ hessian.moments
        along[part], power[part] = (weighted * weights).sum(1), (weighted * values).sum(1)
    common = float((along.sum() / power.sum().clamp_min(1e-300)).clamp(0.5, 2.0))
    scales = torch.where(power > 0, along / power.clamp_min(1e-300) / common, 1.0).clamp(0.5, 2.0)
    exponents = torch.zeros(table.columns) if lookup else (_ROW_GRIDS[0] * scales.log2()).round()
    step = float(np.float32(step * common))
    return CodedMatrix(
        symbols.T if lookup else symbols, step, exponents.to(torch.int32), of_columns, _ROW_GRIDS[0], lookup
    )


def _tables(matrix: CodedMatrix) -> list[_Table]:
    """As `compress.coding._tables`, without joining neighbours: beside such a table's bytes frequencies are nothing."""
    classes = []
    for exponent in np.unique(matrix.of_columns.numpy()):
        counts = np.zeros(2 * _LARGEST_SYMBOL + 1, dtype=np.int64)
        for symbols in _columns(matrix, int(exponent)):
            counts += np.bincount(symbols.reshape(-1) + _LARGEST_SYMBOL, minlength=len(counts))
        there = np.flatnonzero(counts)
        end = max(there[-1], there[0] + 1) + 1  # the coder wants two symbols at least
        classes.append(_Table(int(exponent), int(there[0]) - _LARGEST_SYMBOL, counts[there[0] : end]))
    return [_table(matrix.of_rows.numpy()), _table(matrix.of_columns.numpy()), *classes]


def _columns(matrix: CodedMatrix, exponent: int, *, backwards: bool = False) -> Iterator[NDArray[np.int32]]:
    """Symbols of the columns with an exponent, some columns (columns, rows) at once."""
    chosen = np.flatnonzero(matrix.of_columns.numpy() == exponent)
    at_once = max(1, _SLICE_ENTRIES // matrix.symbols.shape[0])
    starts = range(0, len(chosen), at_once)
    for start in reversed(starts) if backwards else starts:
        yield matrix.symbols.numpy().T[chosen[start : start + at_once]].astype(np.int32)


def _stream(matrix: CodedMatrix, tables: Sequence[_Table]) -> bytes:
    parts = (
        (table, symbols) for table in reversed(tables[2:]) for symbols in _columns(matrix, table.last, backwards=True)
    )
    return write_stream(matrix, tables, parts)


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
    with path.open("wb") as file, (ledger.folder / _DATA).open("rb") as data:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(sizes):
            data.seek(starts[name])
            for done in range(0, sizes[name], _COPY_BYTES):
                file.write(data.read(min(_COPY_BYTES, sizes[name] - done)))
