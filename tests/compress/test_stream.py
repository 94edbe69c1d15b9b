"""Streamed checkpoints: those of the pipeline in memory, whatever the shards, wherever a run was cut off."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import launch
from compress import ledger, tables
from compress.checkpoint import load_checkpoint, write_checkpoint
from compress.coding import _Target, code_matrix
from compress.frequencies import stream_bytes
from compress.gptq import Hessian
from compress.heal import make_lessons
from compress.ledger import open_ledger
from compress.pipeline import Bank, compress
from compress.pricing import priced
from compress.stream import make_task, stream, write_streamed
from models.anatomy import places
from models.inputs import batches, make_batch, target_logits
from models.layouts import INDEX
from models.loading import Source, pad_token
from models.modeling_tightfit import WEIGHTS, decode_coded
from models.shards import open_shards
from proxies.divergence import divergence
from search.settings import model_fingerprint
from space.errors import UserError
from space.plan import Heal, Layer, Plan, Sublayer, plan_with, uniform_plan
from space.rates import WHOLE, Coded, Packed, Rate
from space.size import header_bytes, plan_size, units
from tests.tiny import TINY, load_tiny, make_bank, tiny_rows

RATES: tuple[Rate, ...] = (Coded(2.0), Coded(3.0), Packed(3, 64), Packed(4, 128), WHOLE)


@pytest.fixture(scope="module", params=TINY)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"), request.param)


@pytest.fixture(scope="module")
def bank(source: Source) -> Bank:
    rows = tiny_rows(source)
    return make_bank(source, batches(rows, 2, pad_token(source.model)), make_lessons(source.model, rows))


def mixed_plan(source: Source, seed: int, rates: tuple[Rate, ...] = RATES) -> Plan:
    """Rates and widths at random; a sublayer of each tower and a whole layer of the decoder gone; tokens too."""
    rng, layout = random.Random(seed), source.layout
    stacks = {}
    for tower in layout.towers:
        layers = [
            Layer(
                Sublayer(rng.randint(2, tower.kv_heads), rng.choice(rates)),
                Sublayer(rng.randint(tower.ffn // 2, tower.ffn), rng.choice(rates)),
            )
            for _ in range(tower.layers)
        ]
        layers[1] = replace(layers[1], ffn=Sublayer(0, WHOLE))
        layers[2] = Layer(Sublayer(0, WHOLE), Sublayer(0 if tower.gated else tower.ffn, rng.choice(rates)))
        stacks[tower.name] = tuple(layers)
    tables = {name: rng.choice(rates) for name in layout.tables}
    size = rng.choice(source.vocabulary.sizes()[1:])
    return plan_with(stacks.get("encoder", ()), stacks["decoder"], tables, vocabulary=size, heal=Heal())


def streamed(
    source: Source, plan: Plan, out: Path, folder: Path | None = None, progress: Callable[[str], None] = lambda _: None
) -> int:
    """The folder's bytes. The work folder stays, as after an interruption."""
    rows = tiny_rows(source)
    groups = [rows[start : start + 2] for start in range(0, len(rows), 2)]
    task = make_task(folder or source.folder, plan, layout=source.layout, vocabulary=source.vocabulary, groups=groups)
    work = out.with_name(f"{out.name}-work")
    work.mkdir(exist_ok=True)
    return write_streamed(out, task, stream(task, open_ledger(work, "key"), progress))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_sixteen_bits_and_nothing_pruned_is_the_pipelines_checkpoint(
    source: Source, bank: Bank, tmp_path: Path
) -> None:
    plan = uniform_plan(source.layout, WHOLE)
    compressed = compress(source, plan, bank, seed=0)
    write_checkpoint(tmp_path / "memory", source, plan, compressed.stored)
    streamed(source, plan, tmp_path / "streamed")
    assert contents(tmp_path / "streamed") == contents(tmp_path / "memory")
    batch = make_batch(tiny_rows(source), pad_token(source.model))
    with torch.no_grad():
        logits = target_logits(load_checkpoint(tmp_path / "streamed")[0], batch)
        assert torch.equal(logits, target_logits(compressed.model, batch))


def test_bytes_are_predicted_and_divergence_is_the_pipelines(source: Source, bank: Bank, tmp_path: Path) -> None:
    found = []
    for seed in range(4):
        rates = RATES if seed else tuple(rate for rate in RATES if isinstance(rate, Packed))
        plan = mixed_plan(source, seed, rates)
        written = streamed(source, plan, tmp_path / str(seed))
        predicted = plan_size(source.layout, plan, source.fixed_bytes).total
        coded = any(isinstance(unit.rate, Coded) for unit in units(source.layout, plan))
        assert written == predicted if not coded else 0.97 * predicted <= written <= predicted
        tensors = load_file(tmp_path / str(seed) / WEIGHTS)
        sizes = {name: len(data) for name, data in tensors.items()}
        assert (tmp_path / str(seed) / WEIGHTS).stat().st_size == header_bytes(sizes) + sum(sizes.values())
        lessons = bank.curriculum.of(plan.vocabulary)
        model, stored_plan = load_checkpoint(tmp_path / str(seed))
        assert stored_plan == plan
        found.append((divergence(model, lessons), divergence(compress(source, plan, bank, seed=0).model, lessons)))
    ratios = [ours / theirs for ours, theirs in found]
    assert sum(ratios) / len(ratios) < 1.1, found
    assert max(ratios) < 1.4, found


def renamed(folder: Path, other: Path, rename: Callable[[str], str], shards: int = 1) -> Path:
    """A folder's model with its tensors under other names, in one file or dealt to several with an index."""
    other.mkdir()
    for path in folder.iterdir():
        if path.name != WEIGHTS:
            (other / path.name).write_bytes(path.read_bytes())
    tensors = {rename(name): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    if shards == 1:
        save_file(tensors, other / WEIGHTS)
        return other
    dealt = {name: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(tensors)}
    for file in set(dealt.values()):
        save_file({name: tensors[name] for name in tensors if dealt[name] == file}, other / file)
    (other / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dealt}))
    return other


def new_name(name: str) -> str:
    """A name as transformers 5 has it in memory, where the hub's Qwen2-Audio has another one."""
    for old, new in (
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("audio_tower.", "model.audio_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def test_shards_and_names_make_no_difference(source: Source, tmp_path: Path) -> None:
    plan = mixed_plan(source, 1)
    streamed(source, plan, tmp_path / "one")
    sharded = renamed(source.folder, tmp_path / "shards", str, shards=3)
    streamed(source, plan, tmp_path / "three", sharded)
    streamed(source, plan, tmp_path / "new", renamed(source.folder, tmp_path / "names", new_name))
    assert contents(tmp_path / "three") == contents(tmp_path / "one") == contents(tmp_path / "new")
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00003\.safetensors is not there"):
        open_shards(sharded)


def test_a_run_that_was_cut_off_goes_on(source: Source, tmp_path: Path) -> None:
    plan = mixed_plan(source, 2)
    seen: list[str] = []

    def stop_at(name: str) -> Callable[[str], None]:
        def progress(unit: str) -> None:
            seen.append(unit)
            if unit == name:
                raise KeyboardInterrupt

        return progress

    streamed(source, plan, tmp_path / "straight", progress=seen.append)
    order, seen = seen, []
    for name in (order[1], "decoder.0.ffn", order[-1]):
        with pytest.raises(KeyboardInterrupt):
            streamed(source, plan, tmp_path / "pieces", progress=stop_at(name))
        with (tmp_path / "pieces-work" / "data.bin").open("ab") as file:
            file.write(b"half a unit")
    streamed(source, plan, tmp_path / "pieces", progress=seen.append)
    assert contents(tmp_path / "pieces") == contents(tmp_path / "straight")
    assert len(seen) == len(order) + 3
    assert not open_ledger(tmp_path / "pieces-work", "another key").done


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("plain"))


def damaged(source: Source, other: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    folder = renamed(source.folder, other, str)
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    return folder


def test_damage_is_named(plain: Source, tmp_path: Path) -> None:
    plan, name = uniform_plan(plain.layout, Packed(4, 64)), "language_model.model.layers.1.mlp.up_proj.weight"
    gone = damaged(plain, tmp_path / "a", lambda tensors: tensors.pop(name))
    with pytest.raises(UserError, match=r"no shard has the tensor .*layers\.1\.mlp\.up_proj\.weight"):
        streamed(plain, plan, tmp_path / "out", gone)
    nan = damaged(plain, tmp_path / "b", lambda tensors: tensors[name][3].fill_(float("nan")))
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj\.weight holds NaN"):
        streamed(plain, plan, tmp_path / "out", nan)
    narrow = damaged(plain, tmp_path / "c", lambda tensors: tensors.update({name: torch.zeros(2, 2)}))
    with pytest.raises(UserError, match=r"up_proj\.weight has the shape \[2, 2\]"):
        streamed(plain, plan, tmp_path / "out", narrow)
    half = renamed(plain.folder, tmp_path / "d", str)
    (half / WEIGHTS).write_bytes((half / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(UserError, match="copy the shard again"):
        streamed(plain, plan, tmp_path / "out", half)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bits", [1.2, 3.0])
def test_tables_in_slices_are_coded_as_closely(
    plain: Source, bits: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = plain.vocabulary.sizes()[-2]
    plan = uniform_plan(plain.layout, Packed(8, 64))
    plan = replace(plan, embedding=Coded(bits), lm_head=Coded(bits), vocabulary=size)
    errors = []
    for entries, name in ((2**24, "whole"), (2**15, "slices")):
        monkeypatch.setattr(tables, "_SLICE_ENTRIES", entries)
        written = streamed(plain, plan, tmp_path / name)
        predicted = plan_size(plain.layout, plan, plain.fixed_bytes).total
        assert 0.98 * predicted <= written <= predicted
        model, _ = load_checkpoint(tmp_path / name)
        kept = list(plain.vocabulary.kept(size))
        table, head = plain.model.get_input_embeddings().weight[kept], plain.model.lm_head.weight[kept]
        pairs = ((model.get_input_embeddings().weight, table), (model.lm_head.weight, head))
        errors.append([float((found.detach() - true.detach()).pow(2).mean()) for found, true in pairs])
    for whole, slices in zip(*errors, strict=True):
        assert slices == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize("name", ["embedding", "lm_head"])
def test_tables_in_slices_are_rounded_as_whole_ones(
    plain: Source, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one step, lookup or not: the same symbols, step and scales."""
    whole = plain.model.get_input_embeddings() if name == "embedding" else plain.model.lm_head
    weights = whole.weight.detach()
    kept = torch.arange(0, len(weights), 2)
    (place,) = (x for x in places(plain.model, uniform_plan(plain.layout, WHOLE)) if x.name == name)
    (key,) = (x for x, module in plain.model.named_modules() if module is place.matrices[0])
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(500, weights.shape[1], generator=generator)
    moments = torch.rand(len(kept), generator=generator) + 0.1 if name == "embedding" else inputs.T @ inputs / 500
    hessian = priced(Hessian(moments), 1.5)
    monkeypatch.setattr(tables, "_SLICE_ENTRIES", 16 * weights.shape[1])
    sliced = tables._with_step(tables.TableRows(open_shards(plain.folder), f"{key}.weight", kept), hessian, 0.01)
    plainly = _Target(weights[kept], hessian, even=False).with_step(0.01)
    assert (sliced.symbols != plainly.symbols).float().mean() < 1e-3, "but for ties"
    assert sliced.step == pytest.approx(plainly.step, rel=1e-3)
    assert torch.equal(sliced.of_columns, plainly.of_columns)
    assert (sliced.of_rows - plainly.of_rows).abs().max() <= 1
    assert sliced.transposed == plainly.transposed == (name == "embedding")


def options(plan: Plan, tmp_path: Path, *more: str) -> list[str]:
    (tmp_path / "plan.json").write_text(plan.to_json())
    return ["compress", "--plan", str(tmp_path / "plan.json"), "--out", str(tmp_path / "out"), *more]


def test_the_command_writes_says_and_refuses(
    plain: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = uniform_plan(plain.layout, Packed(4, 64), Heal(40, 8, 1e-3))
    words = options(plan, tmp_path, "--model", str(plain.folder), "--utterances", "2", "--json")
    before = model_fingerprint(plain.folder)
    with monkeypatch.context() as patched:
        patched.setattr(ledger, "flush", full_after(20))
        assert launch.main(words) == 2
        assert "the disk is full; what was finished is kept" in capsys.readouterr().err
    assert launch.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["heal_steps_left_out"], result["utterances"]) == (40, 2)
    assert result["bytes"] == result["predicted_bytes"] == sum(len(x) for x in contents(tmp_path / "out").values())
    assert 0 < result["units_resumed"] < result["units"]
    assert 0 < result["peak_bytes"] < result["bound_bytes"]
    assert load_checkpoint(tmp_path / "out")[1].heal.steps == 0
    assert model_fingerprint(plain.folder) == before
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "out"}
    assert launch.main(words) == 2
    assert "is there already" in capsys.readouterr().err


def full_after(calls: int) -> Callable[[Any], None]:
    """A disk that is full after so many files."""
    left: Iterator[int] = iter(range(calls))

    def flush(file: Any) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        file.flush()

    return flush


def test_plans_of_another_model_are_refused(plain: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fits = uniform_plan(plain.layout, Packed(4, 64))
    wide = (replace(fits.decoder[0], ffn=Sublayer(10_000, WHOLE)), *fits.decoder[1:])
    deaf = tuple(replace(layer, attention=Sublayer(0, WHOLE)) for layer in fits.decoder)
    for plan, words in (
        (replace(fits, decoder=fits.decoder[1:]), "layers of the decoder: the plan has 2, the model 3"),
        (replace(fits, decoder=wide), "channels of decoder.0: the plan has 10000"),
        (replace(fits, decoder=deaf), "the decoder keeps no attention"),
        (replace(fits, lm_head=None), "tables"),
        (replace(fits, vocabulary=10), "tokens: the plan has 10, the model"),
    ):
        assert launch.main(options(plan, tmp_path, "--model", str(plain.folder))) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    (tmp_path / "plan.json").write_text("[]")
    assert launch.main(["compress", "--plan", str(tmp_path / "plan.json"), "--out", str(tmp_path / "out")]) == 2
    assert "plan.json" in capsys.readouterr().err


def test_slices_of_a_table_are_the_coders_stream() -> None:
    """With one step the stream of `compress.coding` and that of slices say the same."""
    weights = torch.randn(300, 40, generator=torch.Generator().manual_seed(3))
    coded = code_matrix(weights, Hessian(torch.rand(300) + 0.1), 300 * 40 * 2 // 8)
    found_tables = tables.unmerged_tables(coded)
    data = tables.sliced_stream(coded, found_tables)
    found, rest = decode_coded(memoryview(data), 300, 40)
    assert not len(rest)
    assert torch.equal(found, coded.values())
    assert len(data) <= stream_bytes(found_tables)
