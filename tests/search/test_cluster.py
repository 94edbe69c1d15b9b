"""Two nodes on this machine: luggage, a whole search, and a node that dies while trials run on it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

import launch
from search.baselines import losses_of
from search.gates import Gate
from search.loop import BREAKS, Terms, run_trials
from search.pareto import sampler_over
from search.pools.cluster import Cluster, connected
from search.pools.luggage import carrier, packed
from space.bins import bin_range
from space.errors import UserError
from space.genes import HEAL_STEPS
from space.limits import Limits
from tests.search import stand
from tests.search.test_pools import until_free
from tests.tiny import load_tiny

# A node that says nothing for a second is dead.
_WATCHFUL = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
_TRIALS = 16


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes with two CPUs each; the second may be killed."""
    utils = pytest.importorskip("ray.cluster_utils")
    head = {"num_cpus": 2, "include_dashboard": False, "_system_config": _WATCHFUL}
    found = utils.Cluster(initialize_head=True, head_node_args=head)
    found.add_node(num_cpus=2)
    yield found
    found.shutdown()


def test_files_go_to_nodes_through_ray(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver/weights.safetensors").write_bytes(bytes(range(256)) * 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with connected(nodes.address):
        sent = carrier([packed(tmp_path / "driver", ["*.safetensors"])])
        (folder,) = replace(sent, carried=(replace(sent.carried[0], folder=Path("/no/such/folder")),)).folders()
    assert folder.parent.parent == tmp_path
    assert (folder / "weights.safetensors").read_bytes() == bytes(range(256)) * 1000


def test_a_search_on_a_cluster(
    nodes: Any, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["--bin", "2", "--trials", "3", "--finalists", "1", "--heal-steps", "0", "--trial-heal-steps", "0"]
    ray = ["--engine", "ray", "--ray-address", nodes.address, "--workers", "2", "--json"]
    assert launch.main([*words, *asked, *ray]) == 0
    assert json.loads(capsys.readouterr().out)["trials"]["complete"] >= 1


def test_a_node_that_dies_takes_no_trial_along(nodes: Any, tmp_path: Path) -> None:
    source = load_tiny(tmp_path)
    limits = Limits(source.layout, bin_range(2, source.layout.source_bytes), source.fixed_bytes)
    study = optuna.create_study(directions=["minimize", "minimize"])
    study.sampler = sampler_over([limits], "random", losses_of(limits, source.vocabulary.coverage), 0, HEAL_STEPS)
    ended: list[int] = []

    def on_trial(trial: FrozenTrial) -> None:
        ended.append(trial.number)
        if len(ended) == _TRIALS // 4:
            (node,) = nodes.worker_nodes
            nodes.remove_node(node, allow_graceful=False)

    with connected(nodes.address), closing(Cluster(partial(stand.stand, tmp_path, seconds=0.2), 4)) as pool:
        until_free(pool, 4)
        run_trials(study, pool, Terms([limits], (), 0, "none", gate=Gate(survival=(1.0, 1.0))), _TRIALS, on_trial)
    assert sorted(ended) == list(range(_TRIALS))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * _TRIALS
    assert {trial.user_attrs[BREAKS] for trial in study.trials if BREAKS in trial.user_attrs} == {1}


def test_a_cluster_without_room_is_waited_for_only_so_long(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.pools.cluster._ROOMLESS_SECONDS", 0.5)
    with connected(nodes.address), closing(Cluster(partial(stand.stand, tmp_path), 1, cpus=64)) as pool:
        assert pool.events(0.01) == []
        time.sleep(0.6)
        with pytest.raises(UserError, match=r"no node with room .* the same command"):
            pool.events(0.01)
