"""Divergence of candidate after candidate on the same rows: what a change does not reach is not computed again.

A candidate whose first layers are those of an earlier one has the earlier one's states behind them; one that shares the
whole encoder has all that was heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from compress.assembly import Assembled
from compress.heal import Lesson
from compress.predictions import Predictions, joined
from compress.recent import Recent
from compress.vocabulary import Curriculum
from models.anatomy import audio_tower, decoder
from models.devices import device_of, in_precision
from models.inputs import (
    MOST_POSITIONS,
    Batch,
    by_length,
    convolved,
    heard_mask,
    make_batch,
    projected,
    spoken,
    with_audio,
)
from models.loading import pad_token
from models.room import positions, until_it_fits, utterances
from proxies.answers import Answers, likely, told
from space.choices import PARTS, place
from space.layout import Layout

# Of a batch: from which utterance, up to which, and its place among theirs.
_Key = tuple[int, int, int]
# States of batches behind prefixes of layers.
_MOST_BYTES = 10**9


@dataclass(frozen=True)
class _Lessons:
    """A batch of rows, what the source predicts for them, and how many tokens they have in its vocabulary."""

    rows: Batch
    teacher: Predictions
    source_tokens: int

    def to(self, device: torch.device) -> _Lessons:
        return _Lessons(self.rows.to(device), self.teacher.to(device), self.source_tokens)


@dataclass
class Prefixes:
    """The rows that candidates are scored on, and what earlier candidates made of them.

    Batches that there is no memory for are made anew, half as large.
    `layers_run` and `layers_whole` count layers that were computed, and those the candidates have, batch by batch.
    """

    layout: Layout
    curriculum: Curriculum
    rows_an_utterance: int
    most_positions: int = MOST_POSITIONS
    states: Recent[tuple[_Key, int], Tensor] = field(default_factory=lambda: Recent(_MOST_BYTES))
    layers_run: int = field(default=0, init=False)
    layers_whole: int = field(default=0, init=False)
    _batches: dict[tuple[int, tuple[int, int]], list[_Lessons]] = field(default_factory=dict, init=False, repr=False)
    _numbers: dict[tuple[int, str], int] = field(default_factory=dict, init=False, repr=False)

    def divergence(self, candidate: Assembled, vocabulary: int, utterances: int) -> float:
        """What `proxies.divergence.divergence` is of the candidate, in which `vocabulary` tokens stay.

        On the first so many utterances.
        """
        return next(self.divergences(candidate, vocabulary, [utterances]))

    def divergences(self, candidate: Assembled, vocabulary: int, utterances: Sequence[int]) -> Iterator[float]:
        """The divergence on each of ascending numbers of utterances in turn; each goes on from the one before.

        Raises torch.OutOfMemoryError where the rows of a single utterance do not fit.
        """
        return self._means(candidate, vocabulary, utterances, _divergence)

    def losses(self, candidate: Assembled, vocabulary: int, utterances: Sequence[int]) -> Iterator[float]:
        """In the divergence's place the loss on the references, in nats a token of the source."""
        return self._means(candidate, vocabulary, utterances, _loss)

    @torch.no_grad()
    def answers(self, candidate: Assembled, vocabulary: int, utterances: int, like: Answers | None = None) -> Answers:
        """The divergence on the first so many utterances, and what is likely there; the `ids` of `like`, if it has any.

        Raises as `divergences` does.
        """
        part = 0, utterances
        lengths = [len(one.row.target) for one in self.curriculum.of(vocabulary)[: self.rows_an_utterance * utterances]]
        asked = None if like is None or like.ids is None else torch.split(like.ids, lengths)

        def whole() -> Answers:
            total, tokens, found = 0.0, 0, dict[int, tuple[Tensor, ...]]()
            batches = zip(self._together(part), self._predicted(candidate, vocabulary, part), strict=True)
            for rows, (lessons, student) in batches:
                total, tokens = total + float(_divergence(student, lessons)), tokens + lessons.source_tokens
                chosen = None if asked is None else torch.cat([asked[i] for i in rows]).to(student.device)
                ids = likely(lessons.teacher, student) if chosen is None else chosen
                teacher = told(lessons.teacher.whole(student.shape[1]), ids)
                of_row = [
                    torch.split(one.cpu(), [lengths[i] for i in rows]) for one in (told(student, ids), teacher, ids)
                ]
                found |= dict(zip(rows, zip(*of_row, strict=True), strict=True))
            logs, source, ids = (torch.cat(one) for one in zip(*(found[i] for i in sorted(found)), strict=True))
            return Answers(total / tokens, logs, source, ids if like is None or asked is None else like.ids, tokens)

        return until_it_fits(whole, partial(self._shrinks, part))

    def forget(self) -> None:
        """Lets go of what earlier candidates left: the next one is computed whole."""
        self.states = Recent(self.states.most_bytes)

    @torch.no_grad()
    def _means(
        self, candidate: Assembled, vocabulary: int, utterances: Sequence[int], measure: _Measure
    ) -> Iterator[float]:
        """What is measured of log-probabilities (predicted tokens, vocabulary), by the tokens the source has."""
        total, tokens = 0.0, 0
        for part in pairwise((0, *utterances)):
            summed = partial(self._summed, candidate, vocabulary, part, measure)
            found, among = until_it_fits(summed, partial(self._shrinks, part))
            total, tokens = total + found, tokens + among
            yield total / tokens

    def _summed(
        self, candidate: Assembled, vocabulary: int, part: tuple[int, int], measure: _Measure
    ) -> tuple[float, int]:
        """What is measured, summed over the tokens of some utterances, and how many these are in the source."""
        total, tokens = 0.0, 0
        for lessons, student in self._predicted(candidate, vocabulary, part):
            total += float(measure(student, lessons))
            tokens += lessons.source_tokens
        return total, tokens

    def _predicted(
        self, candidate: Assembled, vocabulary: int, part: tuple[int, int]
    ) -> Iterator[tuple[_Lessons, Tensor]]:
        """The batches of some utterances, and log-probabilities (predicted tokens, vocabulary) of each."""
        for number, kept in enumerate(self._lessons(candidate, vocabulary, part)):
            lessons = kept.to(device_of(candidate.model))
            yield lessons, self._logits(candidate, lessons.rows, (*part, number)).log_softmax(-1)

    def _lessons(self, candidate: Assembled, vocabulary: int, part: tuple[int, int]) -> list[_Lessons]:
        """Batches, in host memory, of the utterances from one number up to another."""
        if (vocabulary, part) not in self._batches:
            chosen, pad = self.curriculum.of(vocabulary), pad_token(candidate.model)
            batches = self._together(part)
            self._batches[vocabulary, part] = [_made([chosen[i] for i in batch], pad) for batch in batches]
        return self._batches[vocabulary, part]

    def _together(self, part: tuple[int, int]) -> list[list[int]]:
        """Which lessons go together, alike for every vocabulary: what was heard of a batch serves them all."""
        first, last = (self.rows_an_utterance * utterances for utterances in part)
        rows = [lesson.row for lesson in self.curriculum.lessons[first:last]]
        return [[first + i for i in batch] for batch in by_length(rows, self.most_positions)]

    def _shrinks(self, part: tuple[int, int]) -> bool:
        """Forgets everything, and has batches half as large; whether any was of several utterances."""
        rows = [lesson.row for lesson in self.curriculum.lessons]
        several = [batch for batch in self._together(part) if len(set(utterances(rows, batch))) > 1]
        if several:
            self._batches.clear()
            self.forget()
            self.most_positions = max(positions(rows, batch) for batch in several) // 2
        return bool(several)

    @in_precision
    def _logits(self, candidate: Assembled, batch: Batch, key: _Key) -> Tensor:
        """Logits of the target tokens (predicted tokens, vocabulary)."""
        model, values = candidate.model, candidate.values
        heard = self._heard(candidate, batch, key) if batch.speech is not None else None
        before = self._number(0 if heard is None else heard[0], values["embedding"])
        text = decoder(model)
        numbers = self._prefixes(candidate, "decoder", before)
        done, states = self._furthest(key, numbers)
        if states is None:
            states = model.get_input_embeddings()(batch.ids)
            if batch.speech is not None and heard is not None:
                places = batch.ids == model.config.audio_token_index
                states = with_audio(states, places, spoken(heard[1], batch.speech), batch.speech)
        whole = text.layers
        self._count(len(whole), done)
        with ExitStack() as undone:
            undone.callback(setattr, text, "layers", whole)
            text.layers = nn.ModuleList(whole[done:])
            for layer, number in zip(text.layers, numbers[done:], strict=True):
                undone.callback(layer.register_forward_hook(self._keeping(key, number)).remove)
            states = text(inputs_embeds=states, attention_mask=batch.mask, use_cache=False).last_hidden_state
        logits: Tensor = model.lm_head(states[:, :-1][batch.predicts]).float()
        return logits

    def _heard(self, candidate: Assembled, batch: Batch, key: _Key) -> tuple[int, Tensor]:
        """The number of the whole encoder, and its projected audio (utterances, audio tokens, hidden)."""
        assert batch.speech is not None
        model, tower = candidate.model, audio_tower(candidate.model)
        numbers = self._prefixes(candidate, "encoder", self._number(0, candidate.values["convolutions"]))
        last = numbers[-1] if numbers else self._number(0, candidate.values["convolutions"])
        projection = self._number(last, candidate.values["projector"])
        audio = self.states.get((key, projection))
        if audio is None:
            done, states = self._furthest(key, numbers)
            if states is None:
                states = convolved(tower, batch.speech.features, batch.speech.frames)
            keep = heard_mask(batch.speech.frames, states.shape[1])
            for layer, number in zip(tower.layers[done:], numbers[done:], strict=True):
                states = layer(states, keep)
                self.states.put((key, number), states, states.nbytes)
            self._count(len(numbers), done)
            audio = projected(model, states)
            self.states.put((key, projection), audio, audio.nbytes)
        else:
            self._count(len(numbers), len(numbers))
        return projection, audio

    def _furthest(self, key: _Key, numbers: Sequence[int]) -> tuple[int, Tensor | None]:
        """How many layers need not be run, and the states behind them; none where all must be."""
        for done in range(len(numbers), 0, -1):
            states = self.states.get((key, numbers[done - 1]))
            if states is not None:
                return done, states
        return 0, None

    def _prefixes(self, candidate: Assembled, tower: str, before: int) -> list[int]:
        """For each layer that stays the number of the prefix that ends with it; `before` is what comes first."""
        count = next(one.layers for one in self.layout.towers if one.name == tower)
        numbers = []
        for index in range(count):
            names = [place(tower, index, part) for part in PARTS]
            staying = [candidate.values[name] for name in names if name in candidate.values]
            if staying:
                before = self._number(before, "; ".join(staying))
                numbers.append(before)
        return numbers

    def _number(self, before: int, values: str) -> int:
        """The number of a prefix with one thing more; the same values behind the same prefix have the same number."""
        return self._numbers.setdefault((before, values), len(self._numbers) + 1)

    def _keeping(self, key: _Key, number: int) -> Any:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self.states.put((key, number), output, output.nbytes)

        return keep

    def _count(self, layers: int, done: int) -> None:
        self.layers_whole += layers
        self.layers_run += layers - done


# Of log-probabilities of a batch's target tokens (predicted tokens, vocabulary), summed over the tokens.
_Measure = Callable[[Tensor, _Lessons], Tensor]


def _divergence(student: Tensor, lessons: _Lessons) -> Tensor:
    return lessons.teacher.divergence(student)


def _loss(student: Tensor, lessons: _Lessons) -> Tensor:
    return nn.functional.nll_loss(student, lessons.rows.targets, reduction="sum")


def _made(lessons: Sequence[Lesson], pad: int) -> _Lessons:
    rows = make_batch([lesson.row for lesson in lessons], pad)
    return _Lessons(rows, joined([lesson.teacher for lesson in lessons]), sum(x.source_tokens for x in lessons))
