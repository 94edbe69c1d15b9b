"""Submissions of made studies: which finalists go where, what the message says of them, what is refused and how."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import launch
from compress.checkpoint import folder_bytes, read_plan
from compress.tensors import save_tensors
from models.loading import Source
from models.packaging import summed
from space.bins import BINARY, REFERENCE_BYTES, Units, bin_range
from space.plan import REMOVED, Heal, Layer, uniform_plan
from space.rates import Coded
from space.size import plan_parameters, unit_bytes, units
from tests.tiny import load_tiny

TRANSLATIONS = {"en-de": ["Ja.", "Das Modell ist klein."], "en-zh": ["对。", "模型很小。"]}
DATA, GOLD = "report role of data 0123456789abcdef", "segments|gold segments, not re-segmented"
WHO = ("submit", "--user", "FBK", "--institute", "Foundation", "--contact", "A. Person", "--email", "a@example.org")
Study = Callable[..., Path]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def model(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is whole, of weights that are all zeros, smaller than bin 3."""
    plan = uniform_plan(source.layout, Coded(0.7), Heal(200))
    gone = Layer(REMOVED, REMOVED)
    plan = replace(
        plan,
        vocabulary=source.layout.vocabulary_sizes[0],
        encoder=(plan.encoder[0], *[gone] * (len(plan.encoder) - 1)),
        decoder=(plan.decoder[0], *[gone] * (len(plan.decoder) - 1)),
    )
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    folder.mkdir()
    tensors = {one.name: torch.zeros(unit_bytes(one), dtype=torch.uint8) for one in units(source.layout, plan)}
    save_tensors(tensors, folder / "model.safetensors")
    (folder / "plan.json").write_text(plan.to_json())
    for name, data in source.vocabulary.fixed_files(plan.vocabulary).items():
        (folder / name).write_bytes(data)
    summed(folder)
    assert read_plan(folder) == (read_plan(folder)[0], plan)
    assert folder_bytes(folder) < bin_range(3, source.layout.source_bytes).least_bytes
    return folder


def least(source: Source, number: int, units: Units | None = None) -> int:
    """The least bytes of a bin."""
    return bin_range(number, source.layout.source_bytes, *([units] if units else [])).least_bytes


def scores_of(more: str = GOLD) -> dict[str, Any]:
    return {
        direction: {
            "bleu": 90.1,
            "chrf": 92.5,
            "chrf++": 91.0,
            "signatures": [f"BLEU|tok:{direction}", DATA, more],
        }
        for direction in TRANSLATIONS
    }


@pytest.fixture
def study(source: Source, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Makes a finished study below the current folder: finalists by number with their bytes on disk."""
    monkeypatch.chdir(tmp_path)
    layout, plan = read_plan(model)

    def make(name: str = "bin3", finalists: Mapping[int, int] | None = None, **more: Any) -> Path:
        folder = Path("studies") / name
        finalists = finalists or {12: least(source, 3), 40: least(source, 3) + 7}
        for number, size_bytes in finalists.items():
            one = folder / "finalists" / f"trial-{number}"
            shutil.copytree(model, one / "model")
            (one / "model" / "filling").write_bytes(bytes(size_bytes - folder_bytes(model)))
            result = {
                "trial": number,
                "bytes_on_disk": size_bytes,
                "parameters": plan_parameters(layout, plan),
                "scores": scores_of(),
                "translations": {d: [f"{text}{number}" for text in texts] for d, texts in TRANSLATIONS.items()},
            }
            (one / "result.json").write_text(json.dumps(result))
        rows = [{"trial": number, "bytes_on_disk": size_bytes} for number, size_bytes in finalists.items()]
        summary = {
            "bin": 3,
            "units": "decimal",
            "condition": "constrained",
            "utterances": 2,
            "data": "studies/data/acl6060",
            "signatures": {"loss": "l", **{d: scores["signatures"] for d, scores in scores_of().items()}},
            "finalists": rows[:-1],
            "champion": rows[0],
            "baselines": rows[-1:],
            "source": {"bytes": layout.source_bytes},
            **more,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return make


def submitted(*words: str) -> dict[str, str]:
    """Contents of the archive by name, without what all names begin and end with."""
    assert launch.main([*WHO, *words]) == 0
    with tarfile.open("submission/FBK.tar.gz", "r:gz") as archive:
        return {
            one.name.removeprefix("FBK/IWSLT25.ModelCompressionTask.").removesuffix(".txt"): archive.extractfile(one)
            .read()  # type: ignore[union-attr]
            .decode("utf-8")
            for one in archive
        }


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a mistake gives; nothing is written."""
    capsys.readouterr()
    assert launch.main([*WHO, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tightfit: ")
    assert error.count("\n") == 1
    assert not Path("submission").exists()
    return error


def change(path: Path, **more: Any) -> None:
    """Changes what a JSON file says; what becomes None goes."""
    found = {**json.loads(path.read_text()), **more}
    gone = {key for key, value in more.items() if value is None}
    path.write_text(json.dumps({key: value for key, value in found.items() if key not in gone}))


def test_the_champion_is_the_primary_of_its_bin(study: Study, source: Source) -> None:
    study()
    assert submitted("--study", "bin3") == {
        "en-de.FBK.Bin3.primary": "Ja.12\nDas Modell ist klein.12\n",
        "en-zh.FBK.Bin3.primary": "对。12\n模型很小。12\n",
    }


def test_the_message_says_what_the_model_is(study: Study, source: Source, model: Path) -> None:
    study()
    submitted("--study", "bin3")
    layout, plan = read_plan(model)
    tokens, whole = plan.vocabulary, layout.vocabulary
    assert Path("submission/message.txt").read_text(encoding="utf-8") == (
        "Institute: Foundation\n"
        "Contact Person: A. Person\n"
        "Email: a@example.org\n"
        "Data condition: Constrained\n"
        "Brief description of the models:\n"
        "\n"
        "  Bin3, primary (en-de, en-zh)\n"
        f"    Exact storage size: {least(source, 3):,} bytes\n"
        f"    Number of parameters: {plan_parameters(layout, plan):,}\n"
        "    Compression techniques: 2 of 3 encoder layers removed; 2 of 3 decoder layers removed; "
        f"vocabulary trimmed to {tokens} of {whole} tokens; "
        "quantisation with error feedback (GPTQ), entropy-coded, 0.70 bits a weight on average; "
        "bits of tables: embedding 0.70, lm head 0.70, projector 0.70, convolutions 0.70; "
        "distillation from the uncompressed model, 200 steps (all weights)\n"
        f"    bounds of bins scaled to a source of {layout.source_bytes:,} bytes "
        f"(Qwen2-Audio-7B: {REFERENCE_BYTES:,})\n"
        "    bin 3 where a kB is 1000 bytes, bin 4 where it is 1024\n"
        "    data: acl6060; calibrated and healed on its role calibrate, searched on proxy, chosen on select; scores "
        "are on report, which the search does not see\n"
        "    en-de: BLEU 90.10, chrF2 92.50, chrF2++ 91.00\n"
        "    en-zh: BLEU 90.10, chrF2 92.50, chrF2++ 91.00\n"
        "    en-de signature: BLEU|tok:en-de\n"
        f"    en-de, en-zh signature: {DATA}\n"
        f"    en-de, en-zh signature: {GOLD}\n"
        "    en-zh signature: BLEU|tok:en-zh\n"
    )


def test_the_message_says_what_the_source_was_trained_on(study: Study, source: Source) -> None:
    adapted = {"bytes": source.layout.source_bytes, "adapted": "lora, 600 steps, on other data"}
    study(source=adapted)
    submitted("--study", "bin3")
    message = Path("submission/message.txt").read_text(encoding="utf-8")
    assert "    the source was adapted first: lora, 600 steps, on other data\n" in message


def test_what_is_written_is_said_and_the_same_wherever_the_studies_are(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study()
    assert launch.main([*WHO, "--study", "bin3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    first = {path.name: path.read_bytes() for path in Path("submission").iterdir()}
    assert set(first) == {"FBK.tar.gz", "message.txt"}
    assert (said["archive"], said["bytes"]) == ("submission/FBK.tar.gz", len(first["FBK.tar.gz"]))
    assert [(one["lines"], one["bytes"]) for one in said["files"]] == [
        (2, len("Ja.12\nDas Modell ist klein.12\n")),
        (2, len("对。12\n模型很小。12\n".encode())),
    ]
    Path("studies").rename(tmp_path / "elsewhere")
    assert launch.main([*WHO, "--study", "bin3", "--root", "elsewhere", "--out", "again"]) == 0
    assert {path.name: path.read_bytes() for path in Path("again").iterdir()} == first
    shown = capsys.readouterr().out
    assert f"sha256 {said['sha256']}" in shown
    assert "Exact storage size" in shown


def test_contrastives_have_numbers_in_the_order_given(study: Study, source: Source) -> None:
    size = least(source, 3)
    study(finalists={7: size, 12: size, 40: size}, champion={"trial": 12, "bytes_on_disk": 0})
    words = ("--study", "bin3", "--contrastive", "40", "--contrastive", "bin3:7")
    found = {name: text.split("\n")[0] for name, text in submitted(*words).items() if name.startswith("en-de")}
    assert found == {
        "en-de.FBK.Bin3.primary": "Ja.12",
        "en-de.FBK.Bin3.contrastive1": "Ja.40",
        "en-de.FBK.Bin3.contrastive2": "Ja.7",
    }
    assert submitted("--study", "bin3", "--primary", "40")["en-de.FBK.Bin3.primary"].startswith("Ja.40")


def test_names_are_shown_whole_in_a_narrow_terminal(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    study()
    submitted("--study", "bin3", "--contrastive", "40")
    table = capsys.readouterr().out.partition("sha256")[0]
    shown = "".join(line.split("│")[1].strip() for line in table.splitlines() if line.startswith("│"))
    assert "FBK/IWSLT25.ModelCompressionTask.en-zh.FBK.Bin3.contrastive1.txt" in shown


def test_contrastives_of_other_languages_begin_at_1(study: Study) -> None:
    study()
    for name, direction in (("german", "en-de"), ("chinese", "en-zh")):
        result = study(name) / "finalists" / "trial-12" / "result.json"
        change(result, translations={direction: TRANSLATIONS[direction]}, scores={direction: scores_of()[direction]})
    names = ("bin3", "german", "chinese")
    found = submitted(
        *(word for name in names for word in ("--study", name)),
        *("--contrastive", "german:12", "--contrastive", "chinese:12"),
    )
    assert set(found) == {f"{d}.FBK.Bin3.{kind}" for d in TRANSLATIONS for kind in ("primary", "contrastive1")}


def test_studies_of_several_bins_go_into_one_archive(study: Study, source: Source) -> None:
    study()
    study("bin2", {5: least(source, 2)}, bin=2)
    found = submitted("--study", "bin3", "--study", "bin2", "--contrastive", "bin3:40")
    assert sorted(name for name in found if name.startswith("en-zh")) == [
        "en-zh.FBK.Bin2.primary",
        "en-zh.FBK.Bin3.contrastive1",
        "en-zh.FBK.Bin3.primary",
    ]
    message = Path("submission/message.txt").read_text()
    assert message.count("\n\n") == 3
    assert message.index("Bin3, primary") < message.index("Bin2, primary") < message.index("Bin3, contrastive1")


def test_two_studies_of_one_bin_need_to_be_told_apart(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study("one", champion={"trial": 12, "bytes_on_disk": 0})
    study("two", champion={"trial": 40, "bytes_on_disk": 0})
    both = ("--study", "one", "--study", "two")
    assert "one:12 and two:40 are both primary of en-de in bin 3; one --primary for each" in refused(capsys, *both)
    error = refused(capsys, *both, "--primary", "one:40")
    assert "--study two: other studies have the primary of each of its bins; leave the study out" in error
    assert "give --contrastive two:40" in error
    for primary in ((), ("--primary", "one:12")):
        found = submitted(*both, *primary, "--contrastive", "two:40")
        assert found["en-de.FBK.Bin3.primary"].startswith("Ja.12")
        assert found["en-de.FBK.Bin3.contrastive1"].startswith("Ja.40")
    found = submitted(*both, "--primary", "one:12", "--contrastive", "two:12")
    assert found["en-de.FBK.Bin3.contrastive1"].startswith("Ja.12")


def test_without_a_bin_of_its_own_a_study_is_in_that_of_its_bytes(
    study: Study, source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    bound = least(source, 2)
    for size_bytes, number in ((bound - 1, 3), (bound, 2)):
        study("mine", {5: size_bytes}, bin=None)
        assert set(submitted("--study", "mine")) == {f"{d}.FBK.Bin{number}.primary" for d in TRANSLATIONS}
        shutil.rmtree("studies")
        shutil.rmtree("submission")
    study("mine", {5: bin_range(1, source.layout.source_bytes).bound_bytes}, bin=None)
    assert "are larger than every bin; search a bin, for instance --bin 1" in refused(capsys, "--study", "mine")


def test_bins_are_counted_in_the_units_of_the_study(study: Study, source: Source) -> None:
    size_bytes = least(source, 2)
    assert size_bytes < least(source, 2, BINARY)
    study("mine", {5: size_bytes}, units="binary")
    assert set(submitted("--study", "mine")) == {f"{d}.FBK.Bin3.primary" for d in TRANSLATIONS}


def german_of(found: Mapping[str, str]) -> dict[str, int]:
    """The trials whose German is in an archive, by bin and kind."""
    return {
        name.removeprefix("en-de.FBK."): int(text.split("\n")[0].removeprefix("Ja."))
        for name, text in found.items()
        if name.startswith("en-de")
    }


@pytest.fixture
def front(study: Study, source: Source) -> dict[int, int]:
    """A study over all sizes, two of whose front are in bin 2; its trials and their bytes."""
    sizes = {5: least(source, 3), 7: least(source, 2), 8: least(source, 2) + 9, 9: least(source, 1)}
    rows = [{"trial": trial, "bytes_on_disk": size_bytes} for trial, size_bytes in sizes.items()]
    study("pareto", sizes, bin=None, champion=None, front=rows)
    return sizes


@pytest.mark.usefixtures("front")
def test_of_a_front_the_best_in_each_bin_are_primaries(study: Study) -> None:
    found = german_of(submitted("--study", "pareto"))
    assert found == {"Bin3.primary": 5, "Bin2.primary": 8, "Bin1.primary": 9}
    for words in (("--primary", "7", "--contrastive", "pareto:8"), ("--contrastive", "8")):
        found = german_of(submitted("--study", "pareto", *words))
        assert found == {"Bin3.primary": 5, "Bin2.primary": 7, "Bin1.primary": 9, "Bin2.contrastive1": 8}
    # its own study's champion stands for a bin, in whatever order studies are named
    study()
    for studies in (("bin3", "pareto"), ("pareto", "bin3")):
        found = german_of(submitted(*(word for name in studies for word in ("--study", name))))
        assert found == {"Bin3.primary": 12, "Bin2.primary": 8, "Bin1.primary": 9}


@pytest.mark.usefixtures("front")
def test_a_front_has_the_languages_that_nothing_else_is_primary_of(study: Study) -> None:
    result = study() / "finalists" / "trial-12" / "result.json"
    change(result, translations={"en-de": TRANSLATIONS["en-de"]}, scores={"en-de": scores_of()["en-de"]})
    found = submitted("--study", "bin3", "--study", "pareto")
    assert found["en-de.FBK.Bin3.primary"] == "Ja.\nDas Modell ist klein.\n"
    assert found["en-zh.FBK.Bin3.primary"] == "对。5\n模型很小。5\n"
    message = Path("submission/message.txt").read_text(encoding="utf-8")
    assert message.count("    en-de: BLEU") == message.count("    en-zh: BLEU") == 3


def test_two_fronts_need_to_be_told_apart(
    study: Study, front: dict[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("studies/pareto", "studies/other")
    both = ("--study", "pareto", "--study", "other")
    assert "pareto:5 and other:5 are both primary of en-de in bin 3" in refused(capsys, *both)
    named = [word for trial in (5, 8, 9) for word in ("--primary", f"other:{trial}")]
    assert "--study pareto: other studies have the primary of each of its bins" in refused(capsys, *both, *named)


def test_a_front_all_of_whose_bins_are_taken_is_refused(
    study: Study, front: dict[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"trial": 5, "bytes_on_disk": front[5]}]
    change(Path("studies/pareto/summary.json"), front=rows)
    study()
    both = ("--study", "pareto", "--study", "bin3")
    error = refused(capsys, *both)
    assert "--study pareto: other studies have the primary of each of its bins; leave the study out, or" in error
    assert error.endswith("give --contrastive pareto:5\n")
    assert german_of(submitted(*both, "--contrastive", "pareto:5")) == {"Bin3.primary": 12, "Bin3.contrastive1": 5}


def test_a_study_without_a_complete_trial_has_nothing_to_submit(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    change(study(champion=None) / "summary.json", finalists=[], baselines=[])
    assert "no trial of it was complete; search on, with more --trials" in refused(capsys, "--study", "bin3")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--study", "other"), "--study other: studies/other/summary.json is not there; let the search finish"),
        (("--study", "bin3", "--root", "none"), "none/bin3/summary.json is not there; let the search finish, or give"),
        (("--study", "bin3", "--primary", "13"), "bin3: trial 13 is no finalist; those are 12, 40"),
        (("--study", "bin3", "--primary", "bin4:12"), "--primary bin4:12: names no trial of a --study; write it as 12"),
        (("--study", "bin3", "--contrastive", "-1"), "--contrastive -1: names no trial of a --study"),
        (("--study", "bin3", "--primary", "²"), "--primary ²: names no trial of a --study"),
        (("--study", "bin3", "--contrastive", "12"), "bin 3, en-de: no primary system; name one by --primary"),
        (("--study", "bin3", "--primary", "12", "--contrastive", "12"), "bin3:12 is named twice"),
        (("--study", "bin3", "--contrastive", "40", "--contrastive", "40"), "bin3:40 is named twice"),
        (
            ("--study", "bin3", "--primary", "12", "--primary", "40"),
            "bin3:12 and bin3:40 are both primary of en-de in bin 3",
        ),
        (("--study", "./bin3"), "--study ./bin3: a study's name is one folder name; where studies are is --root"),
        (
            ("--study", "bin3", "--out", "studies/bin3/summary.json"),
            "summary.json: is a file, or below one; give a folder",
        ),
        (("--study", ".."), "--study ..: a study's name is one folder name"),
        (("--study", "bin3", "--user", "F K"), "--user 'F K': letters, digits, - and _ only"),
        (("--study", "bin3", "--email", ""), "--email '': one line of text"),
        (("--study", "bin3", "--empty-as", "\n"), "--empty-as '\\n': one line of text"),
    ],
)
def test_mistakes_of_the_command_are_one_line(
    study: Study, words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study()
    # argparse takes what begins with a dash for an option
    pairs = [f"{option}={value}" for option, value in zip(words[::2], words[1::2], strict=True)]
    assert told in refused(capsys, *pairs)


def _longer(folder: Path) -> None:
    with (folder / "finalists/trial-12/model/filling").open("ab") as file:
        file.write(b"more")


def _torn(folder: Path) -> None:
    path = folder / "finalists/trial-12/model/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def _result(**more: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "finalists/trial-12/result.json", **more)


def _result_is(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "finalists/trial-12/result.json").write_text(text)


def _summary_is(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "summary.json").write_text(text)


def _with(place: int, text: str) -> dict[str, list[str]]:
    """Translations with another line."""
    german = list(TRANSLATIONS["en-de"])
    german[place] = text
    return {**TRANSLATIONS, "en-de": german}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_longer, "bytes, not the"),
        (_torn, "model.safetensors is damaged, its hash is not that of SHA256SUMS; run the search's"),
        (lambda folder: shutil.rmtree(folder / "finalists/trial-12/model"), "model: no config.json there; run the"),
        (lambda folder: (folder / "finalists/trial-12/result.json").unlink(), "result.json is not there; run the"),
        (_result_is("{"), "result.json is damaged; run the search's command again, which mends it"),
        (_result_is("[]"), "result.json has no scores and translations of the report role yet; run the search's"),
        (_result(scores=None), "result.json has no scores and translations of the report role yet; run the search's"),
        (_result(translations={}), "result.json has no scores and translations of the report role yet; run"),
        (lambda folder: change(folder / "summary.json", units="x"), "summary.json is of an earlier version"),
        (lambda folder: change(folder / "summary.json", units=["x"]), "summary.json is of an earlier version"),
        (lambda folder: change(folder / "summary.json", source=[]), "summary.json is of an earlier version"),
        (lambda folder: change(folder / "summary.json", signatures=[]), "summary.json is of an earlier version"),
        (lambda folder: change(folder / "summary.json", champion={}), "summary.json is of an earlier version"),
        (lambda folder: change(folder / "summary.json", front=[{}]), "summary.json is of an earlier version"),
        (_result(translations=None), "result.json has no scores and translations of the report role yet; run"),
        (_result(bytes_on_disk=1), "bytes, not the 1 it was scored with; run the search's command again"),
        (_result(scores=scores_of("segments|whole talks")), "is of other data or segments than summary.json"),
        (_result(translations=_with(1, "")), "en-de.FBK.Bin3.primary.txt: line 2 is empty"),
        (_result(translations=_with(0, "\ud83d")), "line 1 has half a character, U+D83D"),
        (_result(translations={"en-de": ["Ja."]}), "1 lines, but the data have 2 utterances"),
        (_summary_is("{"), "summary.json is damaged; run the search's command again"),
        (_summary_is("[]"), "summary.json is of an earlier version; run the search's command again"),
        (lambda folder: change(folder / "summary.json", utterances=None), "summary.json is of an earlier version"),
        (lambda folder: change(folder / "summary.json", condition=None), "summary.json is of an earlier version"),
        (lambda folder: change(folder / "summary.json", bin=4), "are in bin 3, and the study is of bin 4; run"),
    ],
)
def test_what_is_not_whole_is_refused_with_the_next_step(
    study: Study, spoil: Callable[[Path], object], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(study())
    assert told in refused(capsys, "--study", "bin3")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"condition": "unconstrained"}, "some studies are of the constrained condition and some are not; submit"),
        ({"utterances": 3}, "studies were reported on different data; submit them apart"),
        ({"signatures": {"en-de": ["report role of data other", GOLD]}}, "studies were reported on different data"),
    ],
)
def test_studies_that_do_not_go_together_are_refused(
    study: Study, source: Source, more: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study()
    study("bin2", {5: least(source, 2)}, bin=2, **more)
    assert told in refused(capsys, "--study", "bin3", "--study", "bin2")


def test_what_is_mended_is_counted_and_said(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    result = study() / "finalists" / "trial-12" / "result.json"
    change(result, translations={"en-de": ["Ja,\u2028doch.", " "], "en-zh": TRANSLATIONS["en-zh"]})
    found = submitted("--study", "bin3", "--empty-as", ".", "--json")
    assert found["en-de.FBK.Bin3.primary"] == "Ja, doch.\n.\n"
    said = json.loads(capsys.readouterr().out)
    assert said["mended"] == {"breaks": 1, "empty": 1}
    assert '1 empty hypotheses are written as ".".' in said["text"]
