"""Laws of trimmed tokenizers on many sentences: ``python -m benchmarks.vocabulary FOLDER...``

The folders are searched for compiled software translations (``de``, ``zh_*``), such as ``pip install --target FOLDER
Django wagtail django-cms`` brings. Every other message trains a byte-level BPE in Qwen2's form and is counted; laws are
checked on the rest.
"""

from __future__ import annotations

import gettext
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from benchmarks.publish import publish, target
from models.vocabulary import read_vocabulary

SENTENCES = 10_000
TOKENS = 32_000


def main() -> None:
    """Trains, trims to every size, checks both laws."""
    found = sorted({text for folder in sys.argv[1:] for text in _translations(Path(folder))})
    if len(found) < 2 * SENTENCES:
        sys.exit(f"{len(found)} sentences found, {2 * SENTENCES} are needed; name more folders")
    counted, checked = found[::2], found[1::2][:SENTENCES]
    whole = _train(counted)
    vocabulary = read_vocabulary(whole.get_vocab_size(), {"tokenizer.json": whole.to_str().encode()})
    vocabulary = vocabulary.counting(token for text in counted for token in whole.encode(text).ids)
    before = [whole.encode(text) for text in checked]
    rows, broken = [], 0
    for size in vocabulary.sizes():
        files = vocabulary.fixed_files(size)
        smaller = Tokenizer.from_str(files["tokenizer.json"].decode())
        new = {old: place for place, old in enumerate(vocabulary.kept(size))}
        kept = changed = lost = 0
        for encoded in before:
            text = whole.decode(encoded.ids)
            after = smaller.encode(text)
            lost += smaller.decode(after.ids) != text
            if all(token in new for token in encoded.ids):
                kept += 1
                changed += after.ids != [new[token] for token in encoded.ids]
        broken += changed + lost
        rows.append(
            {
                "tokens": size,
                "tokenizer bytes": len(files["tokenizer.json"]),
                "coverage": vocabulary.coverage(size),
                "sentences kept whole": kept,
                "of them encoded otherwise": changed,
                "texts that do not come back": lost,
            }
        )
    publish("vocabulary", rows, [target(f"laws broken on {len(checked)} sentences", broken, 0, at_least=False)])


def _translations(folder: Path) -> Iterator[str]:
    """German and Chinese messages of every compiled catalogue below a folder."""
    for path in sorted(folder.rglob("*.mo")):
        if any(part == "de" or part.startswith("zh") for part in path.parts):
            try:
                with path.open("rb") as file:
                    catalogue = vars(gettext.GNUTranslations(file))["_catalog"]
            except UnicodeDecodeError:
                continue  # a catalogue in another encoding than it says
            yield from (text for text in catalogue.values() if isinstance(text, str) and len(text) > 1)


def _train(texts: list[str]) -> Tokenizer:
    plain = Tokenizer(BPE())
    plain.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    plain.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    plain.train_from_iterator(texts, trainer)
    return plain


if __name__ == "__main__":
    main()
