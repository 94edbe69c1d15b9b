"""Submissions: the task's names, lines that every reader counts alike, one archive for one input, what is refused."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring.submission import FORMS, SERVER_2025, Submission, System, files_of, message_of, write_archive
from space.errors import UserError

TEXTS = {"en-de": ["Ja.", "Das Modell ist klein."], "en-zh": ["对。", "模型很小。"]}
SYSTEM = System(3, "primary", TEXTS, 999_890, 4_745_392, ("distillation", "pruning"), ("en-de: BLEU 90.10",))
SUBMISSION = Submission("FBK", "Foundation", "A. Person", "a@example.org", "constrained", (SYSTEM,), utterances=2)
GERMAN = "FBK/IWSLT25.ModelCompressionTask.en-de.FBK.Bin3.primary.txt"


def of_texts(texts: list[str], **more: Any) -> Submission:
    """A submission of one direction."""
    system = replace(SYSTEM, hypotheses={"en-de": texts})
    return replace(SUBMISSION, systems=(system,), utterances=len(texts), **more)


def test_names_are_the_task_pages() -> None:
    other = replace(SYSTEM, kind="contrastive1", hypotheses={"en-zh": TEXTS["en-zh"]})
    smaller = replace(SYSTEM, bin=4)
    files, _ = files_of(replace(SUBMISSION, systems=(SYSTEM, other, smaller)))
    assert sorted(files) == [
        f"FBK/IWSLT25.ModelCompressionTask.{rest}.txt"
        for rest in (
            "en-de.FBK.Bin3.primary",
            "en-de.FBK.Bin4.primary",
            "en-zh.FBK.Bin3.contrastive1",
            "en-zh.FBK.Bin3.primary",
            "en-zh.FBK.Bin4.primary",
        )
    ]
    assert files[GERMAN].decode("utf-8") == "Ja.\nDas Modell ist klein.\n"


def test_names_of_the_servers_form_are_those_of_its_guidelines() -> None:
    files, _ = files_of(replace(SUBMISSION, user="KIT", form=SERVER_2025))
    assert list(files) == [f"KIT_IWSLT25_ModelCompression_{d}_Bin3_constrained_primary.txt" for d in TEXTS]


@pytest.mark.parametrize("form", FORMS)
def test_one_input_gives_one_archive_of_files_that_belong_to_nobody(form: str, tmp_path: Path) -> None:
    files, _ = files_of(replace(SUBMISSION, user="F" * 32, form=form, condition="unconstrained"))
    write_archive(tmp_path / "one.tar.gz", files)
    write_archive(tmp_path / "more" / "two.tar.gz", dict(reversed(files.items())))
    data = (tmp_path / "one.tar.gz").read_bytes()
    assert data == (tmp_path / "more" / "two.tar.gz").read_bytes()
    # RFC 1952: no flags and so no name, no time, unknown system
    assert (data[3], data[4:8], data[9]) == (0, bytes(4), 255)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data)), mode="r:") as archive:
        members = archive.getmembers()
        assert {one.name: archive.extractfile(one).read() for one in members} == files  # type: ignore[union-attr]
    assert [one.name for one in members] == sorted(files)
    assert all((one.mtime, one.uid, one.gid, one.uname, one.gname) == (0, 0, 0, "", "") for one in members)
    assert all(one.isreg() and one.mode == 0o644 for one in members)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["one.tar.gz"]


def test_an_archive_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "FBK.tar.gz"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match="too long"):
        write_archive(path, {"n" * 101: b""})
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"before"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_texts_are_as_many_lines_for_every_reader(texts: list[str]) -> None:
    files, mended = files_of(of_texts(texts, empty_as="."))
    lines = files[GERMAN].decode("utf-8", "strict").splitlines()
    assert files[GERMAN].count(b"\n") == len(lines) == len(texts)
    assert all(line.strip() for line in lines)
    assert mended.empty <= lines.count(".")
    assert files[GERMAN] == b"".join(f"{line}\n".encode() for line in lines)


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufeff"))))
def test_texts_that_are_lines_stay_but_for_their_ends(texts: list[str]) -> None:
    kept = [text for text in texts if any(one.isalnum() for one in text)]
    files, mended = files_of(of_texts(kept))
    assert files[GERMAN].decode("utf-8").split("\n")[:-1] == [text.strip() for text in kept]
    assert (mended.breaks, mended.empty) == (0, 0)


@given(st.text(), st.characters(categories=["Cs"]), st.text())
def test_half_a_character_is_named_with_its_line(before: str, half: str, after: str) -> None:
    with pytest.raises(UserError, match=rf"line 2 has half a character, U\+{ord(half):04X}") as error:
        files_of(of_texts(["Ja.", f"{before}{half}{after}"], empty_as="."))
    str(error.value).encode("utf-8")


@pytest.mark.parametrize(
    "what", ["\r", "\r\n", "\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\t", "\0", "\ufeff"]
)
def test_what_breaks_lines_becomes_a_space_and_is_counted(what: str) -> None:
    submission = of_texts([f"Ja,{what}doch.", "Nein."])
    files, mended = files_of(submission)
    assert files[GERMAN] == b"Ja, doch.\nNein.\n"
    assert mended.breaks == 1
    assert "within 1 hypotheses are written as spaces" in message_of(submission, mended)


@pytest.mark.parametrize("nothing", ["", " ", "\n", "\u3000", "\u200b", "\ufeff", "\u00a0\u2060"])
def test_a_line_that_shows_nothing_is_refused_or_stood_for(nothing: str) -> None:
    with pytest.raises(UserError, match=r"Bin3\.primary\.txt: line 2 is empty.*--empty-as TEXT"):
        files_of(of_texts(["Ja.", nothing]))
    submission = of_texts(["Ja.", nothing], empty_as="-")
    files, mended = files_of(submission)
    assert files[GERMAN] == b"Ja.\n-\n"
    assert mended.empty == 1
    assert '1 empty hypotheses are written as "-".' in message_of(submission, mended)


def with_systems(*systems: System) -> Callable[[], Submission]:
    return lambda: replace(SUBMISSION, systems=systems)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: replace(SUBMISSION, user=""), "--user ''"),
        (lambda: replace(SUBMISSION, user="../FBK"), "--user '../FBK': letters, digits, - and _ only"),
        (lambda: replace(SUBMISSION, user="Université"), "letters, digits, - and _ only"),
        (lambda: replace(SUBMISSION, user="F" * 33), "at most 32"),
        (lambda: replace(SUBMISSION, user="FBK\n"), "letters, digits, - and _ only"),
        (lambda: replace(SUBMISSION, contact="A\nData condition: x"), "--contact 'A\\nData condition: x': one line"),
        (lambda: replace(SUBMISSION, institute=" "), "--institute ' ': one line of text"),
        (lambda: replace(SUBMISSION, email=""), "--email '': one line of text"),
        (lambda: replace(SUBMISSION, empty_as=""), "--empty-as '': one line of text"),
        (lambda: replace(SUBMISSION, empty_as="a\u2028b"), "--empty-as 'a\\u2028b': one line of text"),
        (lambda: replace(SUBMISSION, empty_as="\ud800"), "--empty-as '\\ud800': one line of text"),
        (lambda: replace(SUBMISSION, form="mail"), "--form mail: choose from task-page, 2025-server"),
        (lambda: replace(SUBMISSION, utterances=3), "2 lines, but the data have 3 utterances; remove"),
        (with_systems(), "nothing to submit"),
        (with_systems(SYSTEM, SYSTEM), "two systems are primary of en-de in bin 3; one --primary for each"),
        (with_systems(replace(SYSTEM, kind="contrastive1")), "bin 3, en-de: no primary system; name one by --primary"),
        (with_systems(SYSTEM, replace(SYSTEM, kind="contrastive1", bin=4)), "bin 4, en-de: no primary system"),
        (
            with_systems(replace(SYSTEM, hypotheses={"en-de": TEXTS["en-de"]}), replace(SYSTEM, kind="contrastive1")),
            "bin 3, en-zh: no primary system",
        ),
    ],
)
def test_what_is_refused_is_one_line(make: Callable[[], Submission], words: str) -> None:
    with pytest.raises(UserError) as error:
        files_of(make())
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_the_message_has_what_the_task_page_asks_for() -> None:
    small = replace(SYSTEM, bin=4, hypotheses={"en-de": TEXTS["en-de"]}, storage_bytes=499_809, details=())
    submission = replace(SUBMISSION, systems=(SYSTEM, small))
    _, mended = files_of(submission)
    assert message_of(submission, mended) == (
        "Institute: Foundation\n"
        "Contact Person: A. Person\n"
        "Email: a@example.org\n"
        "Data condition: Constrained\n"
        "Brief description of the models:\n"
        "\n"
        "  Bin3, primary (en-de, en-zh)\n"
        "    Exact storage size: 999,890 bytes\n"
        "    Number of parameters: 4,745,392\n"
        "    Compression techniques: distillation; pruning\n"
        "    en-de: BLEU 90.10\n"
        "\n"
        "  Bin4, primary (en-de)\n"
        "    Exact storage size: 499,809 bytes\n"
        "    Number of parameters: 4,745,392\n"
        "    Compression techniques: distillation; pruning\n"
    )
