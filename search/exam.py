"""The full evaluation that every model of a study has alike: translations of a role, their scores and signatures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from corpora.audio import HEARD_SECONDS
from corpora.roles import DIRECTIONS, PAUSE_SECONDS, Corpus, Example, Talk
from models.devices import current
from scoring.comet import Comet
from scoring.kept import KeptTexts
from scoring.metrics import score
from scoring.resegment import resegment, resegmenter
from scoring.segment import segmentation, speech_segments
from scoring.translate import decoding, translate
from search.progress import progress_on
from space.errors import UserError

# Whole talks are cut where they pause and their translations aligned with the references; gold segments are not.
GOLD, VAD = "gold", "vad"
SEGMENTS = (GOLD, VAD)
# Utterances whose translations are kept to be looked at.
_SAMPLES = 3
COMET, CHRF = "COMET", "chrF"


# Segments of whole talks may be cut as short as this.
_LEAST_SECONDS = 1.0
# Beams take memory and time each.
_MOST_BEAMS = 64


@dataclass(frozen=True)
class Translations:
    """What a model makes of a role, by direction: a text for each utterance; and from how many of the model's own texts
    what was taken off, of models that converse.
    """

    texts: dict[str, list[str]]
    taken_off: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Exam:
    """The data (`data` is its fingerprint), directions and decoding that every full evaluation of a study shares.

    Whole talks are cut into segments of at most `segment_seconds` (of less for a model that hears less at once: `of`).
    Scores of `comet` are added where there is one. On a `console` translating is watched.
    """

    corpus: Corpus
    directions: Sequence[str]
    data: str
    batch_size: int = 32
    beams: int = 1
    segments: str = GOLD
    segment_seconds: float = HEARD_SECONDS
    comet: Comet | None = None
    console: Console | None = None

    def of(self, processor: Any) -> Exam:
        """The exam of a model: no segment is longer than it hears at once."""
        if self.segments == GOLD or not self.corpus.heard:
            return self
        longest = float(processor.feature_extractor.chunk_length)
        return replace(self, segment_seconds=min(self.segment_seconds, longest))

    def check(self, roles: Sequence[str] = ("select", "report")) -> None:
        """Raises UserError where COMET or what whole talks need is not there: before hours are spent, not behind."""
        if not 1 <= self.beams <= _MOST_BEAMS:
            raise UserError(f"--beams {self.beams}: from 1, which is greedy, to {_MOST_BEAMS}")
        if self.segments not in SEGMENTS:
            raise UserError(f"--segments {self.segments}: choose from {', '.join(SEGMENTS)}")
        if not _LEAST_SECONDS <= self.segment_seconds <= HEARD_SECONDS:
            raise UserError(f"--segment-seconds {self.segment_seconds:g}: from {_LEAST_SECONDS:g} to {HEARD_SECONDS:g}")
        if self.segments == GOLD and self.segment_seconds != HEARD_SECONDS:
            raise UserError(f"--segment-seconds: gold segments are what they are; give --segments {VAD}, too")
        if self.segments == VAD:
            if not self.corpus.heard:
                raise UserError(f"--segments {VAD}: is for models that hear; nothing is heard here; give {GOLD}")
            resegmenter()
            segmentation(self.segment_seconds)
        if self.comet is not None:
            texts = Corpus(self.corpus.folder, self.corpus.languages, heard=None)
            for role in roles:
                _english(texts.examples(role))
            _ = self.comet.signature
            self.comet.close()

    @property
    def criterion(self) -> str:
        """What champions are chosen by."""
        return COMET if self.comet is not None else CHRF

    @property
    def decoding(self) -> str:
        """What translations depend on beside the model and the data."""
        return f"{decoding(self.beams)}{current().signature}|{self.segmentation('select')}"

    def segmentation(self, role: str) -> str:
        """How a role's talks are cut, for signatures."""
        if self.segments == GOLD:
            return "gold segments, not re-segmented"
        joined = "" if self.corpus.has_whole_talks(role) else f", of utterances joined by pauses of {PAUSE_SECONDS:g} s"
        return f"whole talks{joined}|{segmentation(self.segment_seconds)}|{resegmenter().signature}"

    def scores(self, model: Any, processor: Any, role: str) -> dict[str, dict[str, Any]]:
        """BLEU, chrF, COMET if it is there, and signatures by direction on a role."""
        translations = self.translations(model, processor, role)
        return self.scored(translations.texts, role, translations.taken_off)

    def translations(self, model: Any, processor: Any, role: str, kept: KeptTexts | None = None) -> Translations:
        """What a model makes of a role's utterances in their order, what is `kept` among them."""
        heard, talks = self.corpus.examples(role), list[Talk]()
        if self.segments == VAD:
            talks, longest = self.corpus.talks(role), self.of(processor).segment_seconds
            segments = [_segments(talk, longest) for talk in talks]
            heard = [segment for found in segments for segment in found]
        texts: dict[str, list[str]] = {}
        taken_off: dict[str, dict[str, int]] = {}
        for direction in self.directions:
            counts: Counter[str] = Counter()
            with progress_on(self.console or Console(quiet=True)) as bar:
                texts[direction] = translate(
                    model,
                    processor,
                    heard,
                    DIRECTIONS[direction],
                    batch_size=self.batch_size,
                    beams=self.beams,
                    kept=kept,
                    taken_off=counts,
                    progress=partial(bar.advance, bar.add_task(f"translating {direction}", total=len(heard))),
                )
            if counts:
                taken_off[direction] = {**counts, "texts": len(heard)}
        if self.segments == VAD:
            # talks may take turns in the data
            nth = {talk.name: n for n, talk in enumerate(talks)}
            names = [example.talk for example in self.corpus.examples(role)]
            places = sorted(range(len(names)), key=lambda place: nth[names[place]])
            for direction, made in texts.items():
                found = dict(zip(places, _as_referenced(made, talks, segments, direction), strict=True))
                texts[direction] = [found[place] for place in range(len(names))]
        return Translations(texts, taken_off)

    def references(self, role: str) -> dict[str, list[str]]:
        """What a role's utterances should become, by direction."""
        examples = self.corpus.examples(role)
        return {
            direction: [example.references[DIRECTIONS[direction]] for example in examples]
            for direction in self.directions
        }

    def scored(
        self,
        translations: Mapping[str, Sequence[str]],
        role: str,
        taken_off: Mapping[str, Mapping[str, int]] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Scores of translations of a role, their signatures, and COMET's of each segment."""
        found, references = {}, self.references(role)
        for direction in self.directions:
            scores = score(translations[direction], references[direction], DIRECTIONS[direction])
            signatures = [*scores.signatures, f"decoding|{decoding(self.beams)}", f"{role} role of data {self.data}"]
            signatures += filter(None, [current().signature.removeprefix("|")])
            if counts := (taken_off or {}).get(direction):
                signatures.append("taken off|" + ", ".join(f"{name}: {count}" for name, count in counts.items()))
            signatures.append(f"segments|{self.segmentation(role)}")
            more = self._comet(translations[direction], references[direction], role)
            signatures += more.pop("signatures", [])
            found[direction] = {**scores.to_dict(), **more, "signatures": signatures}
        return found

    def _comet(self, translations: Sequence[str], references: Sequence[str], role: str) -> dict[str, Any]:
        """The system's score, 0 to 100 as others are, those of segments, and the signature."""
        if self.comet is None:
            return {}
        found = self.comet.score(_english(self.corpus.examples(role)), translations, references)
        segments = [round(100 * one, 4) for one in found.segments]
        return {"comet": round(100 * found.system, 2), "segments": segments, "signatures": [self.comet.signature]}

    def is_scored(self, scores: Mapping[str, Mapping[str, Any]] | None) -> bool:
        """Whether scores of an earlier run have all that is asked for now."""
        if scores is None or list(scores) != list(self.directions):
            return False
        if self.comet is None:
            return True
        return all(self.comet.signature in one["signatures"] for one in scores.values())

    def samples(self, translations: Mapping[str, Sequence[str]], role: str) -> list[dict[str, str]]:
        """A few utterances of a role with translations and references; where utterances are texts, with these."""
        references = self.references(role)
        return [
            {
                "id": example.id,
                "direction": direction,
                **({"text": example.utterance} if isinstance(example.utterance, str) else {}),
                "translation": translations[direction][place],
                "reference": references[direction][place],
            }
            for place, example in enumerate(self.corpus.examples(role)[:_SAMPLES])
            for direction in self.directions
        ]


def _english(examples: Sequence[Example]) -> list[str]:
    """What is said in utterances. Raises UserError where that is not known."""
    silent = next((example.id for example in examples if example.english is None), None)
    if silent is not None:
        raise UserError(
            f"--comet: utterance {silent!r} has no English text, which COMET reads; add column en, or go without"
        )
    return [example.english or "" for example in examples]


def _segments(talk: Talk, longest_seconds: float) -> list[Example]:
    """A talk's speech, cut where it pauses."""
    found = speech_segments(talk.samples, longest_seconds)
    return [Example(f"{talk.name}-{start}", talk.name, talk.samples[start:end], {}) for start, end in found]


def _as_referenced(
    texts: Sequence[str], talks: Sequence[Talk], segments: Sequence[Sequence[Example]], direction: str
) -> list[str]:
    """Translations of all segments in order, joined and cut where references are, talk by talk."""
    code, found, left = DIRECTIONS[direction], list[str](), iter(texts)
    for talk, heard in zip(talks, segments, strict=True):
        references = [example.references[code] for example in talk.examples]
        found += resegment([next(left) for _ in heard], references, code)
    return found


# Translations on the way, beside the result they are for.
KEPT = "translations-{role}.jsonl"
# Keys of results: scores and translations of a role.
_KEYS = {"select": ("select", "select translations"), "report": ("scores", "translations")}


def examined(
    result: Mapping[str, Any], exam: Exam, role: str, load: Callable[[], tuple[Any, Any]], folder: Path
) -> dict[str, Any]:
    """The result with a role's translations and scores, of which those an earlier run made alike are kept.

    `load` gives model and processor, and is called where something is to be translated. On the way translations are
    kept in the folder, and stay there until the result is written (`drop_kept`).
    """
    scores, texts = _KEYS[role]
    made, taken_off = {**result.get("exams", {})}, {**result.get("taken off", {})}
    if made.get(role) != exam.decoding or texts not in result:
        model, processor = load()
        kept = KeptTexts(folder / KEPT.format(role=role), f"{result['key']}|{exam.decoding}")
        found = exam.translations(model, processor, role, kept)
        made[role], taken_off[role] = exam.decoding, found.taken_off
        result = {**result, "exams": made, "taken off": taken_off, texts: found.texts}
    elif exam.is_scored(result.get(scores)):
        return dict(result)
    return {**result, scores: exam.scored(result[texts], role, taken_off.get(role))}


def drop_kept(folder: Path) -> None:
    """Drops translations on the way."""
    for path in folder.glob(KEPT.format(role="*")):
        path.unlink()


def with_comet(scores: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether every direction has COMET's score."""
    return all("comet" in one for one in scores.values())


def mean_chrf(scores: Mapping[str, Mapping[str, Any]]) -> float:
    """Mean over directions."""
    return _mean(scores, "chrf")


def quality(scores: Mapping[str, Mapping[str, Any]], criterion: str) -> float:
    """What the champion is chosen by: the mean over directions of COMET or of chrF, 0 to 100."""
    return _mean(scores, {COMET: "comet", CHRF: "chrf"}[criterion])


def _mean(scores: Mapping[str, Mapping[str, Any]], metric: str) -> float:
    total: float = sum(direction[metric] for direction in scores.values())
    return total / len(scores)
