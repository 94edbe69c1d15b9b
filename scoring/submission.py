"""The submission of the IWSLT 2025 model compression track: names, archive, message (task page, "Submission").

The form `2025-server` has the names that the page asked for after the track had moved to an evaluation server.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from space.errors import UserError
from space.files import whole_file

PRIMARY, CONTRASTIVE = "primary", "contrastive"
TASK_PAGE, SERVER_2025 = "task-page", "2025-server"
FORMS = (TASK_PAGE, SERVER_2025)
_SET, _TASK = "IWSLT25", "ModelCompressionTask"
# Short, since a tar's names have at most 100 characters.
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
# What would break a line for some reader (Unicode's line breaks among them), or is no text: all of category Cc, and the
# byte order mark, which readers drop where a file begins with it.
_BREAKS = re.compile("[\u0000-\u001f\u007f-\u009f\u2028\u2029\ufeff]+")
_ANEW = "remove translations from the finalist's result.json and run the search's command again, which makes them anew"
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class System:
    """A submission's system: bin, kind (primary, contrastive1, ...), hypotheses by direction, and its facts."""

    bin: int
    kind: str
    hypotheses: dict[str, list[str]]
    storage_bytes: int
    parameters: int
    techniques: tuple[str, ...]
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Submission:
    """Everything that goes out. `form` is how files are named; `empty_as` stands where a hypothesis is empty."""

    user: str
    institute: str
    contact: str
    email: str
    condition: str
    systems: tuple[System, ...]
    utterances: int
    form: str = TASK_PAGE
    empty_as: str | None = None


@dataclass
class Mended:
    """How many lines had something in them that a line may not have, and how many were empty."""

    breaks: int = 0
    empty: int = 0


def check_user(user: str) -> None:
    """Raises UserError for a user id that is no plain word: it is a folder's name, and between dots."""
    if not _USER.fullmatch(user):
        raise UserError(
            f"--user {user!r}: letters, digits, - and _ only, at most 32, as in the registration, for instance FBK"
        )


def check_line(option: str, text: str) -> None:
    """Raises UserError for what is given to an option and is no line of a text: the message has it as it is."""
    if _BREAKS.search(text) or _SURROGATE.search(text) or _is_empty(text):
        raise UserError(f"{option} {text!r}: one line of text, without control characters")


def _is_empty(line: str) -> bool:
    """Whether a line shows nothing: characters without width count for nothing."""
    return all(one.isspace() or unicodedata.category(one) == "Cf" for one in line)


def file_name(submission: Submission, system: System, direction: str) -> str:
    """A hypothesis file's name in the archive.

    The server's form names a model, ``${TEAM}_IWSLT25_ModelCompression_${LANGUAGE_PAIR}_${BIN}_${CONDITION}_${TYPE}``,
    for instance ``KIT_IWSLT25_ModelCompression_en-de_Bin3_constrained_primary``; its files are uploaded one by one, so
    that they stand in no folder. It knows one ``contrastive`` only; here each has its number, as on the task page.
    """
    user, number = submission.user, f"Bin{system.bin}"
    if submission.form == SERVER_2025:
        return f"{user}_{_SET}_ModelCompression_{direction}_{number}_{submission.condition}_{system.kind}.txt"
    return f"{user}/{_SET}.{_TASK}.{direction}.{user}.{number}.{system.kind}.txt"


def files_of(submission: Submission) -> tuple[dict[str, bytes], Mended]:
    """Contents of the archive by name, checked and mended: a line an utterance in UTF-8, each ended by a line feed.

    Raises UserError for counts that differ from the utterances', two primaries of one language and bin, one without,
    and empty hypotheses where nothing is to stand for them; for what of user, contact and the like is no line.
    """
    _check_words(submission)
    if submission.form not in FORMS:
        raise UserError(f"--form {submission.form}: choose from {', '.join(FORMS)}")
    if not submission.systems:
        raise UserError("nothing to submit: give --study with a finished study")
    files: dict[str, bytes] = {}
    mended = Mended()
    for system in submission.systems:
        for direction, hypotheses in system.hypotheses.items():
            name = file_name(submission, system, direction)
            if name in files:
                raise UserError(
                    f"{name}: two systems are {system.kind} of {direction} in bin {system.bin}; one --primary for each "
                    "language and bin, the others are --contrastive"
                )
            files[name] = _content(name, hypotheses, submission, mended)
    _check_primaries(submission)
    return files, mended


def _check_words(submission: Submission) -> None:
    check_user(submission.user)
    check_line("--institute", submission.institute)
    check_line("--contact", submission.contact)
    check_line("--email", submission.email)
    if submission.empty_as is not None:
        check_line("--empty-as", submission.empty_as)


def _check_primaries(submission: Submission) -> None:
    places = {(system.bin, direction): False for system in submission.systems for direction in system.hypotheses}
    for system in submission.systems:
        if system.kind == PRIMARY:
            places |= {(system.bin, direction): True for direction in system.hypotheses}
    lacking = [place for place, has in places.items() if not has]
    if lacking:
        number, direction = lacking[0]
        raise UserError(f"bin {number}, {direction}: no primary system; name one by --primary")


def _content(name: str, hypotheses: Sequence[str], submission: Submission, mended: Mended) -> bytes:
    if len(hypotheses) != submission.utterances:
        raise UserError(
            f"{name}: {len(hypotheses)} lines, but the data have {submission.utterances} utterances; {_ANEW}"
        )
    lines = []
    for number, text in enumerate(hypotheses, 1):
        line = _BREAKS.sub(" ", text)
        mended.breaks += line != text
        line = line.strip()
        if half := _SURROGATE.search(line):
            raise UserError(
                f"{name}: line {number} has half a character, U+{ord(half[0]):04X}, which UTF-8 has not; {_ANEW}"
            )
        if _is_empty(line):
            if submission.empty_as is None:
                raise UserError(
                    f"{name}: line {number} is empty, which breaks the scoring tool; give --empty-as TEXT to stand "
                    "for it, for instance --empty-as ."
                )
            line = submission.empty_as.strip()
            mended.empty += 1
        lines.append(line)
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def write_archive(path: Path, files: dict[str, bytes]) -> None:
    """A gzipped tar that appears whole; the same files give the same bytes, whoever packs them and when."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(files[name]), 0o644, 0
            archive.addfile(entry, io.BytesIO(files[name]))
    out = io.BytesIO()
    # gzip.compress says differently from version to version on which system it was called
    with gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=9, mtime=0) as zipped:
        zipped.write(packed.getvalue())
    with whole_file(path) as temporary:
        temporary.write_bytes(out.getvalue())


def message_of(submission: Submission, mended: Mended) -> str:
    """The text that goes with the archive, with what the task page asks for."""
    lines = [
        f"Institute: {submission.institute}",
        f"Contact Person: {submission.contact}",
        f"Email: {submission.email}",
        f"Data condition: {submission.condition.capitalize()}",
        "Brief description of the models:",
    ]
    for system in submission.systems:
        lines += [
            "",
            f"  Bin{system.bin}, {system.kind} ({', '.join(system.hypotheses)})",
            f"    Exact storage size: {system.storage_bytes:,} bytes",
            f"    Number of parameters: {system.parameters:,}",
            f"    Compression techniques: {'; '.join(system.techniques) or 'none'}",
            *(f"    {detail}" for detail in system.details),
        ]
    if mended.empty:
        lines += ["", f'{mended.empty} empty hypotheses are written as "{submission.empty_as}".']
    if mended.breaks:
        lines += ["", f"Line breaks and control characters within {mended.breaks} hypotheses are written as spaces."]
    return "\n".join(lines) + "\n"
