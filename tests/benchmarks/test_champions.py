"""A champion against contenders, on a tiny model that reads: alike, kept, and refused where studies are others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import benchmarks.champions
import launch
from benchmarks.champions import Ring, alike, held_against, ring, summaries, targets_of
from benchmarks.contenders import NONE_FITS, Contender
from scoring.significance import Lead
from search.baselines import losses_of
from search.settings import SearchSettings
from space.errors import UserError
from space.plan import NO_HEAL
from tests.tiny import write_roles, write_tiny_qwen2

COLUMNS = ("id", "talk", "en", "de", "zh")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchSettings]:
    """The folder in which a study was run, and settings of what its champion is held against."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "model").mkdir()
    (folder / "data").mkdir()
    write_tiny_qwen2(folder / "model")
    write_roles(folder / "data", (4, 4, 2, 2), COLUMNS)
    small = ["--heal-steps", "2", "--trial-heal-steps", "2", "--finalists", "1", "--recombined", "0", "--bin", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert launch.main([*small, "--trials", "6", "--model", "model", "--data", "data"]) == 0
    return folder, SearchSettings(
        study="benchmark-champions",
        trials=6,
        bin=2,
        model="model",
        data=Path("data"),
        finalist_heal_steps=2,
        recombined=0,
    )


@pytest.fixture
def entered(searched: tuple[Path, SearchSettings], monkeypatch: pytest.MonkeyPatch) -> Ring:
    """In that folder; prior values stand for sensitivities, which take their time."""

    def prior(workbench: Any, limits: Any, _console: Any) -> dict[str, Any]:
        prior = losses_of(limits, workbench.source.vocabulary.coverage)["prior values"]
        return {"prior values": prior, "sensitivities": prior}

    folder, settings = searched
    monkeypatch.chdir(folder)
    monkeypatch.setattr(benchmarks.champions, "measured_losses", prior)
    return ring(settings)


def test_all_are_healed_alike_stored_inside_the_bin_and_kept(entered: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    summary, study = summaries([Path("studies/bin2")])[2]
    rows, targets = held_against(entered, summary, study)
    assert len({tuple(row) for row in rows}) == 1
    assert [row["direction"] for row in rows] == ["en-de", "en-zh"] * (len(rows) // 2)
    assert rows[0]["model"] == "champion of 6 trials"
    assert rows[0]["BLEU lead"] == ""
    assert len({row["model"] for row in rows}) == 7
    for row in rows:
        assert entered.limits.size_range.holds(row["bytes"]) or row["what"] == NONE_FITS
    results = [json.loads(path.read_text()) for path in entered.folder.glob("healed/*/result.json")]
    assert 1 < len(results) <= 7
    for result in results:
        assert result["heal_steps"] in (0, 2)
        assert f"|{entered.settings.seed}|" in result["key"]
    contenders = {row["model"] for row in rows[2:] if row["what"] != NONE_FITS}
    assert len(targets) == 2 * len(contenders)

    def unwanted(*_: object, **__: object) -> None:
        raise AssertionError("everything was there")

    monkeypatch.setattr("search.finalists.heal_in_full", unwanted)
    monkeypatch.setattr(benchmarks.champions, "load_translator", unwanted)
    monkeypatch.setattr(Ring, "_heard", unwanted)
    assert held_against(entered, summary, study) == (rows, targets)


def test_the_champion_is_the_studys_best_finalist(entered: Ring) -> None:
    summary, study = summaries([Path("studies/bin2")])[2]
    found = entered.champion(summary, study)
    assert found.plan is not None
    stored = json.loads((Path(summary["champion"]["path"]) / "plan.json").read_text())
    ours = json.loads(found.plan.to_json())
    assert {**ours, "heal": ""} == {**stored, "heal": ""}
    assert found.plan.heal.rank == NO_HEAL.rank


def test_studies_of_something_else_are_refused(entered: Ring, tmp_path: Path) -> None:
    summary, study = summaries([Path("studies/bin2")])[2]
    with pytest.raises(UserError, match="another model, data or range"):
        entered.champion({**summary, "bound_bytes": summary["bound_bytes"] + 1}, study)
    with pytest.raises(UserError, match="another model, data or range"):
        entered.champion({**summary, "signatures": {"loss": "|model other|data other|"}}, study)
    with pytest.raises(UserError, match="no champion"):
        entered.champion({**summary, "champion": None}, study)
    with pytest.raises(UserError, match=r"no summary\.json"):
        summaries([tmp_path])


def test_a_target_is_met_where_the_champion_leads_in_every_direction() -> None:
    one = Contender("uniform rate", "", None)
    ahead, behind = Lead(4.0, 2.0, 6.0, 0.001, 0.001), Lead(-1.0, -3.0, 1.0, 0.001, 0.001)
    unsure = Lead(0.5, -1.0, 2.0, 0.3, 0.3)

    def met(*leads: Lead) -> list[bool]:
        found = {f"direction {i}": {"BLEU": lead} for i, lead in enumerate(leads)}
        return [one["met"] for one in targets_of(3, one, found)]

    assert met(ahead, ahead) == [True, True]
    assert met(ahead, unsure) == [True, False]
    assert met(ahead, behind) == [False, False]


def test_rows_without_a_model_have_the_others_columns() -> None:
    assert alike([{"bin": 1, "BLEU": 3.0}, {"bin": 1}]) == [{"bin": 1, "BLEU": 3.0}, {"bin": 1, "BLEU": ""}]
