"""ACL 60/60 (Salesky et al. 2023) as its archive unpacks: splits dev and eval, gold segments and whole talks."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from corpora.readings import Reading, Readings, file_bytes, text_lines
from space.errors import UserError

SPLITS = ("dev", "eval")
_SEGMENT = re.compile(r"sent_(\d+)\.wav")


def read_acl6060(folder: Path, languages: Sequence[str]) -> Readings:
    """Both splits below `folder`, which is the archive's, `2`, or `2/acl_6060`.

    Segments have the talk that the XML of their language says; gold wavs are numbered through a split from 1 (or 0).
    Raises UserError naming the file where one is missing, or where counts differ.
    """
    root = _root(folder)
    utterances: list[Reading] = []
    talks: dict[str, bytes] = {}
    for split in SPLITS:
        utterances += _split(root / split, split, languages)
        for talk in _file_order(root / split):
            talks[talk] = file_bytes(root / split / "full_wavs" / f"{talk}.wav", f"--data acl6060: talk {talk}")
    return Readings("acl6060", tuple(utterances), talks, constrained=True)


def _root(folder: Path) -> Path:
    for root in (folder, folder / "acl_6060", folder / "2" / "acl_6060"):
        if all((root / split / "text").is_dir() for split in SPLITS):
            return root
    raise UserError(
        f"--data acl6060:{folder}: no {' and '.join(SPLITS)} with a folder text there, in acl_6060 or in 2/acl_6060; "
        "give the folder that the archive of ACL 60/60 was unpacked in"
    )


def _file_order(split: Path) -> list[str]:
    """Talks in the order of segments, without the endings some lists have."""
    lines = text_lines(split / "FILE_ORDER", f"--data acl6060: order of talks of {split.name}")
    return [line.strip().removesuffix(".wav") for line in lines if line.strip()]


def _split(split: Path, name: str, languages: Sequence[str]) -> list[Reading]:
    wavs = _gold(split / "segmented_wavs" / "gold")
    texts = {code: _texts(split, name, code) for code in ("en", *languages)}
    segments = _segments(split / "text" / "xml" / f"ACL.6060.{name}.en-xx.{languages[0]}.xml")
    order = _file_order(split)
    if unlisted := sorted({talk for talk, _ in segments} - set(order)):
        raise UserError(f"--data acl6060: talk {unlisted[0]} of the XML is not in {split / 'FILE_ORDER'}; mend either")
    counts = {"gold wavs": len(wavs), "XML segments": len(segments)}
    counts |= {f"lines of {code}": len(lines) for code, lines in texts.items()}
    if len(set(counts.values())) != 1 or not wavs:
        said = ", ".join(f"{count} {what}" for what, count in counts.items())
        raise UserError(f"--data acl6060: {split} has {said}; they must be as many, so unpack the archive anew")
    return [
        Reading(
            id=f"{name}-{wav.stem}",
            talk=talk,
            audio=file_bytes(wav, f"--data acl6060: gold segment of {name}"),
            references={code: texts[code][place] for code in languages},
            english=texts["en"][place],
            part=name,
        )
        for place, (wav, (talk, _)) in enumerate(zip(wavs, segments, strict=True))
    ]


def _gold(folder: Path) -> list[Path]:
    """Gold segments by number, without gaps: a missing one would shift all behind it."""
    found = {int(match[1]): path for path in folder.glob("sent_*.wav") if (match := _SEGMENT.fullmatch(path.name))}
    numbers = sorted(found)
    gap = next((number for number in range(numbers[0], numbers[-1]) if number not in found), None) if numbers else None
    if gap is not None:
        raise UserError(f"--data acl6060: {folder / f'sent_{gap}.wav'} is missing; unpack the archive anew")
    return [found[number] for number in numbers]


def _texts(split: Path, name: str, code: str) -> list[str]:
    path = split / "text" / "txt" / f"ACL.6060.{name}.en-xx.{code}.txt"
    lines = [line.strip() for line in text_lines(path, f"--data acl6060: text of {code}")]
    empty = next((number for number, line in enumerate(lines, 1) if not line), None)
    if empty:
        raise UserError(f"--data acl6060: {path} line {empty} is empty; unpack the archive anew")
    return lines


def _segments(path: Path) -> list[tuple[str, str]]:
    """Talk and number of each segment in order."""
    data = file_bytes(path, "--data acl6060: segments of talks")
    if b"<!ENTITY" in data:
        raise UserError(f"--data acl6060: {path} declares entities, which the archive's does not; unpack it anew")
    try:
        tree = ET.fromstring(data)  # noqa: S314  no entities, see above
    except ET.ParseError as error:
        raise UserError(f"--data acl6060: {path} is not XML ({error}); unpack the archive anew") from error
    found = []
    for document in tree.iter("doc"):
        talk = (document.findtext("talkid") or document.get("docid") or "").strip()
        found += [(talk, segment.get("id", "")) for segment in document.iter("seg")]
    return found
