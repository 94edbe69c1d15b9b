"""What a study is asked to do, and which of it may change when the same study goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corpora.roles import BUNDLED as BUNDLED_CORPUS
from corpora.roles import DIRECTIONS
from models.devices import PLAIN, Compute, compute_of, current
from space.bins import DECIMAL, REFERENCE_BYTES, SizeRange, Units, all_ranges, bin_range, bytes_of, max_size_range
from space.errors import UserError
from space.genes import HEAL_STEPS
from space.layout import Layout

# 2: the vocabulary is a parameter. 3: coded rates; rank and rate of healing are parameters. 4: removed sublayers are
# made up for, and healing weighs states more. 5: entries have a price, moments are of more rows. 6: rungs rank on
# what is removed, too. 7: the last rung translates. 8: what a coded matrix leaves of its bytes others take.
# 9: losses are settled by the divergence after healing.
FORMAT = 9

BANK_SIZE = "20GB"
# What a finalist heals on: rows a step, and utterances made of pieces for each of the calibrate role.
HEAL_ROWS, RECOMBINED = 32, 4
WORKER_MINUTES = 60.0
# Files up to this size are hashed whole, larger ones in slices.
_WHOLE_HASH_BYTES = 256 * 2**20
_SLICES = 256
_MOST_RECOMBINED = 100
_MOST_WORKERS = 1024
# What settings that do not say it were made with.
_UNSAID = {"computed": PLAIN.name}


@dataclass(frozen=True)
class SearchSettings:
    """The options of ``launch.py search``. Exactly one of `bin`, `max_size` and `pareto` is given.

    With `pareto` the study is over all sizes, and `finalists` are a size's.

    `hours` of a run, and `patience` trials without a better front, end a search before it has all its `trials`.

    Each of `workers` evaluates a plan at a time; one that says nothing for `worker_minutes` is taken to hang.

    `model` is a folder, a hub id, or None for the bundled one. `finalist_heal_steps` is how long a finalist is healed,
    on `heal_rows` rows a step; a trial heals for its plan's own steps, at most `trial_heal_steps`. `recombined`
    utterances are made of pieces of others for each of the calibrate role, for finalists to heal on. `bank` is where
    studies share what trials are put together from, up to `bank_size`. `warm_start` names a study whose best plans are
    among the first.
    """

    study: str
    trials: int
    hours: float | None = None
    patience: int | None = None
    bin: int | None = None
    max_size: str | None = None
    pareto: bool = False
    model: str | None = None
    data: Path = BUNDLED_CORPUS
    directions: tuple[str, ...] = ("en-de", "en-zh")
    storage: str | None = None
    workers: int = 1
    worker_minutes: float = WORKER_MINUTES
    sampler: str = "policy"
    warm_start: str | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    finalists: int = 3
    trial_heal_steps: int = HEAL_STEPS
    finalist_heal_steps: int = 200
    heal_rows: int = HEAL_ROWS
    recombined: int = RECOMBINED
    pins: tuple[str, ...] = ()
    units: Units = DECIMAL
    rates: str = "coded"
    root: Path = Path("studies")
    bank: Path = Path("studies/bank")
    bank_size: str = BANK_SIZE

    @property
    def folder(self) -> Path:
        return self.root / self.study

    def size_ranges(self, layout: Layout) -> tuple[SizeRange, ...]:
        """The bytes a plan may take, the smallest bound first. Raises UserError for a bin or size that is none."""
        if self.pareto:
            return all_ranges(layout.source_bytes, self.units)
        if self.max_size is not None:
            return (max_size_range(self.max_size, self.units),)
        assert self.bin is not None
        return (bin_range(self.bin, layout.source_bytes, self.units),)

    @property
    def compute(self) -> Compute:
        """Where and in which precision models run. Raises UserError for what is not there."""
        return compute_of(self.device, self.precision)

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(DIRECTIONS[direction] for direction in self.directions)

    def check(self) -> None:
        """Raises UserError for numbers and names that ask for nothing that can be done."""
        if self.max_size is not None:
            max_size_range(self.max_size, self.units)
        elif not self.pareto:
            assert self.bin is not None
            bin_range(self.bin, REFERENCE_BYTES)
        self._check_numbers()
        check_directions(self.directions)
        bytes_of(self.bank_size, "--bank-size")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed {self.seed}: a seed is a whole number from 0 to {2**32 - 1}")
        if not self.study or Path(self.study).name != self.study or self.study.startswith("."):
            raise UserError(f"--study {self.study!r}: a study's name is one folder name, for instance bin3")

    def _check_numbers(self) -> None:
        if self.trials < 1:
            raise UserError(f"--trials {self.trials}: a study needs at least 1 trial; the main job asks for 200")
        if self.hours is not None and not self.hours > 0:
            raise UserError(f"--hours {self.hours:g}: more than 0")
        if self.patience is not None and self.patience < 1:
            raise UserError(f"--patience {self.patience}: at least 1 trial")
        if not 1 <= self.workers <= _MOST_WORKERS:
            raise UserError(f"--workers {self.workers}: from 1 to {_MOST_WORKERS}")
        if not self.worker_minutes > 0:
            raise UserError(f"--worker-minutes {self.worker_minutes:g}: more than 0")
        if self.finalists < 1:
            raise UserError(f"--finalists {self.finalists}: a study ends with at least 1")
        if self.finalist_heal_steps < 0:
            raise UserError(f"--heal-steps {self.finalist_heal_steps}: not fewer than 0")
        if self.trial_heal_steps < 0:
            raise UserError(f"--trial-heal-steps {self.trial_heal_steps}: not fewer than 0")
        if self.heal_rows < 1:
            raise UserError(f"--heal-rows {self.heal_rows}: a step of healing needs at least 1 row")
        if not 0 <= self.recombined <= _MOST_RECOMBINED:
            raise UserError(f"--recombined {self.recombined}: from 0 to {_MOST_RECOMBINED} for each utterance there is")


def check_directions(directions: Sequence[str]) -> None:
    """Raises UserError for a direction the task does not have, or none at all."""
    unknown = [direction for direction in directions if direction not in DIRECTIONS]
    if unknown or not directions:
        raise UserError(f"--langs {','.join(directions)}: choose from {', '.join(DIRECTIONS)}")


def comparability(
    settings: SearchSettings, size_ranges: Sequence[SizeRange], *, model: str, data: str
) -> dict[str, Any]:
    """What must stay as it is for a study's trials to be comparable; stored with the study."""
    edges = [{key: value for key, value in asdict(one).items() if key != "units"} for one in size_ranges]
    return {
        "format": FORMAT,
        "range": edges if settings.pareto else edges[0],
        "model": model,
        "data": data,
        "langs": list(settings.directions),
        "sampler": settings.sampler,
        "seed": settings.seed,
        "pins": sorted(settings.pins),
        "rates": settings.rates,
        "trial_heal_steps": settings.trial_heal_steps,
        "computed": current().name,
    }


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In what settings differ from earlier ones, in words; nothing where they do not."""
    before = {**_UNSAID, **before}
    changed = [key for key in now if before.get(key) != now[key]]
    return "; ".join(f"{key} was {json.dumps(before.get(key))}, now {json.dumps(now[key])}" for key in changed)


def model_fingerprint(folder: Path) -> str:
    """A hash of a model's files: of all their bytes up to 256 MB a file, of evenly spread slices of larger ones."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".txt", ".safetensors"):
            size = path.stat().st_size
            digest.update(f"{path.name} {size} ".encode())
            with path.open("rb") as file:
                if size <= _WHOLE_HASH_BYTES:
                    digest.update(file.read())
                    continue
                for part in range(_SLICES):
                    file.seek(part * size // _SLICES)
                    digest.update(file.read(2**16))
    return digest.hexdigest()[:16]
