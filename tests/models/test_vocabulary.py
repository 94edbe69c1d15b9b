"""Trimmed tokenizers: what is all kept encodes and decodes as before, and any other text still comes back whole."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram

from compress.heal import make_lessons
from compress.pipeline import Bank, compress
from corpora.roles import BUNDLED as CORPUS
from corpora.roles import open_corpus
from models.inputs import batches, make_batch, target_logits
from models.loading import Source, load_processor, load_source, pad_token
from models.reference import BUNDLED
from models.vocabulary import Vocabulary, read_vocabulary
from proxies.divergence import divergence
from scoring.translate import translate
from search.workbench import by_turns, counted, make_rows
from space.errors import UserError
from space.plan import uniform_plan
from space.rates import WHOLE
from tests.tiny import make_bank

SPECIAL = ["<s>", "</s>"]
SPACE = "\u2581"


@cache
def texts() -> list[str]:
    """German and Chinese sentences of ours."""
    examples = open_corpus(CORPUS, heard=False).examples("calibrate")
    return [text for example in examples for text in example.references.values()]


def byte_level(*, ignore_merges: bool) -> Tokenizer:
    """The form of Qwen2 and, with `ignore_merges`, of Llama 3; its template names a special token."""
    plain = Tokenizer(BPE(ignore_merges=ignore_merges))
    plain.normalizer = normalizers.NFC()
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    plain.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    plain.train_from_iterator(texts(), trainer)
    plain.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return plain


def byte_fallback() -> Tokenizer:
    """The form of Llama 2 and Mistral: characters, words that begin with a mark, bytes for what is not known."""
    plain = Tokenizer(BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))  # noqa: S106
    plain.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    plain.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<unk>", *SPECIAL], initial_alphabet=[SPACE], show_progress=False
    )
    plain.train_from_iterator((text.replace(" ", SPACE) for text in texts()), trainer)
    raw = json.loads(plain.to_str())
    vocab = [*raw["model"]["vocab"], *fallback]
    raw["model"]["vocab"] = {token: place for place, token in enumerate(vocab)}
    return Tokenizer.from_str(json.dumps(raw))


FORMS = {
    "Qwen2": byte_level(ignore_merges=False),
    "Llama 3": byte_level(ignore_merges=True),
    "Llama 2": byte_fallback(),
}


def vocabulary_of(tokenizer: Tokenizer, *, padding: int = 7) -> Vocabulary:
    """Its tokens and `padding` rows without one, counted on the first of our sentences."""
    rows = tokenizer.get_vocab_size() + padding
    whole = read_vocabulary(rows, {"tokenizer.json": tokenizer.to_str().encode()})
    return whole.counting(token for text in texts()[:200] for token in tokenizer.encode(text).ids)


def trimmed(vocabulary: Vocabulary, size: int) -> Tokenizer:
    return Tokenizer.from_str(vocabulary.fixed_files(size)["tokenizer.json"].decode())


@pytest.fixture(params=FORMS)
def whole(request: pytest.FixtureRequest) -> Tokenizer:
    return FORMS[request.param]


def test_text_whose_tokens_are_kept_encodes_and_decodes_as_before(whole: Tokenizer) -> None:
    vocabulary = vocabulary_of(whole)
    assert len(vocabulary.sizes()) > 5
    for size in vocabulary.sizes():
        smaller, kept = trimmed(vocabulary, size), vocabulary.kept(size)
        assert smaller.get_vocab_size() <= size == len(kept)
        new = {old: place for place, old in enumerate(kept)}
        same = 0
        for text in texts():
            before = whole.encode(text)
            after = smaller.encode(text)
            if all(token in new for token in before.ids):
                same += 1
                assert after.ids == [new[token] for token in before.ids]
                assert after.tokens == before.tokens
            assert smaller.decode(after.ids) == whole.decode(before.ids)
        assert same >= len(texts()[:200]) or size < vocabulary.seen


@settings(max_examples=100)
@given(st.sampled_from(list(FORMS)), st.text(max_size=40), st.integers(0, 20))
def test_any_text_comes_back_as_before(form: str, text: str, step: int) -> None:
    tokenizer = FORMS[form]
    vocabulary = vocabulary_of_form(form)
    smaller = trimmed(vocabulary, vocabulary.sizes()[step % len(vocabulary.sizes())])
    if form == "Llama 2" and text.startswith((" ", SPACE)) | (SPACE in text):
        return  # this form itself does not keep such spaces
    assert smaller.decode(smaller.encode(text).ids) == tokenizer.decode(tokenizer.encode(text).ids)


@cache
def vocabulary_of_form(form: str) -> Vocabulary:
    return vocabulary_of(FORMS[form])


def test_every_prefix_of_the_ranking_keeps_what_must_stay(whole: Tokenizer) -> None:
    vocabulary = vocabulary_of(whole)
    ids = whole.get_vocab()
    least = set(vocabulary.kept(vocabulary.least))
    assert {ids[token] for token in SPECIAL} <= least
    assert sorted(vocabulary.ranking) == list(range(vocabulary.rows))
    assert vocabulary.kept(vocabulary.rows) == tuple(range(vocabulary.rows))
    coverages = [vocabulary.coverage(size) for size in vocabulary.sizes()]
    assert coverages == sorted(coverages)
    assert vocabulary.coverage(vocabulary.seen) == 1
    assert vocabulary.fixed_files(vocabulary.rows)["tokenizer.json"]


def test_pieces_are_what_the_trimmed_tokenizer_makes_of_a_token(whole: Tokenizer) -> None:
    vocabulary = vocabulary_of(whole)
    raw = json.loads(whole.to_str())
    added = {token["id"] for token in raw["added_tokens"]}
    for size in (vocabulary.least, vocabulary.sizes()[2]):
        small = json.loads(vocabulary.fixed_files(size)["tokenizer.json"])
        # the byte-pair encoding alone: nothing is normalised or cut into words before it
        alone = Tokenizer.from_str(
            json.dumps({**small, "normalizer": None, "pre_tokenizer": None, "post_processor": None})
        )
        pieces = vocabulary.pieces(size)
        assert pieces[len(raw["model"]["vocab"]) :] == [()] * 7
        for token, place in raw["model"]["vocab"].items():
            if place not in added and not token.startswith("<0x"):
                assert list(pieces[place]) == alone.encode(token).ids, token


def test_ids_outside_of_the_tables_are_left_alone_or_refused() -> None:
    tokenizer = byte_level(ignore_merges=False)
    files = {
        "tokenizer.json": tokenizer.to_str().encode(),
        "config.json": b'{"pad_token_id": -1, "eos_token_id": 1, "bos_token_id": 99999}',
        "added_tokens.json": b'{"[PAD]": 99999, "</s>": 1}',
    }
    vocabulary = read_vocabulary(tokenizer.get_vocab_size(), files)
    assert sorted(vocabulary.ranking) == list(range(vocabulary.rows))
    whole = {name: json.loads(data) for name, data in vocabulary.fixed_files(vocabulary.rows).items()}
    assert whole["config.json"] == {"pad_token_id": -1, "eos_token_id": 1, "bos_token_id": 99999}
    assert whole["added_tokens.json"] == {"</s>": 1}
    with pytest.raises(UserError, match="beyond"):
        read_vocabulary(tokenizer.get_vocab_size() - 1, files)


def test_a_tokenizer_that_is_no_byte_pair_encoding_stays_whole() -> None:
    plain = Tokenizer(Unigram([("a", -1.0), ("b", -1.0)], 0, byte_fallback=False))
    vocabulary = read_vocabulary(9, {"tokenizer.json": plain.to_str().encode()})
    assert vocabulary.sizes() == (9,)
    assert vocabulary.counting([0, 1]).sizes() == (9,)
    assert read_vocabulary(9, {}).sizes() == (9,)


def test_ids_in_every_file_are_renumbered() -> None:
    tokenizer = byte_level(ignore_merges=False)
    end = tokenizer.get_vocab_size() - 1
    files = {
        "tokenizer.json": tokenizer.to_str().encode(),
        "config.json": json.dumps({"audio_token_index": end, "text_config": {"eos_token_id": end, "n": 3}}).encode(),
        "generation_config.json": json.dumps({"eos_token_id": [0, end], "pad_token_id": None}).encode(),
        "tokenizer_config.json": json.dumps({"added_tokens_decoder": {"1": {"content": "</s>"}}}).encode(),
        "added_tokens.json": json.dumps({"</s>": 1}).encode(),
        "preprocessor_config.json": b'{"feature_size": 80}',
    }
    vocabulary = read_vocabulary(tokenizer.get_vocab_size(), files)
    small = {name: json.loads(data) for name, data in vocabulary.fixed_files(vocabulary.least).items()}
    new = {old: place for place, old in enumerate(vocabulary.kept(vocabulary.least))}
    assert small["config.json"] == {"audio_token_index": new[end], "text_config": {"eos_token_id": new[end], "n": 3}}
    assert small["generation_config.json"] == {"eos_token_id": [0, new[end]], "pad_token_id": None}
    assert list(small["tokenizer_config.json"]["added_tokens_decoder"]) == ["1"]
    assert small["added_tokens.json"] == {"</s>": 1}
    assert small["preprocessor_config.json"] == {"feature_size": 80}


@pytest.fixture(scope="module")
def source() -> Source:
    return counted(load_source(BUNDLED), open_corpus(CORPUS), ("de", "zh"))


@pytest.fixture(scope="module")
def bank(source: Source) -> Bank:
    rows = make_rows(source, by_turns(open_corpus(CORPUS).examples("calibrate"))[:12], ("de", "zh"))
    return make_bank(source, batches(rows, 1, pad_token(source.model)), make_lessons(source.model, rows))


def trimmed_model(source: Source, bank: Bank, size: int) -> torch.nn.Module:
    """The source in 16 bits with `size` tokens."""
    plan = replace(uniform_plan(source.layout, WHOLE), vocabulary=size)
    return compress(source, plan, bank, seed=0).model


def sizes_below_all(source: Source) -> list[int]:
    """A size that is nearly all, and one that is half of it: the miniature's own language needs every token."""
    return [source.vocabulary.rows - 20, source.vocabulary.rows // 2 + 100]


def test_logits_of_kept_tokens_are_the_sources(source: Source, bank: Bank) -> None:
    rows = [lesson.row for lesson in bank.curriculum.lessons]
    for size in sizes_below_all(source):
        model = trimmed_model(source, bank, size)
        kept = source.vocabulary.kept(size)
        new = {old: place for place, old in enumerate(kept)}
        usable = [i for i, row in enumerate(rows) if set(row.target) <= set(kept)]
        smaller = [bank.curriculum.of(size)[i].row for i in usable]
        assert [row.target for row in smaller] == [tuple(new[token] for token in rows[i].target) for i in usable]
        assert usable or size < source.vocabulary.rows - 20
        if usable:
            with torch.no_grad():
                before = target_logits(source.model, make_batch([rows[i] for i in usable], pad_token(source.model)))
                after = target_logits(model, make_batch(smaller, pad_token(model)))
            torch.testing.assert_close(after, before[:, list(kept)], atol=2e-3, rtol=1e-3)


def test_the_miniature_translates_as_before_where_all_tokens_are_kept(
    source: Source, bank: Bank, tmp_path: Path
) -> None:
    examples = open_corpus(CORPUS).examples("select")[:16]
    size = source.vocabulary.rows - 20
    model = trimmed_model(source, bank, size)
    for name, data in source.vocabulary.fixed_files(size).items():
        (tmp_path / name).write_bytes(data)
    processor = load_processor(tmp_path)
    kept = set(source.vocabulary.kept(size))
    tokenizer = source.processor.tokenizer
    for language in ("de", "zh"):
        before = translate(source.model, source.processor, examples, language)
        after = translate(model, processor, examples, language)
        same = [set(tokenizer(text).input_ids) <= kept for text in before]
        assert sum(same) > len(same) // 2
        assert not all(same) or language == "zh"
        assert [text for text, ok in zip(after, same, strict=True) if ok] == [
            text for text, ok in zip(before, same, strict=True) if ok
        ]


def test_a_spelt_token_is_a_distribution_over_what_stays(source: Source, bank: Bank) -> None:
    size = source.vocabulary.rows // 2
    lessons = bank.curriculum.of(size)
    assert sum(len(lesson.row.target) for lesson in lessons) > sum(lesson.source_tokens for lesson in lessons)
    for lesson in lessons:
        torch.testing.assert_close(lesson.teacher.logs.exp().sum(1), torch.ones(len(lesson.teacher)), atol=1e-3, rtol=0)
    # the source was never taught to spell
    assert divergence(trimmed_model(source, bank, size), lessons) > 0.1
    assert divergence(source.model, bank.curriculum.lessons) == pytest.approx(0, abs=1e-6)
