"""What a worker keeps in memory: source model, bank and the proxy role's rows; it turns a plan into scores."""

from __future__ import annotations

import hashlib
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import sacrebleu
from transformers import PreTrainedModel

from compress.assembly import Assembled, Assembler
from compress.facts import BankFolder, Facts
from compress.heal import Coach, HealSettings, make_lessons
from compress.importance import measure
from compress.pipeline import Bank, compress
from compress.prune import removal_orders
from compress.shelf import Shelf
from compress.vocabulary import Curriculum
from corpora.recombine import recombined
from corpora.roles import Corpus, Example
from models.inputs import PROMPTS, TEXT_PROMPTS, Row, asked, batches, make_row, read_utterance
from models.loading import Source, pad_token, trimmed_processor
from models.vocabulary import Vocabulary, with_vocabulary
from proxies.answers import LIKELY, Answers
from proxies.deviation import Deviations, OptionErrors, Squares, gradient_error, squared_gradients, weight_error
from proxies.divergence import divergence
from proxies.marginals import Change, Marginals, measure_marginals, neighbours
from proxies.prefixes import Prefixes
from proxies.sensitivity import Measured, Sensitivities
from proxies.sensitivity import measure as measure_sensitivities
from proxies.translations import Translations
from scoring.translate import DECODING, most_tokens, translate
from search.gates import DIVERGENCE, GATES, RUNG_UTTERANCES, Gate
from search.pools.pool import Evaluation, Rungs
from space import VERSION
from space.layout import Layout
from space.limits import Limits
from space.plan import Plan, uniform_plan
from space.rates import WHOLE
from space.spread import in_turns

_TRANSLATED_AT_ONCE = 48
_GRADIENT_ROWS = 4
_ERRORS = "errors-{}"
_SENSITIVITIES = f"sensitivities-{RUNG_UTTERANCES[0]}"
# Rows of the calibrate role that moments are measured on, at most.
_MOMENT_ROWS = 1024
# How far below its rate a coded matrix of a trial may be: a finalist is coded more closely.
TRIAL_TOLERANCE = 0.03
# How a trial heals: what fewer rows a step come to is so much of a draw that twice as many trials are worth less
# (decision 0028).
TRIAL_HEALING = HealSettings(batch_rows=32)
_BEFORE = {DIVERGENCE: "KL(source||candidate)"}
# Scores of a candidate, in which so many tokens stay, on the first utterances, for ascending numbers of them; each goes
# on from the one before, and lower is better.
Scored = Callable[[Assembled, int, Sequence[int]], Iterator[float]]


def signature(gate: Gate) -> str:
    """Of the scores of trials that are stopped at a gate."""
    return (
        f"100 - chrF2 by sacrebleu {sacrebleu.__version__} after healing that diverges less, {DECODING}"
        f"|{_BEFORE.get(gate.proxy, gate.proxy)} before|{gate.utterances} utterances of the proxy role"
    )


@dataclass(frozen=True)
class Workbench:
    """Everything a trial needs; made once, shared by all trials; `findings` say what is odd about its inputs.

    `processor` gives that of a checkpoint in which so many tokens stay.
    """

    source: Source
    folder: BankFolder = field(repr=False)
    bank: Bank
    assembler: Assembler
    prefixes: Prefixes
    proxy: Curriculum = field(repr=False)
    select: Curriculum = field(repr=False)
    processor: Callable[[int], Any] = field(repr=False)
    translations: Translations = field(repr=False)
    rows_an_utterance: int = 2
    findings: tuple[str, ...] = ()

    def divergence(self, model: PreTrainedModel, vocabulary: int, utterances: int = RUNG_UTTERANCES[-1]) -> float:
        """Divergence of a model in which `vocabulary` tokens stay, on the first utterances of the proxy role."""
        lessons = self.proxy.of(vocabulary)[: utterances * self.rows_an_utterance]
        return divergence(model, lessons)

    def first_divergence(self, plan: Plan, utterances: int) -> float:
        """Of a plan's candidate, unhealed, on the first utterances that trials are scored on."""
        return self.prefixes.divergence(self.assembler.assembled(plan), plan.vocabulary, utterances)

    def answers(self, plan: Plan, utterances: int, like: Answers | None = None) -> Answers:
        """With its `first_divergence` a plan's answers, of the same tokens as others if there are any."""
        return self.prefixes.answers(self.assembler.assembled(plan), plan.vocabulary, utterances, like)

    def unseen_divergence(self, model: PreTrainedModel, vocabulary: int) -> float:
        """Divergence on utterances of the select role, on which nothing was searched and nothing trained."""
        return divergence(model, self.select.of(vocabulary))

    @property
    def gates(self) -> dict[str, Scored]:
        """Proxies that run a candidate, by name."""

        def chrf(candidate: Assembled, vocabulary: int, utterances: Sequence[int]) -> Iterator[float]:
            return self.translations.each(candidate.model, vocabulary, utterances)

        return dict(zip(GATES, (self.prefixes.divergences, self.prefixes.losses, chrf), strict=True))

    def rungs(self, plan: Plan, seed: int, gate: Gate) -> Rungs:
        """Scores a plan rung by rung, as the gate says; the last rung translates, after healing.

        Yields the scores so far; what is sent says whether the next rung is worth its time.
        """
        started = time.monotonic()
        scores: list[float] = []
        seconds: list[float] = []
        candidate = self.assembler.assembled(plan)
        for score in self.gates[gate.proxy](candidate, plan.vocabulary, gate.utterances):
            scores.append(score)
            seconds.append(time.monotonic() - started)
            if not (yield tuple(scores)):
                return Evaluation(tuple(scores), tuple(seconds))
        loss, divergence = self.worth(plan, candidate, seed)
        return Evaluation(tuple(scores), (*seconds, time.monotonic() - started), loss, divergence)

    def worth(self, plan: Plan, candidate: Assembled, seed: int) -> tuple[float, float]:
        """What the last rung finds of a plan: 100 less chrF of its translations, and its divergence.

        The candidate is healed for the plan's steps, or stays as it is where it diverges less, as a finalist would.
        """
        model, divergence = candidate.model, self.divergence(candidate.model, plan.vocabulary)
        if plan.heal.steps:
            healed = self.healed(plan, seed)
            after = self.divergence(healed, plan.vocabulary)
            if math.isnan(divergence) or after < divergence:
                model, divergence = healed, after
        return self.translations(model, plan.vocabulary, RUNG_UTTERANCES[-1]), divergence

    def healed(self, plan: Plan, seed: int) -> PreTrainedModel:
        """A plan carried out with its steps of healing; coded as closely as trials are."""
        coach = Coach(seed, TRIAL_HEALING)
        done = compress(self.source, plan, self.bank, seed=seed, coach=coach, tolerance=TRIAL_TOLERANCE, filling=False)
        return done.model


def make_workbench(
    source: Source, corpus: Corpus, languages: Sequence[str], folder: BankFolder | None = None
) -> Workbench:
    """Measures the source on the calibrate role, and asks it for its predictions.

    What the `folder`, which must be of this source, corpus and languages, has already is not made again.
    """
    folder = folder or BankFolder(None, Shelf())

    def lessons(role: str, utterances: int | None = None) -> Curriculum:
        rows = make_rows(source, by_turns(corpus.examples(role))[:utterances], languages)
        found = folder.lessons(role, rows, lambda: make_lessons(source.model, rows))
        return Curriculum(found, source.vocabulary)

    def facts() -> Facts:
        rows = [lesson.row for lesson in calibrate.lessons[:_MOMENT_ROWS]]
        # One utterance a batch: hardly anything is padded, so hardly any padding is measured.
        first = batches(rows, len(languages), pad_token(source.model))
        measured = measure(source.model, uniform_plan(source.layout, WHOLE), first)
        return Facts(measured, removal_orders(source, measured.hessians))

    calibrate = lessons("calibrate")
    found = folder.facts(facts)
    proxy, select = (lessons(role, max(RUNG_UTTERANCES)) for role in ("proxy", "select"))
    bank = Bank(found.measured.hessians, found.orders, found.measured.behind, calibrate)
    assembler = Assembler(source, bank, folder.shelf, TRIAL_TOLERANCE)
    prefixes = Prefixes(source.layout, proxy, len(languages))
    processor = cache(lambda vocabulary: trimmed_processor(source, vocabulary))
    translations = _translations(processor, by_turns(corpus.examples("proxy"))[: max(RUNG_UTTERANCES)], languages)
    return Workbench(
        source,
        folder,
        bank,
        assembler,
        prefixes,
        proxy,
        select,
        processor,
        translations,
        rows_an_utterance=len(languages),
        findings=found.measured.findings,
    )


def _translations(
    processor: Callable[[int], Any], examples: Sequence[Example], languages: Sequence[str]
) -> Translations:
    """What says how well a model translates the first of some examples."""

    def translated(model: PreTrainedModel, vocabulary: int, utterances: slice) -> dict[str, list[str]]:
        heard = examples[utterances]
        return {
            code: translate(model, processor(vocabulary), heard, code, batch_size=_TRANSLATED_AT_ONCE)
            for code in languages
        }

    return Translations(translated, {code: [example.references[code] for example in examples] for code in languages})


def sensitivities(
    workbench: Workbench, layout: Layout, progress: Callable[[str], None] = lambda _name: None
) -> Sensitivities:
    """Of a layout's options, on the first 8 utterances; the bank has those measured before.

    Workers that share a bank take choices in different orders, and find what the others measured.
    """
    folder = workbench.folder

    def score(plan: Plan) -> float:
        return workbench.first_divergence(plan, RUNG_UTTERANCES[0])

    def known() -> Measured:
        return folder.read_json(_SENSITIVITIES) or {}

    def save(found: Measured) -> None:
        folder.write_json(_SENSITIVITIES, found)

    return measure_sensitivities(layout, score, known, save, progress, shuffle=random.Random(os.getpid()))


def marginals(
    workbench: Workbench, limits: Limits, plan: Plan, said: Callable[[str], None], look: Callable[[], None]
) -> Marginals:
    """Around a plan, on all utterances that trials see; the bank has those measured before.

    Where something is to be measured it is `said` first, and before each measurement there is a `look` whether it is
    to go on.
    """
    folder, utterances = workbench.folder, max(RUNG_UTTERANCES)
    of = f"{plan.to_json()}|{limits.pins}|{limits.layout.rates}|{LIKELY}|{VERSION}"
    name = f"changes-{utterances}-{hashlib.sha256(of.encode()).hexdigest()[:16]}"
    known, count = known_changes(folder, name), sum(1 for _ in neighbours(plan, limits))
    saved = len(known)
    if saved < count:
        said(f"measuring what {count - saved} single changes of a plan are worth, to step on from it")

    def score(other: Plan, own: Answers | None) -> Answers:
        look()
        return workbench.answers(other, utterances, own)

    def save(found: Sequence[Change]) -> None:
        nonlocal saved
        keep_changes(folder, name, saved, found[saved:])
        saved = len(found)

    return measure_marginals(plan, limits, score, known, save)


def keep_changes(folder: BankFolder, name: str, before: int, found: Sequence[Change]) -> None:
    """Gives the bank some changes, behind as many of the name that it has."""
    shifts = {str(i): one.shift for i, one in enumerate(found) if one.shift is not None}
    folder.write_tensors(f"{name}-{before}", shifts, [one.divergence for one in found])


def known_changes(folder: BankFolder, name: str) -> list[Change]:
    """The changes that the bank has of a name, in order."""
    found: list[Change] = []
    while (part := folder.read_tensors(f"{name}-{len(found)}")) is not None:
        shifts, divergences = part
        found += [Change(float(one), shifts.get(str(i))) for i, one in enumerate(divergences)]
    return found


def option_errors(workbench: Workbench) -> dict[str, OptionErrors]:
    """By name the proxies that run no model, with the errors of options that the bank knows."""
    source, deviations = workbench.source, Deviations(workbench.source, workbench.bank)

    @cache
    def squares() -> Squares:
        rows = [lesson.row for lesson in workbench.proxy.lessons]
        return squared_gradients(source, batches(rows, _GRADIENT_ROWS, pad_token(source.model)))

    measures = {"weight error": weight_error, "gradient": gradient_error(squares)}
    return {
        name: OptionErrors(deviations, measure, workbench.folder.read_json(_ERRORS.format(name)) or {})
        for name, measure in measures.items()
    }


def keep_errors(workbench: Workbench, found: Mapping[str, OptionErrors]) -> None:
    """Gives the bank what is known of options by now, and takes what other workers found out."""
    for name, errors in found.items():
        errors.known.update(workbench.folder.read_json(_ERRORS.format(name)) or {})
        workbench.folder.write_json(_ERRORS.format(name), errors.known)


def with_recombined(workbench: Workbench, corpus: Corpus, languages: Sequence[str], count: int, seed: int) -> Workbench:
    """With `count` more utterances to heal on for each of the calibrate role, made of pieces of them.

    Their targets are the source's own translations. An utterance goes where the source has none for a language, or one
    that does not end.
    """
    source, heard = workbench.source, corpus.examples("calibrate")
    made = recombined([example.utterance for example in heard], count * len(heard), seed)
    examples = [Example(f"recombined-{i}", "recombined", utterance, {}) for i, utterance in enumerate(made)]
    name = f"recombined-{count}-{seed}"

    def translated() -> dict[str, list[str]]:
        return {
            code: translate(source.model, source.processor, examples, code, batch_size=_TRANSLATED_AT_ONCE)
            for code in languages
        }

    texts = workbench.folder.texts(name, translated)
    labelled = [
        replace(example, references={code: texts[code][i] for code in languages}) for i, example in enumerate(examples)
    ]
    rows = make_rows(source, labelled, languages)
    groups = [rows[start : start + len(languages)] for start in range(0, len(rows), len(languages))]
    rows = [row for group in groups if all(1 < len(row.target) < most_tokens(row) for row in group) for row in group]
    more = workbench.folder.lessons(name, rows, lambda: make_lessons(source.model, rows))
    lessons = Curriculum([*workbench.bank.curriculum.lessons, *more], source.vocabulary)
    bank = replace(workbench.bank, curriculum=lessons)
    return replace(workbench, bank=bank)


def counted(source: Source, corpus: Corpus, languages: Sequence[str]) -> Source:
    """The source with its tokens ranked by how often the calibrate role needs them; prompts keep all of theirs."""
    vocabulary = counted_vocabulary(source.vocabulary, source.processor, corpus, languages)
    return replace(source, vocabulary=vocabulary, layout=with_vocabulary(source.layout, vocabulary))


def counted_vocabulary(vocabulary: Vocabulary, processor: Any, corpus: Corpus, languages: Sequence[str]) -> Vocabulary:
    """Tokens ranked by how often the calibrate role needs them: its references, and texts that are read.

    Prompts keep all of theirs, instructions of utterances' own among them.
    """
    tokenizer, prompts = processor.tokenizer, TEXT_PROMPTS
    own = dict.fromkeys(example.prompt for example in corpus.examples("calibrate") if example.prompt)
    if corpus.heard:
        words = [asked(processor, code) for code in PROMPTS] + [asked(processor, "de", prompt) for prompt in own]
    else:
        words = [prompt.format(text="") for prompt in prompts.values()] + list(own)
    needed = [token for text in words for token in tokenizer(text).input_ids]
    ids: list[int] = []
    for example in corpus.examples("calibrate"):
        text = example.utterance
        read = [prompts[code].format(text=text) for code in languages] if isinstance(text, str) else []
        for said in [*read, *(example.references[code] for code in languages)]:
            ids += tokenizer(said, add_special_tokens=False).input_ids
    return vocabulary.counting(ids, needed)


def by_turns(examples: Sequence[Example]) -> list[Example]:
    """Examples in turns, one of each talk after the other, so that the first few hear every speaker."""
    talks: dict[str, list[Example]] = {}
    for example in examples:
        talks.setdefault(example.talk, []).append(example)
    return in_turns(talks.values())


def make_rows(source: Source, examples: Sequence[Example], languages: Sequence[str]) -> list[Row]:
    """A row for each utterance and language, utterance by utterance."""
    rows = []
    for example in examples:
        utterance = read_utterance(source.processor, example.utterance)
        rows += [
            make_row(source.processor, utterance, code, example.references[code], example.prompt) for code in languages
        ]
    return rows
