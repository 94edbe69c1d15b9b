"""Adaptation as a job: settings, what goes on after a stop, and the adapted model's folder, which appears whole."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from compress.adapt import METHODS, AdaptSettings, State, adapt, mean_loss
from compress.checkpoint import appear
from compress.tensors import save_tensors
from corpora.roles import BUNDLED as BUNDLED_CORPUS
from corpora.roles import DIRECTIONS, open_corpus
from models.devices import HOST, compute_of, computing, current
from models.loading import FIXED_FILES, load_source, read_layout
from models.reference import resolve_model
from search.locks import alone
from search.opening import ADAPTED
from search.progress import progress_on
from search.settings import check_directions, differing, model_fingerprint
from search.workbench import by_turns, make_rows
from space.errors import UserError, first_line
from space.files import write_whole

RESULT, STATE = ADAPTED, "state.json"
FORMAT = 1
TRAINED_ON, CHOSEN_ON = "calibrate", "select"
# Peak learning rates for models of billions of parameters; small ones bear more.
_RATES = {"lora": 2e-4, "full": 1e-5}
_RANK = 32
# What an adapted folder has from its source; weights and config.json are its own.
_CARRIED = (*(name for name in FIXED_FILES if name != "config.json"), "chat_template.jinja")


@dataclass(frozen=True)
class AdaptationSettings:
    """The options of ``launch.py adapt``; `rank` and `rate` are the method's own where they are None."""

    out: Path
    model: str | None = None
    data: Path = BUNDLED_CORPUS
    directions: tuple[str, ...] = ("en-de", "en-zh")
    method: str = "lora"
    steps: int = 300
    rank: int | None = None
    rate: float | None = None
    batch_rows: int = 16
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"

    @property
    def training(self) -> AdaptSettings:
        return AdaptSettings(
            method=self.method,
            steps=self.steps,
            rank=(_RANK if self.rank is None else self.rank) if self.method == "lora" else 0,
            peak_rate=_RATES[self.method] if self.rate is None else self.rate,
            batch_rows=self.batch_rows,
            seed=self.seed,
        )

    @property
    def state_folder(self) -> Path:
        return self.out.with_name(f".{self.out.name}.training")

    def check(self) -> None:
        """Raises UserError for numbers and names that ask for nothing that can be done."""
        if self.out.name in ("", ".."):
            raise UserError(f"--out {self.out}: give the name of a new folder, for instance adapted")
        if self.method not in METHODS:
            raise UserError(f"--method {self.method}: there is no such method; choose from {', '.join(METHODS)}")
        if self.method != "lora" and self.rank is not None:
            raise UserError(f"--rank {self.rank}: only --method lora has a rank; leave it out")
        rank = _RANK if self.rank is None else self.rank
        for name, number in (("steps", self.steps), ("rank", rank), ("batch-rows", self.batch_rows)):
            if number < 1:
                raise UserError(f"--{name} {number}: at least 1; leave it out for the default")
        if self.rate is not None and not 0 < self.rate <= 1:
            raise UserError(f"--rate {self.rate:g}: more than 0, at most 1; for instance {_RATES[self.method]:g}")
        check_directions(self.directions)
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed {self.seed}: a seed is a whole number from 0 to {2**32 - 1}")


def run_adaptation(settings: AdaptationSettings, console: Console) -> dict[str, Any]:
    """Adapts a model or goes on with it; returns what adapted.json holds, and `path`. Raises UserError for mistakes."""
    with computing(compute_of(settings.device, settings.precision)):
        return _adapted(settings, console)


def _adapted(settings: AdaptationSettings, console: Console) -> dict[str, Any]:
    settings.check()
    folder = resolve_model(settings.model)
    heard = read_layout(folder).encoder is not None
    languages = [DIRECTIONS[direction] for direction in settings.directions]
    corpus = open_corpus(settings.data, languages, heard=heard)
    key = _key(settings, model=model_fingerprint(folder), data=corpus.fingerprint())
    if settings.out.exists():
        result = _finished(settings.out, key)
        console.print(f"{settings.out}: adapted already with these settings; nothing was done", soft_wrap=True)
        return {**result, "path": str(settings.out)}
    source = load_source(folder)
    _round(source.model)
    rows, held_out = (make_rows(source, by_turns(corpus.examples(role)), languages) for role in (TRAINED_ON, CHOSEN_ON))
    with alone(settings.state_folder):
        start = _read_state(settings.state_folder, key)
        if start is not None:
            console.print(f"goes on after step {start.step} of {settings.steps}")
        with progress_on(console) as progress:
            task = progress.add_task("adapting", total=settings.steps, completed=start.step if start else 0)

            def keep(state: State) -> None:
                _write_state(settings.state_folder, key, state)
                words = f"select loss {state.losses[state.step]:.4f}, at first {state.losses[0]:.4f}"
                progress.update(task, description=f"adapting, {words}")
                if not console.is_terminal:
                    console.print(f"step {state.step} of {settings.steps}, {words}")

            model, last = adapt(
                source.model,
                rows,
                held_out,
                settings.training,
                start=start,
                keep=keep,
                progress=lambda step: progress.update(task, completed=step),
            )
        before, best_step = last.losses[0], last.best_step
        _round(model)
        after = mean_loss(model, held_out, settings.batch_rows)
        if not best_step or after >= before:
            # Nothing helped, or what helped is less than bf16 can tell.
            model, best_step, after = load_source(folder).model, 0, before
        result = {
            **key,
            "role": TRAINED_ON,
            "select_loss": {"before": before, "after": after},
            "best_step": best_step,
            "losses": [list(pair) for pair in last.losses.items()],
        }
        _write(settings.out, folder, model, result)
        shutil.rmtree(settings.state_folder)
    return {**result, "path": str(settings.out)}


def _key(settings: AdaptationSettings, *, model: str, data: str) -> dict[str, Any]:
    """What must stay as it is for a training to go on, or for its result to be the one asked for."""
    training = settings.training
    return {
        "format": FORMAT,
        "method": training.method,
        "steps": training.steps,
        "rank": training.rank,
        "rate": training.peak_rate,
        "batch_rows": training.batch_rows,
        "seed": training.seed,
        "langs": list(settings.directions),
        "data": data,
        "model": model,
        "computed": current().name,
    }


def _finished(out: Path, key: dict[str, Any]) -> dict[str, Any]:
    """What is known of a finished adaptation. Raises UserError where `out` is anything else."""
    try:
        known: dict[str, Any] = json.loads((out / RESULT).read_text())
        differences = differing(known, key)
    except (OSError, ValueError, TypeError, AttributeError):
        raise UserError(
            f"--out {out}: is there already and is no finished adaptation (no {RESULT}); give another name"
        ) from None
    if differences:
        raise UserError(f"--out {out}: was adapted with other settings ({differences}); take those or another --out")
    return known


@torch.no_grad()
def _round(model: PreTrainedModel) -> None:
    """Gives every parameter the value it is stored with."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(torch.bfloat16))


def _write_state(folder: Path, key: dict[str, Any], state: State) -> None:
    """The tensors' file is complete before state.json names it; only then the one before it goes."""
    path = folder / f"{state.step}.safetensors"
    save_tensors({name: tensor.to(HOST) for name, tensor in state.tensors.items()}, path)
    _flush(path)
    losses = list(state.losses.items())
    write_whole(folder / STATE, json.dumps({"settings": key, "step": state.step, "losses": losses}))
    for other in folder.glob("*.safetensors"):
        if other != path:
            other.unlink()


def _read_state(folder: Path, key: dict[str, Any]) -> State | None:
    """Where an earlier run stopped; None where it got nowhere. Raises UserError for other settings or damage."""
    if not (folder / STATE).exists():
        return None
    try:
        known = json.loads((folder / STATE).read_text())
        differences = differing(known["settings"], key)
        step, losses = int(known["step"]), {int(step): float(loss) for step, loss in known["losses"]}
        tensors = {} if differences else load_file(folder / f"{step}.safetensors")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        raise UserError(f"{folder}: is damaged ({first_line(error)}); remove it to begin again") from error
    if differences:
        raise UserError(
            f"{folder}: this training was begun with other settings ({differences}); take those, choose another "
            "--out, or remove the folder to begin again"
        )
    return State(step, losses, tensors)


def _write(out: Path, source: Path, model: PreTrainedModel, result: dict[str, Any]) -> None:
    """A model folder as Hugging Face writes it, with the source's own tokenizer; it appears whole."""
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.to(HOST, torch.bfloat16).save_pretrained(temporary)
    except SafetensorError as error:
        raise OSError(f"{out}: weights could not be written ({error})") from error
    for name in _CARRIED:
        (temporary / name).unlink(missing_ok=True)
        if (source / name).is_file():
            shutil.copyfile(source / name, temporary / name)
    (temporary / RESULT).write_text(json.dumps(result, indent=1))
    appear(temporary, out)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
