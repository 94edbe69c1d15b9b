"""What a study is asked to do, and which of it may change when the same study goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corpora.roles import BUNDLED as BUNDLED_CORPUS
from corpora.roles import DIRECTIONS
from space.bins import SizeRange, bin_range, max_size_range
from space.errors import UserError
from space.layout import Layout

FORMAT = 1
BUNDLED_MODEL = Path(__file__).parents[1] / "models" / "bundled"


@dataclass(frozen=True)
class SearchSettings:
    """The options of ``launch.py search``. Exactly one of `bin` and `max_size` is given.

    `finalist_heal_steps` is how long a finalist is healed; a trial heals for its plan's own steps.
    """

    study: str
    trials: int
    bin: int | None = None
    max_size: str | None = None
    model: Path = BUNDLED_MODEL
    data: Path = BUNDLED_CORPUS
    directions: tuple[str, ...] = ("en-de", "en-zh")
    storage: str | None = None
    sampler: str = "tpe"
    seed: int = 0
    device: str = "auto"
    finalists: int = 3
    finalist_heal_steps: int = 200
    root: Path = Path("studies")

    @property
    def folder(self) -> Path:
        return self.root / self.study

    def size_range(self, layout: Layout) -> SizeRange:
        """The bytes a plan may take. Raises UserError for a bin or size that is none."""
        if self.max_size is not None:
            return max_size_range(self.max_size)
        assert self.bin is not None
        return bin_range(self.bin, layout.source_bytes)

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(DIRECTIONS[direction] for direction in self.directions)

    def check(self) -> None:
        """Raises UserError for numbers and names that ask for nothing that can be done."""
        if self.trials < 1:
            raise UserError(f"--trials {self.trials}: a study needs at least 1 trial; the main job asks for 200")
        if self.finalists < 1 or self.finalist_heal_steps < 0:
            raise UserError(
                f"--finalists {self.finalists}, --heal-steps {self.finalist_heal_steps}: "
                "at least 1 finalist and not fewer than 0 steps"
            )
        check_directions(self.directions)
        if not self.study or Path(self.study).name != self.study or self.study.startswith("."):
            raise UserError(f"--study {self.study!r}: a study's name is one folder name, for instance bin3")


def check_directions(directions: Sequence[str]) -> None:
    """Raises UserError for a direction the task does not have, or none at all."""
    unknown = [direction for direction in directions if direction not in DIRECTIONS]
    if unknown or not directions:
        raise UserError(f"--langs {','.join(directions)}: choose from {', '.join(DIRECTIONS)}")


def comparability(settings: SearchSettings, size_range: SizeRange, data_fingerprint: str) -> dict[str, Any]:
    """What must stay as it is for a study's trials to be comparable; stored with the study."""
    return {
        "format": FORMAT,
        "range": asdict(size_range),
        "model": model_fingerprint(settings.model),
        "data": data_fingerprint,
        "langs": list(settings.directions),
        "sampler": settings.sampler,
        "seed": settings.seed,
    }


def model_fingerprint(folder: Path) -> str:
    """A hash of names, sizes and headers of a model's files: cheap for 17 GB, different for different models."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".safetensors"):
            with path.open("rb") as file:
                digest.update(f"{path.name} {path.stat().st_size} ".encode() + file.read(1 << 20))
    return digest.hexdigest()[:16]
