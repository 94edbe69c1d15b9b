"""The submission of the IWSLT 2025 model compression track: names, archive, message (task page, "Submission")."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from space.errors import UserError
from space.files import whole_file

PRIMARY, CONTRASTIVE = "primary", "contrastive"
TASK_PAGE, SERVER_2025 = "task-page", "2025-server"
FORMS = (TASK_PAGE, SERVER_2025)
_SET, _TASK = "IWSLT25", "ModelCompressionTask"
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# What would break a line for some reader (Unicode's line breaks among them), or is no text: all of category Cc.
_BREAKS = re.compile("[\u0000-\u001f\u007f-\u009f\u2028\u2029]+")


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
    where: list[str] = field(default_factory=list)


def check_user(user: str) -> None:
    """Raises UserError for a user id that is no plain word: it is a folder's name, and between dots."""
    if not _USER.fullmatch(user):
        raise UserError(f"--user {user!r}: letters, digits, - and _ only, as in the registration, for instance FBK")


def file_name(submission: Submission, system: System, direction: str) -> str:
    """A hypothesis file's name in the archive.

    The later form, ``${TEAM}_IWSLT25_ModelCompression_${LP}_${BIN}_${COND}_${TYPE}``, has no folder and no ending.
    """
    user, number = submission.user, f"Bin{system.bin}"
    if submission.form == SERVER_2025:
        condition = submission.condition.capitalize()
        return f"{user}_{_SET}_ModelCompression_{direction}_{number}_{condition}_{system.kind}"
    return f"{user}/{_SET}.{_TASK}.{direction}.{user}.{number}.{system.kind}.txt"


def files_of(submission: Submission) -> tuple[dict[str, bytes], Mended]:
    """Contents of the archive by name, checked and mended.

    Raises UserError for counts that differ from the utterances', two primaries of one language and bin, one without,
    and empty hypotheses where nothing is to stand for them.
    """
    check_user(submission.user)
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
            f"{name}: {len(hypotheses)} lines, but the data have {submission.utterances} utterances; run the search's "
            "command again, which translates anew"
        )
    lines = []
    for number, text in enumerate(hypotheses, 1):
        line = _BREAKS.sub(" ", text)
        mended.breaks += line != text
        line = line.strip()
        if not line:
            if submission.empty_as is None:
                raise UserError(
                    f"{name}: line {number} is empty, which breaks the scoring tool; give --empty-as TEXT to stand "
                    "for it"
                )
            line = _BREAKS.sub(" ", submission.empty_as).strip()
            if not line:
                raise UserError(f"--empty-as {submission.empty_as!r}: is empty, too; give for instance --empty-as .")
            mended.empty += 1
        lines.append(line)
    try:
        return "".join(f"{line}\n" for line in lines).encode("utf-8")
    except UnicodeEncodeError as error:
        number = 1 + str(error.object)[: error.start].count("\n")
        raise UserError(f"{name}: line {number} is no text that UTF-8 has; translate anew") from error


def write_archive(path: Path, files: dict[str, bytes]) -> None:
    """A gzipped tar that appears whole; the same files give the same bytes, whoever packs them and when."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(files[name]), 0o644, 0
            archive.addfile(entry, io.BytesIO(files[name]))
    with whole_file(path) as temporary:
        temporary.write_bytes(gzip.compress(packed.getvalue(), mtime=0))


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
