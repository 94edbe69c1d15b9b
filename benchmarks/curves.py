"""Curves of kept runs, ``python -m benchmarks.curves``: best divergence over trials, seconds, no run made again

A panel a bin: of each sampler the median of its seeds and the band between their quartiles, and the least divergence
that any kept run of the bin has, exchanges behind the best plan included. Of a sampler that was run for several numbers
of trials the longest runs count. The page, studies/benchmark-samplers.html, holds all it needs. Plotly draws it, and
needs a browser for pictures: the one in docs/pictures was made by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as plots
from numpy.typing import NDArray
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from benchmarks.samplers import DEFAULT, FOLDER, RAW, SAMPLERS, STEPS

PAGE = Path("studies/benchmark-samplers.html")
# `tpe raw` and `random` lie on the line of `tpe`.
DRAWN = (*(name for name in SAMPLERS if name not in (RAW, "random")), f"{DEFAULT} without {STEPS}")
_RUN = re.compile(r"bin(?P<bin>\d+), (?P<sampler>.+), seed \d+, (?P<trials>\d+) trials")
_BIN = re.compile(r"bin(?P<bin>\d+), ")
# Trials behind which the study's own first plans have been tried; what was before is cut off.
_SETTLED = 10
# By sampler: the best divergence so far (seeds, trials).
Curves = Mapping[str, NDArray[np.float64]]


def so_far(path: Path) -> NDArray[np.float64]:
    """The best divergence so far of a kept run, trial after trial; NaN before any is inside of the limits."""
    found = json.loads(path.read_text())["divergences"]
    best: NDArray[np.float64] = np.fmin.accumulate([math.nan if one is None else one for one in found])
    return best


def curves_of(folder: Path) -> dict[int, Curves]:
    """By bin, what kept runs found."""
    paths: dict[int, dict[str, dict[int, list[Path]]]] = {}
    for path in sorted(folder.glob("*.json")):
        if (name := _RUN.fullmatch(path.stem)) is not None:
            of_bin = paths.setdefault(int(name["bin"]), {})
            of_bin.setdefault(name["sampler"], {}).setdefault(int(name["trials"]), []).append(path)
    return {
        number: {name: np.array([so_far(path) for path in of[max(of)]]) for name, of in of_bin.items()}
        for number, of_bin in sorted(paths.items())
    }


def best_of(folder: Path) -> dict[int, float]:
    """By bin, the least divergence of all that is kept."""
    found: dict[int, float] = {}
    for path in folder.glob("*.json"):
        if (name := _BIN.match(path.stem)) is not None:
            number = int(name["bin"])
            found[number] = min(found.get(number, np.inf), float(so_far(path)[-1]))
    return found


def drawn(curves: Mapping[int, Curves], known: Mapping[int, float], samplers: Sequence[str] = ()) -> plots.Figure:
    """The figure; of all samplers where none is named."""
    figure = make_subplots(rows=1, cols=len(curves), subplot_titles=[f"bin {number}" for number in curves])
    names = [*dict.fromkeys(name for of_bin in curves.values() for name in of_bin if name in samplers or not samplers)]
    shown: set[str] = set()
    for column, (number, of_bin) in enumerate(curves.items(), 1):
        for name in (one for one in names if one in of_bin):
            colour = qualitative.D3[names.index(name) % len(qualitative.D3)]
            said = f"{name}, {_seeds([len(of[name]) for of in curves.values() if name in of])}"
            for trace in _traces(said, of_bin[name], colour, first=name not in shown):
                figure.add_trace(trace, row=1, col=column)
            shown.add(name)
        trials = max(runs.shape[1] for runs in of_bin.values())
        line = plots.Scatter(
            x=[0, trials],
            y=[known[number]] * 2,
            name="best known",
            mode="lines",
            line={"color": "black", "dash": "dot"},
            legendgroup="best known",
            showlegend=column == 1,
        )
        figure.add_trace(line, row=1, col=column)
        settled = max(float(np.median(runs[:, min(_SETTLED, runs.shape[1]) - 1])) for runs in of_bin.values())
        ends = [math.log10(0.9 * known[number]), math.log10(1.3 * settled)]
        figure.update_yaxes(range=ends, row=1, col=column)
    figure.update_xaxes(title_text="trials", rangemode="tozero")
    figure.update_yaxes(type="log", dtick="D1")
    figure.update_yaxes(title_text="best divergence, nats a token", col=1)
    return figure.update_layout(template="plotly_white", width=150 + 550 * len(curves), height=520)


def _seeds(counts: Sequence[int]) -> str:
    """How many, in the bin with fewest and in that with most."""
    few, many = min(counts), max(counts)
    return f"{few} to {many} seeds" if few < many else f"{few} seed{'s' if few > 1 else ''}"


def _traces(said: str, runs: NDArray[np.float64], colour: str, *, first: bool) -> list[plots.Scatter]:
    """Band and median."""
    low, middle, high = np.quantile(runs, [0.25, 0.5, 0.75], axis=0)
    trials = np.arange(1, len(middle) + 1)
    band = plots.Scatter(
        x=np.concatenate([trials, trials[::-1]]),
        mode="lines",
        y=np.concatenate([high, low[::-1]]),
        fill="toself",
        fillcolor=colour,
        opacity=0.15,
        line={"width": 0},
        hoverinfo="skip",
        legendgroup=said,
        showlegend=False,
    )
    line = plots.Scatter(
        x=trials, y=middle, name=said, mode="lines", line={"color": colour}, legendgroup=said, showlegend=first
    )
    return [band, line]


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samplers", nargs="+", default=DRAWN)
    parser.add_argument("--bins", type=int, nargs="+", help="all that were run")
    options = parser.parse_args()
    curves = {bin_: found for bin_, found in curves_of(FOLDER).items() if options.bins is None or bin_ in options.bins}
    if not curves:
        raise SystemExit(f"{FOLDER}: no kept runs; make them with python -m benchmarks.samplers")
    PAGE.parent.mkdir(exist_ok=True)
    drawn(curves, best_of(FOLDER), options.samplers).write_html(PAGE, include_plotlyjs=True)
    print(PAGE)


if __name__ == "__main__":
    main()
