"""Healing: a pruned model is trained towards the source's predictions and states; what is trained costs no bytes.

LoRA (Hu et al. 2021, arXiv 2106.09685), merged away, or, at rank 0, all weights; distillation of predictions (Hinton et
al. 2015, arXiv 1503.02531) and of the states where the shapes still are the source's: the projected audio and the last
states of the decoder.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.predictions import Predictions, joined, predictions_of
from compress.resume import TrainingFile, restore, state_of
from models.devices import HOST, device_of
from models.inputs import MOST_POSITIONS, Row, by_length, make_batch, outputs
from models.loading import pad_token
from models.room import Room
from space.plan import Heal

# Peak learning rates that a plan's factor is of.
LORA_RATE, FULL_RATE = 3e-3, 1e-3
# How often a judge is asked in the course of a training.
_JUDGEMENTS = 5
# Of a step, whose loss counts each utterance's audio once, and of the source's passes.
_TRAINING, _SOURCE = Room(whole_utterances=True), Room()


@dataclass(frozen=True)
class HealSettings:
    """Rows a step, the share of the references' loss among the tokens', and the weight of the states' losses.

    `before_share` of the steps come before quantisation, the others through it; all come before where fewer than
    `fewest_through` would be left, which flip integers and have no time to mend what that breaks.
    """

    batch_rows: int = 16
    reference_share: float = 0.3
    state_weight: float = 30.0
    before_share: float = 0.5
    fewest_through: int = 25

    def before(self, steps: int) -> int:
        """How many of the steps come before quantisation."""
        before = round(self.before_share * steps)
        return before if steps - before >= self.fewest_through else steps


@dataclass(frozen=True)
class Lesson:
    """A training row and what the source makes of it: its predictions of the target tokens.

    `source_tokens` is how many tokens the target has in the source's vocabulary. `hidden` (tokens, hidden) are the
    source's last states for the target, None where it is spelt otherwise, and `audio` (audio tokens, hidden) is its
    projected audio, None where there is none. All is in host memory.
    """

    row: Row
    teacher: Predictions
    source_tokens: int
    hidden: Tensor | None = None
    audio: Tensor | None = None


@dataclass(frozen=True)
class Coach:
    """What goes with a training: seed, settings, who is told of each step, the judge, and where its state is kept.

    The judge's score of the model (lower is better) decides which state is kept: it is asked a few times on the way.
    Without one the last state is. Without a file a training that is stopped starts over.
    """

    seed: int
    settings: HealSettings
    progress: Callable[[int], None] = lambda _step: None
    judge: Callable[[PreTrainedModel], float] | None = None
    file: TrainingFile | None = None

    def stage(self, name: str, after: int) -> Coach:
        """The coach of one stage of several, `after` steps of the others; each has randomness of its own."""
        file = self.file.stage(name) if self.file else None
        return replace(self, seed=self.seed + after, file=file, progress=lambda step: self.progress(after + step))


def heal(model: PreTrainedModel, lessons: Sequence[Lesson], plan: Heal, coach: Coach) -> PreTrainedModel:
    """Trains the model as planned; the same seed gives the same weights, where memory is not short."""
    if plan.steps == 0:
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(coach.seed)
        if plan.rank == 0:
            model.requires_grad_(True)
            train(model, lessons, [(list(model.parameters()), FULL_RATE * plan.rate)], plan.steps, coach)
            healed = model
        else:
            config = LoraConfig(
                r=plan.rank, lora_alpha=plan.rank, lora_dropout=0.0, target_modules=_targets(model), bias="none"
            )
            adapted = get_peft_model(model, config)
            parameters = [p for p in adapted.parameters() if p.requires_grad]
            groups = [(parameters, LORA_RATE * plan.rate)]
            train(adapted.get_base_model(), lessons, groups, plan.steps, coach)
            healed = adapted.merge_and_unload()
    healed.requires_grad_(False)
    return healed.eval()


def train(
    model: PreTrainedModel,
    lessons: Sequence[Lesson],
    groups: Iterable[tuple[list[nn.Parameter], float]],
    steps: int,
    coach: Coach,
) -> None:
    """Trains groups of parameters, each with its peak learning rate: a tenth of the steps up, then down to 0."""
    trained = [{"params": parameters, "lr": rate, "peak": rate} for parameters, rate in groups if parameters]
    everything: list[nn.Parameter] = [p for parameters, _ in groups for p in parameters]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.98), weight_decay=0.0)
    utterances = _by_utterance(lessons)
    a_step = max(1, coach.settings.batch_rows * len(utterances) // len(lessons))
    order = _order(len(utterances), steps * a_step, coach.seed)
    first, lowest, best = _taken_up(coach, everything, optimizer)
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * min((step + 1) / max(1, steps // 10), 1 - step / steps)
        # an utterance that comes twice, at the end of a round, comes at once: what is heard of it counts once
        chosen = [x for i in sorted(order[step * a_step :][:a_step]) for x in utterances[i]]
        _backward(model, chosen, coach.settings, optimizer)
        nn.utils.clip_grad_norm_(everything, 1.0)
        optimizer.step()
        done = step + 1
        if coach.judge and (done % max(1, steps // _JUDGEMENTS) == 0 or done == steps):
            score = coach.judge(model)
            if score < lowest or not best:
                lowest, best = score, [parameter.detach().clone() for parameter in everything]
        if coach.file and (done % coach.file.every == 0 or done == steps):
            coach.file.write(done, lowest, state_of(everything, optimizer, best))
        coach.progress(done)
    with torch.no_grad():
        for parameter, kept in zip(everything, best, strict=False):
            parameter.copy_(kept)


def _taken_up(
    coach: Coach, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[int, float, list[Tensor]]:
    """Steps done, the lowest score and its parameters, of a training that was stopped; a fresh start otherwise."""
    found = coach.file.read() if coach.file else None
    if found is None:
        return 0, math.inf, []
    step, lowest, tensors = found
    return step, lowest, restore(parameters, optimizer, tensors)


def _targets(model: nn.Module) -> list[str]:
    """Names of the matrices that get an adapter: every linear of a sublayer, and the projector; not empty ones."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.numel() and "lm_head" not in name
    ]


def _by_utterance(lessons: Sequence[Lesson]) -> list[list[Lesson]]:
    """Lessons of one utterance together: its directions share the encoder's pass. Rows without speech stand alone."""
    groups: dict[int, list[Lesson]] = {}
    for lesson in lessons:
        groups.setdefault(id(lesson.row.speech or lesson), []).append(lesson)
    return list(groups.values())


def _order(count: int, wanted: int, seed: int) -> list[int]:
    """Indices of an endless shuffle, each epoch in a new order."""
    rng = random.Random(seed)
    order: list[int] = []
    while len(order) < wanted:
        order += rng.sample(range(count), count)
    return order


def _backward(
    model: PreTrainedModel, step: Sequence[Lesson], settings: HealSettings, optimizer: torch.optim.Optimizer
) -> None:
    """The gradients of a step's loss, in as many parts as there is memory for."""

    def loss(part: Sequence[int]) -> Tensor:
        return distillation_loss(model, [step[i] for i in part], step, settings)

    _TRAINING.backward([lesson.row for lesson in step], loss, optimizer.zero_grad)


def distillation_loss(
    model: PreTrainedModel, lessons: Sequence[Lesson], step: Sequence[Lesson], settings: HealSettings
) -> Tensor:
    """What lessons of a step, whole utterances, add to its loss.

    Which is the mean KL from the source over target tokens, mixed with the references' cross-entropy, and the states'
    errors. A state's error is its squared distance from the source's over the source's power.
    """
    device = device_of(model)
    batch = make_batch([lesson.row for lesson in lessons], pad_token(model)).to(device)
    found = outputs(model, batch)
    student, tokens = found.logits.log_softmax(-1), sum(len(lesson.row.target) for lesson in step)
    divergence = joined([lesson.teacher for lesson in lessons]).to(device).divergence(student) / tokens
    references = nn.functional.nll_loss(student, batch.targets, reduction="sum") / tokens
    loss = (1 - settings.reference_share) * divergence + settings.reference_share * references
    if found.audio is not None:
        loss = loss + settings.state_weight * _relative_error(found.audio, _audio(lessons), _audio(step))
    if all(lesson.hidden is not None for lesson in step):
        loss = loss + settings.state_weight * _relative_error(found.hidden, _hidden(lessons), _hidden(step))
    return loss


def _audio(lessons: Sequence[Lesson]) -> Tensor:
    """Of each utterance once."""
    return torch.cat(list({id(x.row.speech): x.audio for x in lessons if x.audio is not None}.values()))


def _hidden(lessons: Sequence[Lesson]) -> Tensor:
    return torch.cat([lesson.hidden for lesson in lessons if lesson.hidden is not None])


def _relative_error(found: Tensor, wanted: Tensor, whole: Tensor) -> Tensor:
    return (found - wanted.to(found.device)).square().sum() / whole.to(found.device).square().sum()


@torch.no_grad()
def make_lessons(source: PreTrainedModel, rows: Sequence[Row], most_positions: int = MOST_POSITIONS) -> list[Lesson]:
    """What the source makes of every row, computed once."""
    lessons: dict[int, Lesson] = {}
    for batch in by_length(rows, most_positions):
        for part, found in _SOURCE.each(rows, batch, lambda part: _lessons(source, [rows[i] for i in part])):
            lessons.update(zip(part, found, strict=True))
    return [lessons[i] for i in range(len(rows))]


def _lessons(source: PreTrainedModel, rows: Sequence[Row]) -> list[Lesson]:
    """Of one batch."""
    batch = make_batch(rows, pad_token(source))
    found = outputs(source, batch.to(device_of(source)))
    lengths = [len(row.target) for row in rows]
    parts = predictions_of(found.logits.log_softmax(-1)).to(HOST).split(lengths)
    hidden = torch.split(found.hidden.to(HOST), lengths)
    heard: list[Tensor | None] = [None] * len(rows)
    if batch.speech is not None and found.audio is not None:
        audio = torch.split(found.audio.to(HOST), batch.speech.audio_tokens.tolist())
        kept = [states.clone() for states in audio]
        heard = [kept[i] for i in batch.speech.of_row.tolist()]
    return [
        Lesson(row, part.copied(), len(row.target), states.clone(), sound)
        for row, part, states, sound in zip(rows, parts, hidden, heard, strict=True)
    ]
