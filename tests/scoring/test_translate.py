"""Translation: the same text whatever the batch; scores equal sacrebleu's own functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from datasets import Audio, load_dataset

from corpora.roles import BUNDLED, ROLES, Example, open_corpus
from models.loading import Source
from scoring import translate as module
from scoring.kept import KeptTexts
from scoring.metrics import score
from scoring.translate import translate
from tests.tiny import load_tiny


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"))


def test_batch_size_changes_no_translation(source: Source) -> None:
    rng = np.random.default_rng(3)
    examples = [
        Example(str(n), "talk", rng.standard_normal(9000 + 4000 * n).astype(np.float32) * 0.1, {}) for n in range(5)
    ]
    one = translate(source.model, source.processor, examples, "de", batch_size=1)
    assert len(set(one)) > 1
    assert translate(source.model, source.processor, examples, "de", batch_size=3) == one
    assert translate(source.model, source.processor, examples, "de", batch_size=5) == one


def test_scores_are_sacrebleus() -> None:
    hypotheses, references = ["Das Modell ist klein.", "Ja."], ["Das Modell ist sehr klein.", "Nein."]
    scores = score(hypotheses, references, "de")
    assert scores.bleu == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [references]).score)
    assert scores.chrf == pytest.approx(sacrebleu.corpus_chrf(hypotheses, [references]).score)
    chinese = score(["模型很小。"], ["模型非常小。"], "zh")
    assert chinese.bleu == pytest.approx(sacrebleu.corpus_bleu(["模型很小。"], [["模型非常小。"]], tokenize="zh").score)
    assert "tok:zh" in chinese.signatures[0]
    assert "tok:13a" in scores.signatures[0]


def test_datasets_reads_the_bundled_corpus() -> None:
    rows = load_dataset("parquet", data_files=str(BUNDLED / "select.parquet"), split="train", streaming=True)
    first = next(iter(rows.cast_column("audio", Audio(decode=False))))
    assert first["id"] == open_corpus(BUNDLED).examples("select")[0].id
    assert first["audio"]["path"].endswith(".ogg")


def test_bundled_roles_share_no_talk_and_no_sentence() -> None:
    corpus = open_corpus(BUNDLED)
    talks = {role: {example.talk for example in corpus.examples(role)} for role in ROLES}
    texts = {role: {example.references["de"] for example in corpus.examples(role)} for role in ROLES}
    for first in ROLES:
        assert len(talks[first]) >= 4
        for second in ROLES:
            if first < second:
                assert not talks[first] & talks[second]
                assert not texts[first] & texts[second]


def test_a_killed_translation_goes_on_where_it_was(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    examples = [
        Example(str(n), "talk", rng.standard_normal(9000 + 4000 * n).astype(np.float32) * 0.1, {}) for n in range(5)
    ]
    whole = translate(source.model, source.processor, examples, "de")
    path = tmp_path / "on-the-way.jsonl"
    generate, batches = module._generate, 0

    def killed(*args: Any) -> list[str]:
        nonlocal batches
        batches += 1
        if batches > 2:
            raise KeyboardInterrupt
        return generate(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_generate", killed)
        with pytest.raises(KeyboardInterrupt):
            translate(source.model, source.processor, examples, "de", batch_size=2, kept=KeptTexts(path, "a key"))
    with path.open("a", encoding="utf-8") as file:
        file.write('["de 4", "half a li')
    kept = KeptTexts(path, "a key")
    assert sorted(kept.texts) == ["de 0", "de 1", "de 2", "de 3"]
    done: list[int] = []
    assert translate(source.model, source.processor, examples, "de", kept=kept, progress=done.append) == whole
    assert done == [4, 1]
    assert len(KeptTexts(path, "a key").texts) == 5
    assert KeptTexts(path, "another key").texts == {}
    kept.done()
    assert not path.exists()


def test_what_was_kept_outlives_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "on-the-way.jsonl"
    KeptTexts(path, "a key").keep(["de 0", "de 1"], ["Ja.", "Nein."])

    def full(*_args: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            KeptTexts(path, "a key").keep(["de 2"], ["Doch."])
    assert KeptTexts(path, "a key").texts == {"de 0": "Ja.", "de 1": "Nein."}
    assert list(tmp_path.iterdir()) == [path]


def test_processes_of_one_key_add_to_each_others_texts(tmp_path: Path) -> None:
    path = tmp_path / "on-the-way.jsonl"
    first, second = (KeptTexts(path, "a key") for _ in range(2))
    first.keep(["de 0"], ["Ja."])
    second.keep(["de 1"], ["Nein."])
    first.keep(["de 2"], ["Doch."])
    assert KeptTexts(path, "a key").texts == {"de 0": "Ja.", "de 1": "Nein.", "de 2": "Doch."}


def test_what_another_process_is_done_with_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "on-the-way.jsonl"
    mine, other = (KeptTexts(path, "a key") for _ in range(2))
    mine.keep(["de 0"], ["Ja."])
    other.done()
    mine.keep(["de 1"], ["Nein."])
    assert KeptTexts(path, "a key").texts == {"de 0": "Ja.", "de 1": "Nein."}
