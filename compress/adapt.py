"""Adaptation: the uncompressed model trained on references before it is compressed; its best state is kept.

LoRA: Hu et al. 2021 (arXiv 2106.09685).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.heal import _order, _targets
from models.anatomy import audio_tower
from models.devices import device_of
from models.inputs import Row, make_batch, target_logits
from models.loading import pad_token
from models.room import Room
from space.errors import UserError

# AdamW's moments, and what they are called in a State.
_MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}
# Of a step, and of a look at the held-out rows.
_TRAINING, _HELD_OUT = Room(), Room()


@dataclass(frozen=True)
class AdaptSettings:
    """`method` is one of METHODS, `rank` that of a LoRA; rows a step; `peak_rate` after the warm-up."""

    method: str
    steps: int
    rank: int
    peak_rate: float
    batch_rows: int
    seed: int

    @property
    def check_every(self) -> int:
        """Steps from one look at the held-out rows to the next."""
        return max(1, min(100, self.steps // 10))


@dataclass(frozen=True)
class State:
    """Training after `step` steps: held-out `losses` (nats a token) by step, from 0, and all tensors it goes on with.

    `tensors`, by the names of the parameters trained: `now/NAME`, `best/NAME`, AdamW's moments `first/NAME` and
    `second/NAME`. They are the training's own and change with its next step.
    """

    step: int
    losses: dict[int, float]
    tensors: dict[str, Tensor]

    @property
    def best_step(self) -> int:
        """The earliest step of the lowest loss."""
        return min(self.losses, key=self.losses.__getitem__)


def adapt(
    model: PreTrainedModel,
    rows: Sequence[Row],
    held_out: Sequence[Row],
    settings: AdaptSettings,
    *,
    start: State | None = None,
    keep: Callable[[State], None] = lambda _state: None,
    progress: Callable[[int], None] = lambda _step: None,
) -> tuple[PreTrainedModel, State]:
    """Trains a float32 model in place on the references; returns it in its best state, and the last state.

    `keep` is handed the state after every look at the held-out rows; with such a state as `start` training goes on to
    the same bits as without a stop, where memory is not short. Raises UserError where a loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        merge = METHODS[settings.method](model.eval(), settings)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=settings.peak_rate, betas=(0.9, 0.98), weight_decay=0.0)
    if start is None:
        losses, best = {0: _finite(mean_loss(model, held_out, settings.batch_rows), 0, settings)}, _copies(trained)
        state = State(0, losses, _tensors(trained, optimizer, best))
    else:
        state, best = start, {name: start.tensors[f"best/{name}"] for name in trained}
        _restore(trained, optimizer, start)
    batches_of_rows = _batches(rows, settings)
    for step in range(state.step, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.peak_rate * min((step + 1) / max(1, settings.steps // 10), 1 - step / settings.steps)
        _backward(model, batches_of_rows[step], optimizer)
        nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        progress(step + 1)
        if (step + 1) % settings.check_every == 0 or step + 1 == settings.steps:
            found = _finite(mean_loss(model, held_out, settings.batch_rows), step + 1, settings)
            if found < min(state.losses.values()):
                best = _copies(trained)
            state = State(step + 1, {**state.losses, step + 1: found}, _tensors(trained, optimizer, best))
            keep(state)
    _put(trained, best)
    return merge().requires_grad_(False).eval(), state


def _lora(model: PreTrainedModel, settings: AdaptSettings) -> Callable[[], PreTrainedModel]:
    """Adapters beside the matrices that healing adapts too; alone they are trained."""
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.rank, lora_dropout=0.0, target_modules=_targets(model), bias="none"
    )
    merge: Callable[[], PreTrainedModel] = get_peft_model(model, config).merge_and_unload
    return merge


def _full(model: PreTrainedModel, _settings: AdaptSettings) -> Callable[[], PreTrainedModel]:
    """Every parameter is trained, but for the encoder's fixed sinusoids."""
    model.requires_grad_(True)
    audio = audio_tower(model)
    if audio is not None:
        audio.embed_positions.requires_grad_(False)
    return lambda: model


# Each marks what is trained and returns what merges it into the model at the end.
METHODS: dict[str, Callable[[PreTrainedModel, AdaptSettings], Callable[[], PreTrainedModel]]] = {
    "lora": _lora,
    "full": _full,
}


def _batches(rows: Sequence[Row], settings: AdaptSettings) -> list[list[Row]]:
    """The rows of every step, from an endless shuffle; an utterance's directions share the encoder's pass."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(id(row.speech or row), []).append(row)
    utterances = list(groups.values())
    size = max(1, settings.batch_rows * len(utterances) // len(rows))
    order = _order(len(utterances), settings.steps * size, settings.seed)
    return [
        [row for index in order[step * size : (step + 1) * size] for row in utterances[index]]
        for step in range(settings.steps)
    ]


def _backward(model: PreTrainedModel, rows: Sequence[Row], optimizer: torch.optim.Optimizer) -> None:
    """The gradients of the mean cross-entropy of the references, in as many parts as there is memory for."""
    tokens = sum(len(row.target) for row in rows)

    def loss(part: Sequence[int]) -> Tensor:
        return _loss(model, [rows[i] for i in part]) / tokens

    _TRAINING.backward(rows, loss, optimizer.zero_grad)


@torch.no_grad()
def mean_loss(model: PreTrainedModel, rows: Sequence[Row], batch_rows: int) -> float:
    """Mean cross-entropy of the references, nats a token."""

    def summed(part: Sequence[int]) -> float:
        return float(_loss(model, [rows[i] for i in part]))

    batches = [range(len(rows))[start : start + batch_rows] for start in range(0, len(rows), batch_rows)]
    total = sum(found for batch in batches for _, found in _HELD_OUT.each(rows, batch, summed))
    return total / sum(len(row.target) for row in rows)


def _loss(model: PreTrainedModel, rows: Sequence[Row]) -> Tensor:
    """Summed over the rows' target tokens."""
    batch = make_batch(rows, pad_token(model)).to(device_of(model))
    return nn.functional.cross_entropy(target_logits(model, batch), batch.targets, reduction="sum")


def _finite(loss: float, step: int, settings: AdaptSettings) -> float:
    if not math.isfinite(loss):
        advice = (
            f"--rate {settings.peak_rate:g} is too high, try a tenth of it" if step else "check the model's weights"
        )
        raise UserError(f"the loss on the select role is {loss} after {step} steps; {advice}")
    return loss


def _copies(trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trained.items()}


def _tensors(
    trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, best: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    tensors = {f"now/{name}": parameter.detach() for name, parameter in trained.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for name, parameter in trained.items():
        moments = optimizer.state.get(parameter, {})
        tensors |= {f"{short}/{name}": moments[key] for short, key in _MOMENTS.items() if moments}
    return tensors


def _restore(trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, start: State) -> None:
    _put(trained, {name: start.tensors[f"now/{name}"] for name in trained})
    for name, parameter in trained.items():
        if f"first/{name}" in start.tensors:
            moments = {
                key: start.tensors[f"{short}/{name}"].to(parameter.device, copy=True) for short, key in _MOMENTS.items()
            }
            optimizer.state[parameter] = {"step": torch.tensor(float(start.step)), **moments}


@torch.no_grad()
def _put(trained: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in trained.items():
        parameter.copy_(tensors[name])
