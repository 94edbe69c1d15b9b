"""Data of any form as a folder of roles, made once and kept: what --data names, however it is written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpora.acl6060 import read_acl6060
from corpora.audio import HEARD_SECONDS, decode_audio, encode_audio, seconds
from corpora.dealing import OF_ALL, OF_THE_REST, dealt, in_blocks
from corpora.hub import read_hub
from corpora.manifest import read_manifest
from corpora.readings import Reading, Readings
from corpora.roles import BUNDLED, ORIGIN, ROLES, TALKS, fingerprint_of
from space.errors import UserError
from space.files import write_whole

FORMS = "a folder of roles, acl6060:FOLDER, hf:NAME or LIST.jsonl"
# Another form of what is kept: data are imported anew.
# 2: their fingerprint is of whole talks, too.
_FORMAT = 2
_REPORT_SPLITS = ("eval", "test")
_MOST_FINDINGS = 3
_WITH_TALKS = ("select", "report")


def resolve_data(
    reference: str | None, languages: Sequence[str], cache: Path, say: Callable[[str], None] = lambda _line: None
) -> Path:
    """The folder of roles that --data names (nothing: the bundled one); other forms are imported into `cache` first.

    What is said of odd utterances goes to `say`. Raises UserError naming file and utterance.
    """
    if reference is None:
        return BUNDLED
    readings = _read(reference, languages)
    if readings is None:
        return Path(reference)
    digest = _digest(readings, languages)
    folder = cache / f"{_plain(readings.name)}-{digest}"
    if not (folder / ORIGIN).is_file():
        readings = _checked(readings, say)
        _write(folder, reference, readings, _roles(reference, readings, say), languages)
        say(f"imported {len(readings.utterances)} utterances into {folder}")
    return folder


def _read(reference: str, languages: Sequence[str]) -> Readings | None:
    form, _, rest = reference.partition(":")
    if form == "acl6060":
        return read_acl6060(Path(rest), languages)
    if form == "hf":
        return read_hub(rest, languages)
    if reference.endswith(".jsonl"):
        return read_manifest(Path(reference), languages, ROLES)
    return None


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)[:40].lstrip(".") or "data"


def _digest(readings: Readings, languages: Sequence[str]) -> str:
    """Of all that is read, so that changed data are imported anew."""
    digest = hashlib.sha256(f"{_FORMAT} {sorted(languages)} {readings.constrained}".encode())
    for one in readings.utterances:
        digest.update(json.dumps([one.id, one.talk, one.english, one.prompt, one.part]).encode())
        digest.update(json.dumps(one.references, sort_keys=True).encode() + hashlib.sha256(one.audio).digest())
    for talk, audio in sorted(readings.talks.items()):
        digest.update(talk.encode() + hashlib.sha256(audio).digest())
    return digest.hexdigest()[:12]


def _checked(readings: Readings, say: Callable[[str], None]) -> Readings:
    """The utterances as 16 kHz mono FLAC. Raises UserError for one no model could hear; says which are cut."""
    names = Counter(one.id for one in readings.utterances)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(f"--data {readings.name}: utterance {twice[0]!r} is there {names[twice[0]]} times; rename it")
    found, long = [], []
    for one in readings.utterances:
        samples = decode_audio(one.audio, one.id)
        if seconds(samples) > HEARD_SECONDS:
            long.append(f"{one.id} lasts {seconds(samples):.1f} s, of which models hear {HEARD_SECONDS:g}")
        found.append(replace(one, audio=encode_audio(samples)))
    for line in long[:_MOST_FINDINGS]:
        say(line)
    if len(long) > _MOST_FINDINGS:
        say(f"{len(long) - _MOST_FINDINGS} more are longer than {HEARD_SECONDS:g} s")
    talks = {talk: encode_audio(decode_audio(audio, f"talk {talk}")) for talk, audio in readings.talks.items()}
    return replace(readings, utterances=tuple(found), talks=talks)


def _roles(reference: str, readings: Readings, say: Callable[[str], None]) -> list[tuple[str, Reading]]:
    """Each utterance with its role, in their order."""
    what = f"--data {reference}"
    if readings.utterances[0].part in ROLES:
        return [(one.part or "", one) for one in readings.utterances]
    reported = [one for one in readings.utterances if one.part in _REPORT_SPLITS]
    rest = [one for one in readings.utterances if one.part not in _REPORT_SPLITS]
    shares = OF_THE_REST if reported else OF_ALL
    if any(not one.talk for one in readings.utterances):
        say("talks are not known: roles are stretches of the order that utterances have")
        blocks = in_blocks([one.id for one in rest], shares)
        named = [(blocks[one.id], replace(one, talk=f"{one.part}, {blocks[one.id]}")) for one in rest]
        return [*named, *(("report", replace(one, talk=f"{one.part}")) for one in reported)]
    roles = dealt(Counter(one.talk for one in rest), shares, what)
    if both := sorted(set(roles) & {one.talk for one in reported}):
        raise UserError(f"{what}: talk {both[0]!r} is in two splits; give each talk to one")
    return [*((roles[one.talk], one) for one in rest), *(("report", one) for one in reported)]


def _write(
    folder: Path, reference: str, readings: Readings, roles: Sequence[tuple[str, Reading]], languages: Sequence[str]
) -> None:
    """Written beside and renamed, its origin last: what is there is whole."""
    if missing := [role for role in ROLES if role not in {name for name, _ in roles}]:
        raise UserError(f"--data {reference}: no utterance has the role {missing[0]}; give it some")
    made = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    talk_roles = {one.talk: role for role, one in roles}
    for role in ROLES:
        rows = [_row(one, languages) for name, one in roles if name == role]
        pq.write_table(pa.Table.from_pylist(rows, _schema(languages)), made / f"{role}.parquet")
        talks = [
            {"talk": talk, "audio": {"bytes": audio, "path": None}}
            for talk, audio in readings.talks.items()
            if talk_roles.get(talk) == role
        ]
        if talks and role in _WITH_TALKS:
            pq.write_table(pa.Table.from_pylist(talks), made / TALKS.format(role=role))
    origin = {"name": readings.name, "constrained": readings.constrained, "fingerprint": fingerprint_of(made)}
    write_whole(made / ORIGIN, json.dumps(origin))
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)


def _row(one: Reading, languages: Sequence[str]) -> dict[str, Any]:
    return {
        "id": one.id,
        "talk": one.talk,
        "audio": {"bytes": one.audio, "path": None},
        "en": one.english,
        "prompt": one.prompt,
        **{code: one.references[code] for code in languages},
    }


def _schema(languages: Sequence[str]) -> pa.Schema:
    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = [(name, pa.string()) for name in ("en", "prompt", *languages)]
    return pa.schema([("id", pa.string()), ("talk", pa.string()), ("audio", audio), *texts])
