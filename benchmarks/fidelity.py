"""How well cheap scores rank, bin by bin: ``python -m benchmarks.fidelity``, most of an hour a bin on one core

Plans scored by every proxy at every rung and then carried out in full, as ``launch.py fidelity --bin N --plans 40``
does it, whose studies they are: plans that are there are only read, and a run that was killed goes on; the study's
fidelity.json becomes that of as many plans. A row for each proxy and each full evaluation; Spearman's and Kendall's
correlations with their 95 % bootstrap intervals, over all plans and in the best quarter of them. Targets are on the
scores that rungs go by: the divergence before healing and the loss that is expected from it, which decide what is
healed, and chrF behind a trial's healing and the settled loss, of which finalists are the best. With `--again` the best
quarter is healed once more with another seed: no score can be expected to rank it better than its own healings agree.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from typing import Any

from rich.console import Console

from benchmarks.publish import publish_bins, target
from models.devices import computing
from proxies.fidelity import best_quarter, fidelity
from search.fidelity import EXPECTED, HEALED, Examination, FidelitySettings, fidelity_plans, run_fidelity
from search.finalists import read_keyed
from search.locks import alone
from search.opening import measured_losses, opened, workbench_of
from search.settings import SearchSettings
from space.files import write_whole

BINS = (2, 3, 4)
GROUPS = ("all", "best quarter")
GATING = ("divergence, 48", f"{EXPECTED}, 48", HEALED)
LEAST = {"all": 0.9, "best quarter": 0.6}
# How a plan heals, as launch.py's defaults are.
HEAL_STEPS, HEAL_ROWS = 100, 16


def said(correlation: dict[str, float | None]) -> str:
    """A correlation with its interval."""
    value, low, high = (correlation[key] for key in ("value", "low", "high"))
    return "none" if value is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


def rows_of(number: int, result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each full evaluation and proxy of a bin."""
    found = {(one["full"], one["proxy"], one["group"]): one for one in result["table"]}
    return [
        {
            "bin": number,
            "full": full,
            "proxy": proxy,
            "plans": len(result["plans"]),
            "seconds": round(found[full, proxy, "all"]["seconds"], 3),
            **{
                f"{name}, {group}": said(found[full, proxy, group][name.lower()])
                for name in ("Spearman", "Kendall")
                for group in GROUPS
            },
        }
        for full, proxy in dict.fromkeys((one["full"], one["proxy"]) for one in result["table"])
    ]


def agreement(settings: FidelitySettings, result: dict[str, Any]) -> dict[str, float | None]:
    """The correlation of two healings of the best quarter; what was healed again before is read."""
    with computing(settings.search.compute), alone(settings.folder, "--study"):
        return _agreement(settings, result)


def _agreement(settings: FidelitySettings, result: dict[str, Any]) -> dict[str, float | None]:
    search, console = settings.search, Console()
    found = opened(search)
    workbench = workbench_of(search, found, console)
    losses = measured_losses(workbench, found.limits, console)
    plans = [plan for _, plan in fidelity_plans(found.limits, losses, settings.plans, search.seed)]
    examination = Examination(settings, found, workbench)
    first = [row["full"]["healed"]["score"] for row in result["plans"]]
    chosen = best_quarter(first)
    again = []
    for i in chosen:
        key = f"{result['plans'][i]['key']}|healed again"
        path = settings.folder / f"again-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        known = read_keyed(path, key) or {"key": key, "loss": examination.healed(plans[i], search.seed + 1)}
        write_whole(path, json.dumps(known))
        again.append(known["loss"])
        console.print(f"healed again: {first[i]:.1f}, {known['loss']:.1f}")
    return asdict(fidelity(again, [first[i] for i in chosen], search.seed).spearman)


def main() -> None:
    """One table for all bins."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bins", type=int, nargs="+", default=BINS)
    parser.add_argument("--plans", type=int, default=40)
    parser.add_argument("--again", action="store_true", help="heal the best quarter once more")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    targets = []
    for number in options.bins:
        settings = SearchSettings(
            study=f"bin{number}",
            trials=options.plans,
            bin=number,
            finalist_heal_steps=HEAL_STEPS,
            heal_rows=HEAL_ROWS,
        )
        asked = FidelitySettings(settings, options.plans)
        result = run_fidelity(asked, Console())
        rows += rows_of(number, result)
        if options.again:
            row = {"bin": number, "full": "healed", "proxy": "healed again, another seed", "plans": options.plans}
            rows.append({**row, "Spearman, best quarter": said(agreement(asked, result))})
        for one in result["table"]:
            if one["full"] == "healed" and one["proxy"].startswith(GATING):
                name = f"bin {number}, Spearman of {one['proxy']} with healed chrF, {one['group']}"
                targets.append(target(name, one["spearman"]["value"], LEAST[one["group"]], at_least=True))
    publish_bins("fidelity", rows, targets)


if __name__ == "__main__":
    main()
