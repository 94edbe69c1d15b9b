"""Data of every form become roles: by talk, once, unchanged; what is wrong with them is one line."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora.audio import SAMPLE_RATE
from corpora.dealing import OF_ALL, OF_THE_REST, dealt, in_blocks
from corpora.importing import resolve_data
from corpora.roles import BUNDLED, CONSTRAINED, ROLES, UNCONSTRAINED, check_condition, open_corpus
from space.errors import UserError
from tests.acl6060 import wav, write_acl6060, write_manifest

CODES = ("de", "zh")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_acl6060(tmp_path_factory.mktemp("acl"))


@pytest.fixture
def broken(archive: Path, tmp_path: Path) -> Path:
    """A copy to be damaged; its dev split."""
    shutil.copytree(archive, tmp_path / "copy")
    return tmp_path / "copy" / "2" / "acl_6060" / "dev"


def refusal(reference: str, cache: Path) -> str:
    with pytest.raises(UserError) as raised:
        resolve_data(reference, CODES, cache)
    line = str(raised.value)
    assert "\n" not in line
    assert not list(cache.glob("*/origin.json"))
    return line


def test_the_archive_becomes_roles_by_talk(archive: Path, tmp_path: Path) -> None:
    folder = resolve_data(f"acl6060:{archive}", CODES, tmp_path)
    corpus = open_corpus(folder, CODES)
    talks = {role: {example.talk for example in corpus.examples(role)} for role in ROLES}
    assert talks["report"] == {"2022.acl-long.113", "2022.acl-long.114"}
    assert sum(map(len, talks.values())) == 5
    assert len(set.union(*talks.values())) == 5
    bundled = {example.references["zh"]: example for example in open_corpus(BUNDLED).examples("report")}
    for example in corpus.examples("report"):
        twin = bundled[example.references["zh"]]
        assert (example.references, example.english) == (twin.references, twin.english)
        assert example.utterance == pytest.approx(np.asarray(twin.utterance), abs=1e-3)
        assert example.id.startswith("eval-sent_")
    for form in (archive / "2", archive / "2" / "acl_6060"):
        assert resolve_data(f"acl6060:{form}", CODES, tmp_path) == folder


def test_whole_talks_hold_their_segments_in_order(archive: Path, tmp_path: Path) -> None:
    corpus = open_corpus(resolve_data(f"acl6060:{archive}", CODES, tmp_path), CODES)
    assert corpus.has_whole_talks("report")
    for talk in corpus.talks("report"):
        at = SAMPLE_RATE // 2
        assert len(talk.examples) == 3
        for example in talk.examples:
            length = len(example.utterance)
            assert talk.samples[at : at + length] == pytest.approx(np.asarray(example.utterance), abs=1e-4)
            at += length + SAMPLE_RATE // 2
        assert at == len(talk.samples)


def test_what_is_imported_stays_until_data_change(archive: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = resolve_data(f"acl6060:{archive}", CODES, tmp_path, said.append)
    assert said == [f"imported 15 utterances into {first}"]
    before = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert resolve_data(f"acl6060:{archive}", CODES, tmp_path, said.append) == first
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == before
    assert len(said) == 1
    assert resolve_data(f"acl6060:{archive}", ("de",), tmp_path) != first
    text = archive / "2/acl_6060/dev/text/txt/ACL.6060.dev.en-xx.de.txt"
    kept = text.read_text()
    try:
        text.write_text("Neu. " + kept)
        assert resolve_data(f"acl6060:{archive}", CODES, tmp_path) not in (first, None)
    finally:
        text.write_text(kept)


def test_only_acl6060_unchanged_is_constrained(archive: Path, tmp_path: Path) -> None:
    folder = resolve_data(f"acl6060:{archive}", CODES, tmp_path)
    check_condition(CONSTRAINED, open_corpus(folder, CODES), "acl")
    check_condition(UNCONSTRAINED, open_corpus(BUNDLED, CODES), "bundled")
    with pytest.raises(UserError, match="--condition constrained: bundled is not ACL 60/60"):
        check_condition(CONSTRAINED, open_corpus(BUNDLED, CODES), "bundled")
    mine = tmp_path / "mine"
    shutil.copytree(folder, mine)
    table = pq.read_table(mine / "calibrate.parquet")
    pq.write_table(table.set_column(3, "en", pa.array(["more"] * len(table))), mine / "calibrate.parquet")
    assert not open_corpus(mine, CODES).constrained
    # audio of whole talks is part of the data
    shutil.rmtree(mine)
    shutil.copytree(folder, mine)
    assert open_corpus(mine, CODES).constrained
    talks = pq.read_table(mine / "talks-report.parquet")
    pq.write_table(talks.slice(0, 1), mine / "talks-report.parquet")
    assert not open_corpus(mine, CODES).constrained


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda dev: (dev / "segmented_wavs/gold/sent_2.wav").unlink(), "sent_2.wav is missing"),
        (lambda dev: (dev / "segmented_wavs/gold/sent_9.wav").unlink(), "8 gold wavs, 9 XML segments, 9 lines of en"),
        (lambda dev: (dev / "FILE_ORDER").unlink(), "FILE_ORDER cannot be read (No such file or directory)"),
        (lambda dev: (dev / "FILE_ORDER").write_text("2022.acl-long.110\n"), "talk 2022.acl-long.111 of the XML is"),
        (lambda dev: (dev / "full_wavs/2022.acl-long.111.wav").unlink(), "2022.acl-long.111.wav cannot be read"),
        (lambda dev: dev.rename(dev.with_name("development")), "give the folder that the archive of ACL 60/60"),
        (
            lambda dev: (dev / "segmented_wavs/gold/sent_4.wav").write_bytes(wav(np.zeros(16_000, np.float32))),
            "audio of dev-sent_4 is silent",
        ),
        (
            lambda dev: (dev / "text/xml/ACL.6060.dev.en-xx.de.xml").write_text("<mteval><doc>"),
            "ACL.6060.dev.en-xx.de.xml is not XML",
        ),
        (
            lambda dev: (dev / "text/xml/ACL.6060.dev.en-xx.de.xml").write_text("<!DOCTYPE a [<!ENTITY b 'c'>]><a/>"),
            "declares entities",
        ),
        (
            lambda dev: (dev / "text/txt/ACL.6060.dev.en-xx.zh.txt").write_bytes(b"\xff\xfe"),
            "ACL.6060.dev.en-xx.zh.txt is not UTF-8",
        ),
    ],
)
def test_a_damaged_archive_is_one_line(
    damage: Callable[[Path], None], words: str, broken: Path, tmp_path: Path
) -> None:
    damage(broken)
    assert words in refusal(f"acl6060:{tmp_path / 'copy'}", tmp_path / "cache")


def test_utterances_that_are_heard_in_part_are_told(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    noise = np.random.default_rng(0).standard_normal(31 * SAMPLE_RATE).astype(np.float32) * 0.1
    first = json.loads(manifest.read_text().splitlines()[0])["audio"]
    (tmp_path / first).write_bytes(wav(noise))
    said: list[str] = []
    resolve_data(str(manifest), CODES, tmp_path / "cache", said.append)
    assert said[0] == "line-1 lasts 31.0 s, of which models hear 30"


def test_a_manifest_becomes_roles_with_prompts(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines[0]["prompt"] = "Translate into the language asked for:"
    lines[1]["id"] = "mine"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    corpus = open_corpus(resolve_data(str(manifest), CODES, tmp_path / "cache"), CODES)
    found = {example.id: example for role in ROLES for example in corpus.examples(role)}
    assert len(found) == 8
    assert found["line-1"].prompt == lines[0]["prompt"]
    assert (found["mine"].english, found["mine"].prompt) == (lines[1]["text"], None)
    assert not corpus.constrained


def test_roles_of_a_manifest_are_kept(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for place, line in enumerate(lines):
        line["role"] = ROLES[place // 2]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    corpus = open_corpus(resolve_data(str(manifest), CODES, tmp_path / "cache"), CODES)
    assert [example.id for example in corpus.examples("report")] == ["line-7", "line-8"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _line: "[1", "line 2: not JSON"),
        (lambda _line: "[1]", "line 2: no object"),
        (lambda line: json.dumps(line | {"speaker": "a"}), "line 2: there is no field 'speaker'"),
        (lambda line: json.dumps(line | {"audio": "none.wav"}), "none.wav cannot be read (No such file or directory)"),
        (lambda line: json.dumps(line | {"audio": 7}), "line 2: audio is 7"),
        (lambda line: json.dumps(line | {"references": {"de": "Ja."}}), "line 2: lacks a reference in zh"),
        (lambda line: json.dumps(line | {"role": "test"}), "line 2: role 'test'; choose from calibrate"),
        (lambda line: json.dumps(line | {"role": "select"}), "1 of 8 lines have a role"),
        (lambda line: json.dumps(line | {"id": "line-1"}), "utterance 'line-1' is there 2 times"),
    ],
)
def test_a_wrong_line_of_a_manifest_is_named(
    change: Callable[[dict[str, object]], str], words: str, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path)
    lines = manifest.read_text().splitlines()
    lines[1] = change(json.loads(lines[1]))
    manifest.write_text("\n".join(lines))
    assert words in refusal(str(manifest), tmp_path / "cache")


def test_fewer_talks_than_roles_are_refused(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, talks=3)
    assert "3 talks for the 4 roles calibrate, proxy, select, report" in refusal(str(manifest), tmp_path / "cache")


def test_the_hubs_form_is_read_offline(tmp_path: Path) -> None:
    """Splits dev and eval, columns as `ymoslem/acl-6060` has them, no talks: roles are stretches."""
    data = tmp_path / "hub" / "data"
    data.mkdir(parents=True)
    examples = open_corpus(BUNDLED).examples("report")[:8]
    for split, part in (("dev", examples[:5]), ("eval", examples[5:])):
        rows = [
            {
                "index": place,
                "audio": {"bytes": wav(np.asarray(example.utterance)), "path": f"{place}.wav"},
                "text_en": example.english,
                "text_de": example.references["de"],
                "text_zh": example.references["zh"],
            }
            for place, example in enumerate(part)
        ]
        pq.write_table(pa.Table.from_pylist(rows), data / f"{split}-00000-of-00001.parquet")
    (tmp_path / "hub" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: dev\n    path: data/dev-*\n"
        "  - split: eval\n    path: data/eval-*\n---\n"
    )
    said: list[str] = []
    corpus = open_corpus(resolve_data(f"hf:{tmp_path / 'hub'}", CODES, tmp_path / "cache", said.append), CODES)
    counts = {role: len(corpus.examples(role)) for role in ROLES}
    assert counts == {"calibrate": 3, "proxy": 1, "select": 1, "report": 3}
    assert [example.english for example in corpus.examples("report")] == [example.english for example in examples[5:]]
    assert "talks are not known" in said[0]
    assert "cannot be loaded" in refusal(f"hf:{tmp_path / 'nothing'}", tmp_path / "other")


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 200), min_size=4, max_size=30))
def test_every_talk_has_one_role_and_every_role_a_talk(talks: dict[str, int]) -> None:
    for shares in (OF_ALL, OF_THE_REST):
        roles = dealt(talks, shares, "data")
        assert set(roles) == set(talks)
        assert set(roles.values()) == set(shares)
        assert roles == dealt(dict(sorted(talks.items())), shares, "data")


def test_even_talks_are_dealt_by_their_shares() -> None:
    roles = dealt({f"talk {number}": 10 for number in range(20)}, OF_ALL, "data")
    assert Counter(roles.values()) == {"calibrate": 10, "proxy": 3, "select": 3, "report": 4}


@given(st.integers(5, 300))
def test_stretches_are_in_order(count: int) -> None:
    roles = list(in_blocks([str(number) for number in range(count)], OF_ALL).values())
    assert sorted(roles, key=ROLES.index) == roles
    assert len(roles) == count
