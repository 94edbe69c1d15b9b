"""The full evaluation that every model of a study has alike: translations of a role, their scores and signatures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.audio import HEARD_SECONDS
from corpora.roles import DIRECTIONS, PAUSE_SECONDS, Corpus, Example
from models.devices import current
from scoring.comet import Comet
from scoring.kept import KeptTexts
from scoring.metrics import score
from scoring.resegment import resegment, resegmenter
from scoring.segment import segmentation, speech_segments
from scoring.translate import decoding, translate
from space.errors import UserError

# Whole talks are cut where they pause and their translations aligned with the references; gold segments are not.
GOLD, VAD = "gold", "vad"
SEGMENTS = (GOLD, VAD)
# Utterances whose translations are kept to be looked at.
_SAMPLES = 3
COMET, CHRF = "COMET", "chrF"


@dataclass(frozen=True)
class Exam:
    """The data (`data` is its fingerprint), directions and decoding that every full evaluation of a study shares.

    Scores of `comet` are added where there is one.
    """

    corpus: Corpus
    directions: Sequence[str]
    data: str
    batch_size: int = 32
    beams: int = 1
    segments: str = GOLD
    comet: Comet | None = None

    def check(self) -> None:
        """Raises UserError where COMET or what whole talks need is not there: before hours are spent, not behind."""
        if self.beams < 1:
            raise UserError(f"--beams {self.beams}: at least 1, which is greedy")
        if self.segments not in SEGMENTS:
            raise UserError(f"--segments {self.segments}: choose from {', '.join(SEGMENTS)}")
        if self.segments == VAD:
            if not self.corpus.heard:
                raise UserError(f"--segments {VAD}: is for models that hear; data are read here; give {GOLD}")
            resegmenter()
            segmentation(HEARD_SECONDS)
        if self.comet is not None:
            self._sources("select")
            self.corpus.opened.pop("select", None)
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
        return f"whole talks{joined}|{segmentation(HEARD_SECONDS)}|{resegmenter().signature}"

    def examples(self, role: str) -> list[Example]:
        """A role's utterances in the order that translations have."""
        if self.segments == GOLD:
            return self.corpus.examples(role)
        return [example for talk in self.corpus.talks(role) for example in talk.examples]

    def scores(self, model: Any, processor: Any, role: str) -> dict[str, dict[str, Any]]:
        """BLEU, chrF, COMET if it is there, and signatures by direction on a role."""
        return self.scored(self.translations(model, processor, role), role)

    def translations(
        self, model: Any, processor: Any, role: str, kept: KeptTexts | None = None
    ) -> dict[str, list[str]]:
        """What a model makes of a role's utterances, by direction: one text for each, what is `kept` among them."""
        make = self._of_talks if self.segments == VAD else self._of_gold
        return {direction: make(model, processor, role, DIRECTIONS[direction], kept) for direction in self.directions}

    def _translate(
        self, model: Any, processor: Any, examples: Sequence[Example], code: str, kept: KeptTexts | None
    ) -> list[str]:
        return translate(model, processor, examples, code, batch_size=self.batch_size, beams=self.beams, kept=kept)

    def _of_gold(self, model: Any, processor: Any, role: str, code: str, kept: KeptTexts | None) -> list[str]:
        return self._translate(model, processor, self.corpus.examples(role), code, kept)

    def _of_talks(self, model: Any, processor: Any, role: str, code: str, kept: KeptTexts | None) -> list[str]:
        """Segments of all talks translated together, joined and re-segmented talk by talk."""
        talks = self.corpus.talks(role)
        segments = [
            [Example(f"{talk.name}-{start}", talk.name, talk.samples[start:end], {}) for start, end in found]
            for talk, found in ((talk, speech_segments(talk.samples, _longest(processor))) for talk in talks)
        ]
        flat = [segment for found in segments for segment in found]
        texts = iter(self._translate(model, processor, flat, code, kept))
        found: list[str] = []
        for talk, heard in zip(talks, segments, strict=True):
            references = [example.references[code] for example in talk.examples]
            found += resegment([next(texts) for _ in heard], references, code)
        return found

    def references(self, role: str) -> dict[str, list[str]]:
        """What a role's utterances should become, by direction."""
        examples = self.examples(role)
        return {
            direction: [example.references[DIRECTIONS[direction]] for example in examples]
            for direction in self.directions
        }

    def scored(self, translations: Mapping[str, Sequence[str]], role: str) -> dict[str, dict[str, Any]]:
        """Scores of translations of a role, their signatures, and COMET's of each segment."""
        found, references = {}, self.references(role)
        for direction in self.directions:
            scores = score(translations[direction], references[direction], DIRECTIONS[direction])
            signatures = [*scores.signatures, f"decoding|{decoding(self.beams)}", f"{role} role of data {self.data}"]
            signatures += filter(None, [current().signature.removeprefix("|")])
            signatures.append(f"segments|{self.segmentation(role)}")
            more = self._comet(translations[direction], references[direction], role)
            signatures += more.pop("signatures", [])
            found[direction] = {**scores.to_dict(), **more, "signatures": signatures}
        return found

    def _comet(self, translations: Sequence[str], references: Sequence[str], role: str) -> dict[str, Any]:
        """The system's score, 0 to 100 as others are, those of segments, and the signature."""
        if self.comet is None:
            return {}
        found = self.comet.score(self._sources(role), translations, references)
        segments = [round(100 * one, 4) for one in found.segments]
        return {"comet": round(100 * found.system, 2), "segments": segments, "signatures": [self.comet.signature]}

    def _sources(self, role: str) -> list[str]:
        """What is said in a role's utterances. Raises UserError where that is not known."""
        examples = self.examples(role)
        silent = next((example.id for example in examples if example.english is None), None)
        if silent is not None:
            raise UserError(
                f"--comet: utterance {silent!r} has no English text, which COMET reads; add column en, or go without"
            )
        return [example.english or "" for example in examples]

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
            for place, example in enumerate(self.examples(role)[:_SAMPLES])
            for direction in self.directions
        ]


def _longest(processor: Any) -> float:
    """The longest audio that a model hears at once, in seconds."""
    return min(HEARD_SECONDS, float(processor.feature_extractor.chunk_length))


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
    made = {**result.get("exams", {})}
    if made.get(role) != exam.decoding or texts not in result:
        model, processor = load()
        kept = KeptTexts(folder / KEPT.format(role=role), f"{result['key']}|{exam.decoding}")
        translations = exam.translations(model, processor, role, kept)
        made[role] = exam.decoding
        return {**result, "exams": made, texts: translations, scores: exam.scored(translations, role)}
    if exam.is_scored(result.get(scores)):
        return dict(result)
    return {**result, scores: exam.scored(result[texts], role)}


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
