"""What a study's folder has of the fidelity of the scores that rungs go by, and which gate follows from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.devices import current
from search.gates import GATES, RUNG_UTTERANCES, Gate
from search.settings import FORMAT
from space import VERSION

RESULT = "fidelity.json"


@dataclass(frozen=True)
class KeptFidelity:
    """Of so many plans: the `gate` that a study had better begin with, and the `gates` there are, shares included.

    `spearman` has the correlations with the healed plans' scores by proxy, over all plans and among the best quarter.
    """

    plans: int
    gate: Gate
    gates: tuple[Gate, ...]
    spearman: Mapping[str, tuple[float | None, float | None]]

    def with_shares(self, gate: Gate) -> Gate | None:
        """A gate with the shares that were found for its proxy and sizes, if any were."""
        return next((one for one in self.gates if replace(one, survival=gate.survival) == gate), None)

    def summary(self, gate: Gate) -> dict[str, Any]:
        """What a study that has a gate says of it."""
        names = [f"{gate.proxy}, {utterances}" for utterances in gate.utterances]
        ranks = {name: ranks for name, ranks in self.spearman.items() if name in names or name.startswith("healed")}
        return {"plans": self.plans, "spearman": ranks}


def kept_fidelity(folder: Path, size_range: str, shared: Mapping[str, Any]) -> KeptFidelity | None:
    """None where nothing can be read, or it was measured for another range, model or data than `shared` names."""
    try:
        found = json.loads((folder / "fidelity" / RESULT).read_text())
        if found["range"] != size_range or not found["signature"].endswith(made_of(shared["model"], shared["data"])):
            return None
        rows = {
            (row["proxy"], row["group"]): row["spearman"]["value"] for row in found["table"] if row["full"] == "healed"
        }
        running = dict.fromkeys(proxy for proxy, _ in rows if proxy.startswith((*GATES, "healed")))
        spearman = {proxy: (rows[proxy, "all"], rows[proxy, "best quarter"]) for proxy in running}
        return KeptFidelity(len(found["plans"]), *_gates(found), spearman)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def made_of(model: str, data: str) -> str:
    """The end of the signature of what was measured of a model on data."""
    return f"|model {model}|data {data}|tightfit {VERSION}, format {FORMAT}{current().signature}"


def _gates(found: Mapping[str, Any]) -> tuple[Gate, tuple[Gate, ...]]:
    """The best gate and all there are. Raises ValueError, KeyError or TypeError where it is none."""
    return _gate(found["gate"]), tuple(map(_gate, found["gates"]))


def _gate(found: Mapping[str, Any]) -> Gate:
    proxy = GATES[GATES.index(found["proxy"])]
    first, last = map(int, found["utterances"])
    gate = Gate(proxy, (first, last), tuple(map(float, found["survival"])))
    right = 0 < first < last == RUNG_UTTERANCES[-1] and len(gate.survival) == len(gate.utterances)
    if not right or not all(0 < share <= 1 for share in gate.survival):
        raise ValueError(f"gate {found}")
    return gate
