"""The command line: ``python launch.py COMMAND``, see ``--help``; search is the default command."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from transformers.utils import logging as transformers_logging

from compress.export import FORMS, export
from corpora.audio import HEARD_SECONDS
from corpora.importing import FORMS as DATA_FORMS
from corpora.importing import resolve_data
from corpora.roles import CONDITIONS, DIRECTIONS, ROLES, UNCONSTRAINED
from models.devices import PRECISIONS, compute_of
from scoring.comet import MODEL as COMET_MODEL
from scoring.comet_env import DEFAULT as COMET_ENV
from scoring.comet_env import build_comet_env
from scoring.submission import FORMS as SUBMISSION_FORMS
from search.adapting import AdaptationSettings, run_adaptation
from search.banking import BankSettings, run_bank
from search.dashboard import DashboardSettings, dashboard_server
from search.evaluating import EvaluationSettings, run_evaluation
from search.exam import GOLD, SEGMENTS
from search.fidelity import FidelitySettings, run_fidelity
from search.folders import measure_size
from search.listing import list_studies
from search.outlooks import PlanSettings, plan_ranges
from search.report import (
    print_adaptation,
    print_bank,
    print_evaluation,
    print_export,
    print_fidelity,
    print_plans,
    print_size,
    print_streaming,
    print_studies,
    print_submission,
    print_summary,
)
from search.run import run_search
from search.samplers import SAMPLER_NAMES
from search.settings import (
    BANK_SIZE,
    ENGINES,
    HEAL_ROWS,
    LOCAL,
    RECOMBINED,
    REMEASURED,
    WORKER_MINUTES,
    SearchSettings,
    check_directions,
)
from search.streaming import StreamSettings, run_streaming
from search.submitting import SubmitSettings, run_submission
from space.bins import BIN_NUMBERS, UNITS, max_size_range
from space.errors import UserError
from space.genes import HEAL_STEPS
from space.pins import PIN_HELP
from space.rates import LADDERS

# Trials that are evaluated fully, of one size and of each of all sizes.
_FINALISTS, _FINALISTS_OF_EACH = 3, 1
_STORAGE = "Optuna storage, a database's URL or a journal such as trials.log; default: SQLite in the study's folder"

_EXAMPLES = """\
examples:
  python launch.py --bin 3 --trials 200            the main job, on the bundled 1:1000 model
  python launch.py --bin 3 --trials 400            the same study goes on to 400 trials
  python launch.py --max-size 700kB --trials 50    any size instead of a bin
  python launch.py --pareto --trials 400           all sizes in one study, which learn from each other
  python launch.py plan --model qwen2-audio-7b --bin all
                                                   what the 7B model can be in each bin; no download
  python launch.py bank                            make ahead what trials are put together from
  python launch.py fidelity --bin 3 --plans 40     how well the cheap scores rank plans
  python launch.py adapt --out adapted             train the model on the task before it is compressed
  python launch.py compress --model FOLDER --plan plan.json --out FOLDER
                                                   one plan carried out, whatever the size of the model
  python launch.py size studies/bin3/finalists/trial-12/model
  python launch.py evaluate studies/bin3/finalists/trial-12/model
  python launch.py evaluate FOLDER other.en-de.txt --langs en-de
                                                   a model held against a file of hypotheses
  python launch.py --bin 1 --model Qwen/Qwen2-Audio-7B --data acl6060:FOLDER --condition constrained --comet
                                                   the task itself: its data, its metric
  python launch.py submit --study bin3 --user FBK --contact "A. Person" --email a@example.org
                                                   the archive and the message of the task
  python launch.py dashboard --study bin3          watch a study in the browser
  python launch.py studies                         how the studies here stand

A study lives in studies/NAME: study.db, finalists, summary.json. Run the same command again after any interruption:
finished trials stay, the study goes on to the total. Bin bounds scale with the source model's bytes.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 2 for a user's mistake, 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0] not in _COMMANDS and given[0] not in ("-h", "--help")):
        given.insert(0, "search")
    options = _parser().parse_args(given)
    _quieten()
    try:
        result, show = _COMMANDS[options.command](options)
    except UserError as error:
        print(f"tightfit: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"tightfit: {error.strerror or error}{where}; what was finished is kept", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tightfit: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        show(result, Console())
    return 0


Shown = tuple[dict[str, Any], Callable[[dict[str, Any], Console], None]]


def _search(options: argparse.Namespace) -> Shown:
    settings = _search_settings(
        options,
        trials=options.trials,
        hours=options.hours,
        patience=options.patience,
        storage=options.storage,
        workers=options.workers,
        worker_minutes=options.worker_minutes,
        engine=options.engine,
        ray_address=options.ray_address,
        worker_cpus=options.worker_cpus,
        worker_gpus=options.worker_gpus,
        sampler=options.sampler,
        warm_start=options.warm_start,
        pareto=options.pareto,
        condition=options.condition,
        comet=options.comet,
        comet_env=Path(options.comet_env),
        segments=options.segments,
        segment_seconds=options.segment_seconds,
        beams=options.beams,
        finalists=_finalists(options),
        recombined=options.recombined,
        remeasured=options.remeasure,
    )
    return run_search(settings, Console(stderr=options.json)), print_summary


def _finalists(options: argparse.Namespace) -> int:
    """How many of a size, if it is not said."""
    usual = _FINALISTS_OF_EACH if options.pareto else _FINALISTS
    return usual if options.finalists is None else int(options.finalists)


def _search_settings(options: argparse.Namespace, **more: Any) -> SearchSettings:
    """What a search and the commands about one have in common, and what is given besides."""
    return SearchSettings(
        study=options.study if options.study is not None else _default_name(options),
        bin=options.bin,
        max_size=options.max_size,
        model=options.model,
        data=_data(options),
        directions=_directions(options),
        seed=options.seed,
        trial_heal_steps=options.trial_heal_steps,
        finalist_heal_steps=options.heal_steps,
        heal_rows=options.heal_rows,
        pins=tuple(options.pin),
        units=UNITS[options.units],
        rates=options.rates,
        bank=Path(options.bank),
        bank_size=options.bank_size,
        device=options.device,
        precision=options.precision,
        **more,
    )


def _default_name(options: argparse.Namespace) -> str:
    if options.pareto:
        return "pareto"
    if options.bin is not None:
        return f"bin{options.bin}"
    return f"max-{max_size_range(options.max_size, UNITS[options.units]).bound_bytes}"


def _evaluate(options: argparse.Namespace) -> Shown:
    settings = EvaluationSettings(
        paths=tuple(Path(path) for path in options.path),
        data=_data(options),
        directions=_directions(options),
        role=options.role,
        batch_size=options.batch_size,
        beams=options.beams,
        segments=options.segments,
        segment_seconds=options.segment_seconds,
        comet=options.comet,
        comet_env=Path(options.comet_env),
        figures=options.figures,
        compute=compute_of(options.device, options.precision),
        kept=Path(options.kept),
    )
    return run_evaluation(settings, Console(stderr=True)), print_evaluation


def _submit(options: argparse.Namespace) -> Shown:
    settings = SubmitSettings(
        studies=tuple(options.study),
        user=options.user,
        institute=options.institute,
        contact=options.contact,
        email=options.email,
        primary=tuple(options.primary),
        contrastive=tuple(options.contrastive),
        form=options.form,
        empty_as=options.empty_as,
        figures=options.figures,
        out=Path(options.out),
        root=Path(options.root),
    )
    return run_submission(settings), print_submission


def _comet_env(options: argparse.Namespace) -> Shown:
    folder = Path(options.folder)
    build_comet_env(folder, options.python, lambda line: print(line, file=sys.stderr))
    return {"folder": str(folder)}, lambda _result, _console: None


def _size(options: argparse.Namespace) -> Shown:
    return measure_size(_folder(options), UNITS[options.units]), print_size


def _plan(options: argparse.Namespace) -> Shown:
    settings = PlanSettings(
        model=options.model,
        bins=None if options.max_size else _bins(options.bin),
        max_size=options.max_size,
        units=UNITS[options.units],
        pins=tuple(options.pin),
        data=_data(options) if options.data else None,
        directions=_directions(options),
        rates=options.rates,
    )
    return plan_ranges(settings), print_plans


def _adapt(options: argparse.Namespace) -> Shown:
    settings = AdaptationSettings(
        out=Path(options.out),
        model=options.model,
        data=_data(options),
        directions=_directions(options),
        method=options.method,
        steps=options.steps,
        rank=options.rank,
        rate=options.rate,
        batch_rows=options.batch_rows,
        seed=options.seed,
        device=options.device,
        precision=options.precision,
    )
    return run_adaptation(settings, Console(stderr=options.json)), print_adaptation


def _compress(options: argparse.Namespace) -> Shown:
    settings = StreamSettings(
        model=options.model,
        plan=Path(options.plan),
        out=Path(options.out),
        data=_data(options),
        directions=_directions(options),
        utterances=options.utterances,
        device=options.device,
        precision=options.precision,
    )
    return run_streaming(settings, Console(stderr=options.json)), print_streaming


def _bank(options: argparse.Namespace) -> Shown:
    settings = BankSettings(
        model=options.model,
        data=_data(options),
        directions=_directions(options),
        rates=options.rates,
        bank=Path(options.bank),
        bank_size=options.bank_size,
        device=options.device,
        precision=options.precision,
    )
    return run_bank(settings, Console(stderr=options.json)), print_bank


def _fidelity(options: argparse.Namespace) -> Shown:
    settings = FidelitySettings(_search_settings(options, trials=options.plans), options.plans)
    return run_fidelity(settings, Console(stderr=options.json)), print_fidelity


def _export(options: argparse.Namespace) -> Shown:
    return asdict(export(_folder(options), options.to, Path(options.out))), print_export


def _dashboard(options: argparse.Namespace) -> Shown:
    """Serves until Ctrl-C, which is how it ends."""
    settings = DashboardSettings(options.study, options.storage, options.host, options.port, Path(options.root))
    with dashboard_server(settings) as (server, address):
        print(f"{address} shows {settings.study}; Ctrl-C ends it", file=sys.stderr, flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    return {"study": settings.study, "address": address}, lambda _result, _console: None


def _studies(options: argparse.Namespace) -> Shown:
    return list_studies(Path(options.root)), print_studies


def _bins(text: str) -> tuple[int, ...]:
    if text == "all":
        return BIN_NUMBERS
    if not text.isdecimal():
        raise UserError(f"--bin {text}: there is no such bin; choose one of {', '.join(map(str, BIN_NUMBERS))}, or all")
    return (int(text),)


def _folder(options: argparse.Namespace) -> Path:
    folder = Path(options.path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of a checkpoint or a model")
    return folder


def _data(options: argparse.Namespace) -> Path:
    """The folder of roles that --data means; other forms are imported first."""
    directions = _directions(options)
    check_directions(directions)
    languages = [DIRECTIONS[direction] for direction in directions]
    return resolve_data(
        options.data, languages, Path(options.imported), lambda line: print(f"data: {line}", file=sys.stderr)
    )


def _directions(options: argparse.Namespace) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in options.langs.split(",") if part.strip()))


_COMMANDS: dict[str, Callable[[argparse.Namespace], Shown]] = {
    "search": _search,
    "fidelity": _fidelity,
    "bank": _bank,
    "plan": _plan,
    "adapt": _adapt,
    "compress": _compress,
    "evaluate": _evaluate,
    "comet-env": _comet_env,
    "submit": _submit,
    "export": _export,
    "size": _size,
    "studies": _studies,
    "dashboard": _dashboard,
}


_STYLE = argparse.RawDescriptionHelpFormatter


@dataclass(frozen=True)
class _Shared:
    """Options that several commands have."""

    common: argparse.ArgumentParser
    data: argparse.ArgumentParser
    counted: argparse.ArgumentParser
    rated: argparse.ArgumentParser
    pinned: argparse.ArgumentParser
    banked: argparse.ArgumentParser
    computed: argparse.ArgumentParser
    scored: argparse.ArgumentParser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="launch.py", description=__doc__, epilog=_EXAMPLES, formatter_class=_STYLE)
    commands, shared = parser.add_subparsers(dest="command", required=True), _shared()
    for add in (
        _add_search,
        _add_fidelity,
        _add_bank,
        _add_plan,
        _add_adapt,
        _add_compress,
        _add_evaluate,
        _add_comet_env,
        _add_folder_commands,
        _add_study_commands,
    ):
        add(commands, shared)
    return parser


def _shared() -> _Shared:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--data", metavar="DATA", help=f"{DATA_FORMS}; default: the bundled talks")
    data.add_argument(
        "--imported", default="studies/data", metavar="DIR", help="where data of other forms are kept (%(default)s)"
    )
    data.add_argument("--langs", default=",".join(DIRECTIONS), help="directions, comma-separated (%(default)s)")

    counted = argparse.ArgumentParser(add_help=False)
    counted.add_argument(
        "--units", default="decimal", choices=tuple(UNITS), help="a kB is 1000 or 1024 bytes (%(default)s)"
    )
    rated = argparse.ArgumentParser(add_help=False)
    rated.add_argument(
        "--rates",
        default="coded",
        choices=tuple(LADDERS),
        help="entropy-coded, or packed as other runtimes read it (%(default)s)",
    )
    pinned = argparse.ArgumentParser(add_help=False, parents=[counted, rated])
    pinned.add_argument("--pin", action="append", default=[], metavar="PIN", help=f"may be repeated: {PIN_HELP}")
    banked = argparse.ArgumentParser(add_help=False)
    banked.add_argument(
        "--bank",
        default="studies/bank",
        metavar="DIR",
        help="where studies share what trials are put together from (%(default)s)",
    )
    banked.add_argument(
        "--bank-size",
        default=BANK_SIZE,
        metavar="SIZE",
        help="the most it takes for a model and data; what was not asked for the longest time goes (%(default)s)",
    )
    computed = argparse.ArgumentParser(add_help=False)
    computed.add_argument(
        "--device", default="auto", help="where models run: cpu, cuda, cuda:N; auto takes a GPU if any (%(default)s)"
    )
    computed.add_argument(
        "--precision",
        default="auto",
        help=f"of forward passes: {', '.join(PRECISIONS)}; auto is bfloat16 on a GPU that has it (%(default)s)",
    )
    return _Shared(common, data, counted, rated, pinned, banked, computed, _scored())


def _scored() -> argparse.ArgumentParser:
    scored = argparse.ArgumentParser(add_help=False)
    scored.add_argument(
        "--comet",
        nargs="?",
        const=COMET_MODEL,
        metavar="MODEL",
        help=f"score by COMET, too: {COMET_MODEL}, another name on the hub, or a folder (needs comet-env)",
    )
    scored.add_argument(
        "--comet-env", default=str(COMET_ENV), metavar="DIR", help="environment that COMET runs in (%(default)s)"
    )
    scored.add_argument(
        "--segments",
        default=GOLD,
        choices=SEGMENTS,
        help="translate gold segments, or whole talks cut by a voice detector and re-segmented as the task does it "
        "(%(default)s)",
    )
    scored.add_argument(
        "--segment-seconds",
        type=float,
        default=HEARD_SECONDS,
        metavar="S",
        help="the longest segment of a whole talk; a model hears none longer than it was made for (%(default)g)",
    )
    scored.add_argument("--beams", type=int, default=1, help="of decoding; 1 is greedy (%(default)s)")
    return scored


def _add_search(commands: Any, shared: _Shared) -> None:
    search = commands.add_parser(
        "search",
        parents=[shared.common, shared.data, shared.scored, shared.pinned, shared.banked, shared.computed],
        help="find the best model that fits (default command)",
        description="Search for the best model that fits a bin or a size, and store it.",
        epilog=_EXAMPLES,
        formatter_class=_STYLE,
    )
    _add_bound(search, pareto=True)
    search.add_argument("--trials", type=int, default=200, help="trials in all, earlier runs included (%(default)s)")
    search.add_argument("--hours", type=float, metavar="H", help="go on to the finalists after so many hours")
    search.add_argument(
        "--patience", type=int, metavar="N", help="go on to the finalists where N trials made the front no better"
    )
    search.add_argument(
        "--model",
        help="folder or hub id of a Qwen2-Audio, or of a reading Llama, Mistral or Qwen2; default: the bundled model",
    )
    search.add_argument(
        "--condition",
        default=UNCONSTRAINED,
        choices=CONDITIONS,
        help="of the task: constrained takes nothing but ACL 60/60 (%(default)s)",
    )
    search.add_argument("--study", help="name of the study; default: after the bin")
    search.add_argument("--storage", metavar="URL", help=_STORAGE)
    search.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that evaluate a plan each, among which cores and GPUs are shared out (%(default)s: this one)",
    )
    search.add_argument(
        "--worker-minutes",
        type=float,
        default=WORKER_MINUTES,
        metavar="M",
        help="a worker that says nothing for so long hangs, and is replaced (%(default)g)",
    )
    _add_engine(search)
    search.add_argument("--sampler", default="policy", help=f"one of {', '.join(SAMPLER_NAMES)} (%(default)s)")
    search.add_argument(
        "--warm-start",
        metavar="STUDY",
        help="begin with the best plans of another study of this model, of whatever bound or seed, made to fit",
    )
    search.add_argument(
        "--finalists",
        type=int,
        help=f"best trials, healed in full and evaluated ({_FINALISTS}; with --pareto {_FINALISTS_OF_EACH} a size)",
    )
    _add_trial_heal_steps(search)
    search.add_argument(
        "--remeasure",
        type=int,
        metavar="PLANS",
        help="with --trial-heal-steps 0, one bin and the default sampler: around how many plans at most it is measured "
        f"what single changes are worth ({REMEASURED} with --heal-steps 0, else 0: healing makes up for it)",
    )
    search.add_argument("--heal-steps", type=int, default=200, help="healing steps of a finalist (%(default)s)")
    search.add_argument(
        "--heal-rows",
        type=int,
        default=HEAL_ROWS,
        help="rows, an utterance in a direction, a step of a finalist's healing; fewer take less memory (%(default)s)",
    )
    search.add_argument(
        "--recombined",
        type=int,
        default=RECOMBINED,
        help="for each calibration utterance, how many more a finalist heals on: made of pieces of others, translated "
        "by the uncompressed model (%(default)s; 0 for none)",
    )
    search.add_argument("--seed", type=int, default=0, help="every random choice comes from it (%(default)s)")


def _add_engine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--engine",
        default=LOCAL,
        choices=ENGINES,
        help="where --workers are: on this machine, or on a Ray cluster (%(default)s)",
    )
    command.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="of the cluster, from one of its nodes: host:port, or auto; default: a Ray of this machine's own",
    )
    command.add_argument(
        "--worker-cpus",
        type=int,
        metavar="N",
        help="CPUs, and threads, of a Ray worker (1; here: as many as there are)",
    )
    command.add_argument(
        "--worker-gpus", type=float, metavar="N", help="GPUs of a Ray worker: 0, 1, a share such as 0.5 (0)"
    )


def _add_trial_heal_steps(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trial-heal-steps",
        type=int,
        default=HEAL_STEPS,
        help="healing steps of a trial in its last rung, at most (%(default)s); fewer are faster and rank worse",
    )


def _add_bound(command: argparse.ArgumentParser, *, pareto: bool = False) -> None:
    command.set_defaults(pareto=False)
    size = command.add_mutually_exclusive_group(required=True)
    size.add_argument("--bin", type=int, help=f"size bin of the task, {BIN_NUMBERS[0]} to {BIN_NUMBERS[-1]}")
    size.add_argument("--max-size", metavar="SIZE", help="instead of a bin: 900kB, 1.5GB, 300MiB; not reached")
    if pareto:
        size.add_argument(
            "--pareto", action="store_true", help="all sizes in one study: every bin, and one size between each two"
        )


def _add_fidelity(commands: Any, shared: _Shared) -> None:
    measured = commands.add_parser(
        "fidelity",
        parents=[shared.common, shared.data, shared.pinned, shared.banked, shared.computed],
        help="how well the cheap scores rank plans",
        description="Score plans, half of them random, half near where a search ends, by every cheap score on as many "
        "utterances as a rung may have; then translate the select role with them, unhealed and healed. Prints how well "
        "the cheap scores put them in order. What is scored stays; the same command goes on.",
        epilog=_EXAMPLES,
        formatter_class=_STYLE,
    )
    _add_bound(measured)
    measured.add_argument("--plans", type=int, default=40, help="how many plans (%(default)s)")
    measured.add_argument("--model", help="folder or hub id, as in search; default: the bundled model")
    measured.add_argument("--study", help="name of the study, in whose folder results are kept; default: after the bin")
    _add_trial_heal_steps(measured)
    measured.add_argument("--heal-steps", type=int, default=100, help="healing steps of a plan (%(default)s)")
    measured.add_argument("--heal-rows", type=int, default=16, help="rows a step of healing (%(default)s)")
    measured.add_argument("--seed", type=int, default=0, help="every random choice comes from it (%(default)s)")


def _add_bank(commands: Any, shared: _Shared) -> None:
    bank = commands.add_parser(
        "bank",
        parents=[shared.common, shared.data, shared.rated, shared.banked, shared.computed],
        help="make ahead what trials are put together from",
        description="Prune, compensate and quantise every sublayer and table at every option, so that trials need not. "
        "What is there stays; after an interruption the same command goes on. Searches do without: they make what they "
        "ask for.",
        epilog=_EXAMPLES,
        formatter_class=_STYLE,
    )
    bank.add_argument("--model", help="folder or hub id, as in search; default: the bundled model")


def _add_plan(commands: Any, shared: _Shared) -> None:
    plan = commands.add_parser(
        "plan",
        parents=[shared.common, shared.data, shared.pinned],
        help="what a model can be in each bin; no weights are read",
        description="What fits, what has to go and where the bytes are, before any weight is read.",
        epilog=_EXAMPLES,
        formatter_class=_STYLE,
    )
    wanted = plan.add_mutually_exclusive_group()
    wanted.add_argument("--bin", default="all", metavar="N", help="a bin of the task, or all (%(default)s)")
    wanted.add_argument("--max-size", metavar="SIZE", help="instead of a bin: 900kB, 1.5GB, 300MiB; not reached")
    plan.add_argument(
        "--model",
        help="qwen2-audio-7b or qwen2-audio-7b-instruct (known offline), a folder, a config.json, a safetensors file "
        "or index, or a hub id; default: the bundled 1:1000 model",
    )


def _add_adapt(commands: Any, shared: _Shared) -> None:
    adapt = commands.add_parser(
        "adapt",
        parents=[shared.common, shared.data, shared.computed],
        help="train the model on the task before it is compressed",
        description="Train the uncompressed model on the references of the role calibrate; the state with the lowest "
        "loss on the role select is kept. The folder is then given to search with --model.",
        epilog=_EXAMPLES,
        formatter_class=_STYLE,
    )
    adapt.add_argument("--out", required=True, metavar="FOLDER", help="the adapted model; must not be there yet")
    adapt.add_argument("--model", help="folder or hub id, as in search; default: the bundled model")
    adapt.add_argument("--method", default="lora", help="lora, merged at the end, or full (%(default)s)")
    adapt.add_argument("--steps", type=int, default=300, help="training steps (%(default)s)")
    adapt.add_argument("--rank", type=int, help="rank of the LoRA (32)")
    adapt.add_argument("--rate", type=float, metavar="LR", help="peak learning rate (lora: 2e-4, full: 1e-5)")
    adapt.add_argument(
        "--batch-rows", type=int, default=16, help="rows, an utterance in a direction, a step (%(default)s)"
    )
    adapt.add_argument("--seed", type=int, default=0, help="every random choice comes from it (%(default)s)")


def _add_compress(commands: Any, shared: _Shared) -> None:
    compress = commands.add_parser(
        "compress",
        parents=[shared.common, shared.data, shared.computed],
        help="carry one plan out, a layer at a time: for models that memory does not hold",
        description="Carry a plan out without a search and without healing. The source is read, treated and written a "
        "layer at a time: host memory stays under three of its largest layers in float32 and 2 GiB. After an "
        "interruption the same command goes on.",
        epilog=_EXAMPLES,
        formatter_class=_STYLE,
    )
    compress.add_argument("--plan", required=True, metavar="FILE", help="a plan.json, or a checkpoint that has one")
    compress.add_argument("--out", required=True, metavar="FOLDER", help="the checkpoint; must not be there yet")
    compress.add_argument("--model", help="folder or hub id, as in search; default: the bundled model")
    compress.add_argument(
        "--utterances", type=int, default=32, help="how many of the calibrate role are measured on (%(default)s)"
    )


def _add_evaluate(commands: Any, shared: _Shared) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        parents=[shared.common, shared.data, shared.scored, shared.computed],
        help="translate and score checkpoints, models or files of hypotheses",
        description="Translate and score models, or score files of hypotheses (a line an utterance; where there are "
        "not as many lines as references they are re-segmented, all talks at once). Of several the first is held "
        "against each other.",
        formatter_class=_STYLE,
    )
    evaluate.add_argument("path", nargs="+", help="folder of a checkpoint or a model, or a file of hypotheses")
    evaluate.add_argument("--role", default="report", choices=ROLES, help="which examples (%(default)s)")
    evaluate.add_argument("--batch-size", type=int, default=32, help="utterances at once (%(default)s)")
    evaluate.add_argument(
        "--figures", action="store_true", help="parameters, FLOPs, seconds, real-time factor and peak memory, too"
    )
    evaluate.add_argument(
        "--kept",
        default="studies/evaluations",
        metavar="DIR",
        help="where translations are kept until they are scored, so that the same command goes on (%(default)s)",
    )


def _add_comet_env(commands: Any, shared: _Shared) -> None:
    made = commands.add_parser(
        "comet-env",
        parents=[shared.common],
        help="make the environment that COMET runs in",
        description="Make a virtual environment of exact pins for unbabel-comet, which cannot live beside tightfit's.",
        formatter_class=_STYLE,
    )
    made.add_argument("--folder", default=str(COMET_ENV), metavar="DIR", help="where (%(default)s)")
    made.add_argument("--python", metavar="PYTHON", help="made by this interpreter; default: the one that runs")


def _add_folder_commands(commands: Any, shared: _Shared) -> None:
    weigh = commands.add_parser(
        "size", parents=[shared.common, shared.counted], help="bytes of a model folder by part, and its bin"
    )
    weigh.add_argument("path", help="folder of a checkpoint or of an uncompressed model")
    exported = commands.add_parser(
        "export",
        parents=[shared.common],
        help="write a checkpoint for other runtimes",
        description="Write a checkpoint in bf16 for transformers' own classes (dense), or with its packed decoder in "
        "the format of GPTQ, which gptqmodel reads (gptq).",
    )
    exported.add_argument("path", help="folder of a checkpoint")
    exported.add_argument("--to", required=True, choices=tuple(FORMS), help="form to write")
    exported.add_argument("--out", required=True, metavar="FOLDER", help="where to; must not be there yet")


def _add_study_commands(commands: Any, shared: _Shared) -> None:
    rooted = argparse.ArgumentParser(add_help=False)
    rooted.add_argument("--root", default="studies", metavar="DIR", help="where the studies are (%(default)s)")
    commands.add_parser("studies", parents=[shared.common, rooted], help="how the studies of a folder stand")
    _add_submit(commands, shared, rooted)
    dashboard = commands.add_parser(
        "dashboard",
        parents=[shared.common, rooted],
        help="watch a study in the browser",
        description="Optuna's dashboard on a study: its trials with notes, plans and pictures, and finalists' speech "
        "and translations. It may be watched while the search runs.",
        epilog=_EXAMPLES,
        formatter_class=_STYLE,
    )
    dashboard.add_argument("--study", required=True, help="name of the study")
    dashboard.add_argument("--storage", metavar="URL", help=_STORAGE)
    dashboard.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    dashboard.add_argument("--port", type=int, default=8080, help="0 takes a free one (%(default)s)")


def _add_submit(commands: Any, shared: _Shared, rooted: argparse.ArgumentParser) -> None:
    submit = commands.add_parser(
        "submit",
        parents=[shared.common, rooted],
        help="pack the submission of finished studies",
        description="Write the archive of hypotheses of finalists on the report role, named as the task asks, and the "
        "message that goes with it. Each --study's champion is the primary of its bin, if no other is named.",
        epilog=_EXAMPLES,
        formatter_class=_STYLE,
    )
    submit.add_argument("--study", action="append", required=True, metavar="NAME", help="may be repeated")
    submit.add_argument("--user", required=True, metavar="ID", help="as in the registration, for instance FBK")
    submit.add_argument("--contact", required=True, metavar="NAME", help="person to ask")
    submit.add_argument("--institute", default="", help="default: the user")
    submit.add_argument("--email", required=True, metavar="ADDRESS", help="of the contact")
    trial = {"action": "append", "default": [], "metavar": "[STUDY:]TRIAL"}
    submit.add_argument(
        "--primary",
        help="a finalist in place of the champion, or of what a front has for its bin; may be repeated",
        **trial,
    )
    submit.add_argument("--contrastive", help="a finalist; may be repeated", **trial)
    submit.add_argument("--form", default=SUBMISSION_FORMS[0], choices=SUBMISSION_FORMS, help="of names (%(default)s)")
    submit.add_argument("--empty-as", metavar="TEXT", help="what stands where a hypothesis is empty")
    submit.add_argument(
        "--figures",
        action="store_true",
        help="measure here what translating costs, for the message: FLOPs, seconds, ...",
    )
    submit.add_argument("--out", default="submission", metavar="FOLDER", help="where to (%(default)s)")


def _quieten() -> None:
    """Libraries' own progress and warnings are not for the user of this program."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # a connection that is lost is said once, by who needed it
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    sys.exit(main())
