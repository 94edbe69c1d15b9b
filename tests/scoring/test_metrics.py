"""BLEU, chrF and chrF++: those of sacrebleu's command line, to the last digit it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scoring.metrics import score

TEXTS = {
    "de": (
        ["Das Modell ist (sehr) klein, nicht wahr?", "Ja.", "Zu 3,5 % der Schichten sagen wir: „nein“!", "Übersetzt."],
        ["Das Modell ist klein, nicht wahr?", "ja", "Bei 3,5 % der Schichten sagen wir „nein“.", ""],
    ),
    "zh": (
        ["这个模型非常小，对吧？", "是的。", "我们用BLEU评价了3.5%的层。", "翻译完成了。"],
        ["这个模型很小，对吗？", "是的", "我们用 BLEU 评价 3.5% 的层。", ""],
    ),
}


def command_line(folder: Path, language: str, word_order: int) -> list[dict[str, Any]]:
    """What sacrebleu's command line says of BLEU and chrF."""
    for name, lines in zip(("ref", "hyp"), TEXTS[language], strict=True):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-l", f"en-{language}", "-m", "bleu", "chrf"]
    command += ["--chrf-word-order", str(word_order), "-w", "4"]
    scores = subprocess.run([*command, "-b"], check=True, capture_output=True, text=True, cwd=folder).stdout
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout
    return [{**whole, "score": float(bare)} for whole, bare in zip(json.loads(told), json.loads(scores), strict=True)]


@pytest.mark.parametrize("language", TEXTS)
def test_scores_are_those_of_the_command_line(language: str, tmp_path: Path) -> None:
    references, hypotheses = TEXTS[language]
    scores = score(hypotheses, references, language)
    bleu, chrf = command_line(tmp_path, language, 0)
    chrfpp = command_line(tmp_path, language, 2)[1]
    for ours, theirs in zip((scores.bleu, scores.chrf, scores.chrfpp), (bleu, chrf, chrfpp), strict=True):
        assert 20 < ours < 95
        assert f"{ours:.4f}" == f"{theirs['score']:.4f}"
    for ours, theirs in zip(scores.signatures, (bleu, chrf, chrfpp), strict=True):
        assert ours == f"{theirs['name']}|{theirs['signature']}"


def test_all_three_stand_in_results_with_two_digits() -> None:
    references, hypotheses = TEXTS["de"]
    scores = score(hypotheses, references, "de")
    assert scores.to_dict() == {
        "bleu": round(scores.bleu, 2),
        "chrf": round(scores.chrf, 2),
        "chrf++": round(scores.chrfpp, 2),
    }
    assert len({scores.bleu, scores.chrf, scores.chrfpp}) == 3
