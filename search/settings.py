"""What a study is asked to do, and which of it may change when the same study goes on."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corpora.audio import HEARD_SECONDS
from corpora.roles import BUNDLED as BUNDLED_CORPUS
from corpora.roles import CONDITIONS, DIRECTIONS, UNCONSTRAINED
from models.devices import PLAIN, Compute, compute_of, current
from space.bins import DECIMAL, REFERENCE_BYTES, SizeRange, Units, all_ranges, bin_range, bytes_of, max_size_range
from space.errors import UserError
from space.fingerprints import fingerprint
from space.genes import HEAL_STEPS
from space.layout import Layout

# 2: the vocabulary is a parameter. 3: coded rates; rank and rate of healing are parameters. 4: removed sublayers are
# made up for, and healing weighs states more. 5: entries have a price, moments are of more rows. 6: rungs rank on
# what is removed, too. 7: the last rung translates. 8: what a coded matrix leaves of its bytes others take.
# 9: losses are settled by the divergence after healing. 10: trials heal on 32 rows a step. 11: they stay unhealed where
# that diverges less. 12: an allocator's trial says of which policy it is; rungs have other shares.
FORMAT = 12

BANK_SIZE = "20GB"
# The sampler that takes steps by measured marginals, too, where nothing heals, and around how many plans these are
# measured at most.
STEPPING, REMEASURED = "policy", 12
# What a finalist heals on: rows a step, and utterances made of pieces for each of the calibrate role.
HEAL_ROWS, RECOMBINED = 32, 1
WORKER_MINUTES = 60.0
# Where workers are: on the driver's machine, or on a Ray cluster.
LOCAL, RAY = "local", "ray"
ENGINES = (LOCAL, RAY)
_MOST_RECOMBINED = 100
_MOST_WORKERS = 1024
# What settings that do not say it were made with.
_UNSAID = {"computed": PLAIN.name, "condition": UNCONSTRAINED}


@dataclass(frozen=True)
class SearchSettings:
    """The options of ``launch.py search``. Exactly one of `bin`, `max_size` and `pareto` is given.

    With `pareto` the study is over all sizes, and `finalists` are a size's.

    `hours` of a run, and `patience` trials without a better front, end a search before it has all its `trials`.

    Each of `workers` evaluates a plan at a time; one that says nothing for `worker_minutes` is taken to hang. With the
    engine `ray` they are on the cluster at `ray_address`, or on a Ray of this machine's own, and each has `worker_cpus`
    and `worker_gpus` of its node.

    `model` is a folder, a hub id, or None for the bundled one. `finalist_heal_steps` is how long a finalist is healed,
    on `heal_rows` rows a step; a trial heals for its plan's own steps, at most `trial_heal_steps`. `recombined`
    utterances are made of pieces of others for each of the calibrate role, for finalists to heal on. Where trials do
    not heal, plans of a study of one bin may be `remeasured` around, at most so many. `bank` is where
    studies share what trials are put together from, up to `bank_size`. Under the `condition` constrained data of ACL
    60/60 are all that is taken. Finalists are scored by the model `comet`, too, if it is given, on gold `segments` or
    on whole talks in segments of at most `segment_seconds`, decoded by so many `beams`. `warm_start` names a study
    whose best plans are among the first.
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
    condition: str = UNCONSTRAINED
    directions: tuple[str, ...] = ("en-de", "en-zh")
    comet: str | None = None
    comet_env: Path | None = None
    segments: str = "gold"
    segment_seconds: float = HEARD_SECONDS
    beams: int = 1
    storage: str | None = None
    workers: int = 1
    worker_minutes: float = WORKER_MINUTES
    engine: str = LOCAL
    ray_address: str | None = None
    worker_cpus: int | None = None
    worker_gpus: float | None = None
    sampler: str = STEPPING
    warm_start: str | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    finalists: int = 3
    trial_heal_steps: int = HEAL_STEPS
    remeasured: int | None = None
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
    def rounds(self) -> int:
        """How many plans a new study measures around: none by default where anything heals (decision 0035)."""
        if self.remeasured is not None:
            return self.remeasured
        return REMEASURED if self._may_step and not self.finalist_heal_steps else 0

    @property
    def _may_step(self) -> bool:
        return self.trial_heal_steps == 0 and not self.pareto and self.sampler == STEPPING

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
        self._check_engine()
        check_directions(self.directions)
        if self.condition not in CONDITIONS:
            raise UserError(f"--condition {self.condition}: choose from {', '.join(CONDITIONS)}")
        bytes_of(self.bank_size, "--bank-size")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed {self.seed}: a seed is a whole number from 0 to {2**32 - 1}")
        if not is_study_name(self.study):
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
        if self.remeasured is not None and self.remeasured < 0:
            raise UserError(f"--remeasure {self.remeasured}: not fewer than 0")
        if self.remeasured and not self._may_step:
            raise UserError(
                f"--remeasure {self.remeasured}: is for one bin, --trial-heal-steps 0 and --sampler {STEPPING}; "
                "ask for these, or leave it out"
            )
        if self.heal_rows < 1:
            raise UserError(f"--heal-rows {self.heal_rows}: a step of healing needs at least 1 row")
        if not 0 <= self.recombined <= _MOST_RECOMBINED:
            raise UserError(f"--recombined {self.recombined}: from 0 to {_MOST_RECOMBINED} for each utterance there is")

    def _check_engine(self) -> None:
        cpus, gpus = self.worker_cpus, self.worker_gpus
        if self.engine not in ENGINES:
            raise UserError(f"--engine {self.engine}: there is no such engine; choose from {', '.join(ENGINES)}")
        asked = {"--ray-address": self.ray_address, "--worker-cpus": cpus, "--worker-gpus": gpus}
        of_ray = [option for option, value in asked.items() if value is not None]
        if self.engine != RAY:
            if of_ray:
                raise UserError(f"{of_ray[0]}: is for --engine {RAY}; give that, too, or leave it out")
            return
        if importlib.util.find_spec("ray") is None:
            raise UserError(f"--engine {RAY}: Ray is not installed; pip install 'ray>=2.60'")
        if cpus is not None and cpus < 1:
            raise UserError(f"--worker-cpus {cpus}: a worker needs at least 1")
        if gpus is not None and not (0 <= gpus <= 1 or (gpus > 1 and gpus.is_integer())):
            raise UserError(f"--worker-gpus {gpus:g}: a share of one up to 1, or a whole number")
        kind = self.compute.device.type
        if bool(gpus) != (kind == "cuda"):
            # trials, sensitivities and finalists of a study are computed on one type of device
            advice = "run it where there is a GPU" if gpus else "give --worker-gpus 1, or --device cpu"
            raise UserError(f"--worker-gpus {gpus or 0:g}: the driver of the study computes on {kind}; {advice}")


def is_study_name(text: str) -> bool:
    """Whether a study can be called so: one folder name that is not hidden."""
    return bool(text) and Path(text).name == text and not text.startswith(".")


def check_directions(directions: Sequence[str]) -> None:
    """Raises UserError for a direction the task does not have, or none at all."""
    unknown = [direction for direction in directions if direction not in DIRECTIONS]
    if unknown or not directions:
        raise UserError(f"--langs {','.join(directions)}: choose from {', '.join(DIRECTIONS)}")


def comparability(
    settings: SearchSettings, size_ranges: Sequence[SizeRange], *, model: str, data: str, space: str, bank: str
) -> dict[str, Any]:
    """What must stay as it is for a study's trials to be comparable; stored with the study.

    Of model, data, space and bank their fingerprints.
    """
    edges = [{key: value for key, value in asdict(one).items() if key != "units"} for one in size_ranges]
    return {
        "format": FORMAT,
        "range": edges if settings.pareto else edges[0],
        "model": model,
        "data": data,
        "space": space,
        "bank": bank,
        "langs": list(settings.directions),
        "sampler": settings.sampler,
        "seed": settings.seed,
        "pins": sorted(settings.pins),
        "condition": settings.condition,
        "rates": settings.rates,
        "trial_heal_steps": settings.trial_heal_steps,
        "computed": current().name,
    }


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In what settings differ from earlier ones, in words; nothing where they do not."""
    before = {**_UNSAID, **before}
    changed = [key for key in now if before.get(key) != now[key]]
    return "; ".join(f"{key} was {json.dumps(before.get(key))}, now {json.dumps(now[key])}" for key in changed)


# Weights, and what vocabularies are made of.
_OF_MODELS = (".json", ".txt", ".safetensors", ".model")


def model_fingerprint(folder: Path) -> str:
    """A hash of a model's files."""
    names = [path.name for path in folder.glob("*") if path.suffix in _OF_MODELS]
    return fingerprint(folder, names)
