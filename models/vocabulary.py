"""The tokens of a model: which matter, and the files of a tokenizer that keeps some of them.

Tokens are ranked so that every prefix of the ranking is a tokenizer of its own: first what must stay (special and added
tokens, bytes, what configurations name), then by how often a text needs them; before a token stand the tokens it is
merged from. Byte-pair encoding then goes as before wherever the tokens of a text all stay: each merge it makes there
leads to a part of one of them, and the first in rank of all merges stays the first among those that stay.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from space.errors import UserError
from space.layout import Layout

# Shares of the counted text whose tokens may go: spelling costs, so that few go far.
_LEFT_OUT = (0.16, 0.08, 0.04, 0.02, 0.01, 0.005)
_STEPS_BEYOND_SEEN = 3
_TOKENIZER = "tokenizer.json"
# Keys of configurations that hold token ids, or lists of them.
_ID_KEYS = ("_token_id", "_token_index", "_token_ids", "suppress_tokens")


@dataclass(frozen=True)
class Vocabulary:
    """`rows` of the model's tables; `ranking` of all of them, of which at least the first `least` stay.

    Where a tokenizer cannot be trimmed `least` is all. `counted` is by rank how often a token was seen.
    """

    rows: int
    files: Mapping[str, bytes]
    ranking: tuple[int, ...]
    least: int
    counted: tuple[int, ...] = ()
    _cache: dict[int, dict[str, bytes]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def seen(self) -> int:
        """Tokens up to the last that was counted, at least `least`."""
        return max([self.least, *(rank + 1 for rank, count in enumerate(self.counted) if count)])

    def sizes(self) -> tuple[int, ...]:
        """Sizes to search, ascending.

        Without counts from `least` to all in equal ratios. With them the least, the fewest that leave out no more of
        the counted text than each of `_LEFT_OUT`, the tokens seen, and from there to all in equal ratios.
        """
        if not any(self.counted):
            return ladder(self.least, self.rows)
        covered = list(accumulate(self.counted))
        fewest = [bisect_left(covered, (1 - share) * covered[-1]) + 1 for share in _LEFT_OUT]
        between = ladder(self.seen, self.rows, _STEPS_BEYOND_SEEN)
        return tuple(sorted({self.least, *(max(self.least, size) for size in fewest), *between}))

    def coverage(self, size: int) -> float:
        """The share of counted tokens that are among the first `size`."""
        total = sum(self.counted)
        return sum(self.counted[:size]) / total if total else 1.0

    def kept(self, size: int) -> tuple[int, ...]:
        """Ids of the tokens that stay, ascending: a token's place here is its new id."""
        return tuple(sorted(self.ranking[:size]))

    def new_ids(self, size: int) -> dict[int, int]:
        """The new id of every token that stays, by its id in the source."""
        return {old: place for place, old in enumerate(self.kept(size))}

    def fixed_files(self, size: int) -> dict[str, bytes]:
        """Files of a checkpoint in which `size` tokens stay, ids in them renumbered."""
        if size not in self._cache:
            new = self.new_ids(size)
            self._cache[size] = {name: _renumbered(name, data, new) for name, data in self.files.items()}
        return self._cache[size]

    def fixed_bytes(self, size: int) -> int:
        """Bytes of `fixed_files`."""
        return sum(map(len, self.fixed_files(size).values()))

    def pieces(self, size: int) -> list[tuple[int, ...]]:
        """For every row of the source the new ids of its token: one if it stays, else its spelling.

        A token is spelt as byte-pair encoding spells it alone with the merges that stay; within a longer word the
        trimmed tokenizer may cut elsewhere. Rows that stand for no token have no pieces unless they stay.
        """
        new, merges = self.new_ids(size), _merges_of(self.files)
        return [
            (new[row],) if row in new else tuple(new[part] for part in merges.spelt(row, new))
            for row in range(self.rows)
        ]

    def counting(self, ids: Iterable[int], needed: Iterable[int] = ()) -> Vocabulary:
        """The same tokens ranked by how often they are among `ids`; those `needed` (a prompt's) must stay."""
        if self.least == self.rows:
            return self
        counts = Counter(ids)
        closed = _merges_of(self.files).closed
        must = closed([*self.ranking[: self.least], *sorted(set(needed))])
        often = sorted((token for token in counts if token < self.rows), key=lambda token: (-counts[token], token))
        ranking = closed([*must, *often, *self.ranking])
        return replace(
            self,
            ranking=tuple(ranking),
            least=len(must),
            counted=tuple(counts[token] for token in ranking),
        )


def ladder(least: int, most: int, steps: int = 12) -> tuple[int, ...]:
    """Whole numbers in equal ratios, ascending, both ends among them."""
    between = {round(least * (most / least) ** (step / steps)) for step in range(steps + 1)}
    return tuple(sorted({*between, least, most}))


class _Merges:
    """What each token of a tokenizer.json is merged from; nothing of a tokenizer that is no byte-pair encoding."""

    def __init__(self, tokenizer: Mapping[str, Any]) -> None:
        model = tokenizer.get("model", {})
        self._ids: Mapping[str, int] = model.get("vocab", {}) if model.get("type") == "BPE" else {}
        self._texts = {place: token for token, place in self._ids.items()}
        self._ranks: dict[tuple[int, int], tuple[int, int]] = {}
        self.all: dict[int, list[tuple[int, int]]] = {}
        for rank, (left, right) in enumerate(map(_pair, model.get("merges", []) if self._ids else [])):
            pair, result = (self._ids[left], self._ids[right]), self._ids[left + right]
            self._ranks.setdefault(pair, (rank, result))
            self.all.setdefault(result, []).append(pair)

    def spelt(self, token: int, kept: Mapping[int, int]) -> list[int]:
        """The kept tokens that spell a token: its characters, or their bytes, merged by rank while all parts stay."""
        parts: list[int] = []
        for character in self._texts.get(token, ""):
            whole = self._ids.get(character)
            if whole is not None and whole in kept:
                parts.append(whole)
            else:
                parts += [self._ids[name] for byte in character.encode() if (name := f"<0x{byte:02X}>") in self._ids]
        while True:
            found = [
                (*self._ranks[pair], place)
                for place, pair in enumerate(pairwise(parts))
                if pair in self._ranks and self._ranks[pair][1] in kept
            ]
            if not found:
                return parts
            _, result, place = min(found, key=lambda one: (one[0], one[2]))
            parts[place : place + 2] = [result]

    def closed(self, order: Iterable[int]) -> list[int]:
        """The tokens in their order, each once, and before each the tokens any of its merges needs."""
        placed: dict[int, None] = {}

        def add(token: int) -> None:
            if token not in placed:
                for pair in self.all.get(token, ()):
                    for part in pair:
                        add(part)
                placed[token] = None

        for token in order:
            add(token)
        return list(placed)


def _merges_of(files: Mapping[str, bytes]) -> _Merges:
    return _read_merges(files.get(_TOKENIZER, b"{}"))


@lru_cache(maxsize=2)
def _read_merges(tokenizer: bytes) -> _Merges:
    """Of one file read once: with a vocabulary of 150,000 it takes seconds."""
    return _Merges(json.loads(tokenizer))


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def read_vocabulary(rows: int, files: Mapping[str, bytes]) -> Vocabulary:
    """The tokens of a model with `rows` rows in its tables, before any text is counted: ranked by id.

    A tokenizer that is no byte-pair encoding over bytes, or has no tokenizer.json, cannot be trimmed. Raises UserError
    where the tokenizer has tokens beyond the tables.
    """
    whole = Vocabulary(rows, files, tuple(range(rows)), rows)
    if _TOKENIZER not in files:
        return whole
    tokenizer = json.loads(files[_TOKENIZER])
    alphabet = _bytes_of(tokenizer)
    if not alphabet:
        return whole
    ids = tokenizer["model"]["vocab"]
    beyond = [token for token, place in ids.items() if place >= rows]
    if beyond:
        raise UserError(
            f"tokenizer.json has {len(beyond)} tokens such as {beyond[0]!r} beyond the {rows} of config.json"
        )
    named = {place for place in _named(tokenizer, files) if 0 <= place < rows}
    others = {tokenizer["model"].get("unk_token"), "\u2581"}
    must = sorted({*(ids[token] for token in alphabet), *(ids[token] for token in others if token in ids), *named})
    closed = _merges_of(files).closed
    least = closed(must)
    ranking = closed([*least, *sorted(ids.values()), *range(rows)])
    return Vocabulary(rows, files, tuple(ranking), len(least))


def _named(tokenizer: Mapping[str, Any], files: Mapping[str, bytes]) -> Iterator[int]:
    """Every id that a tokenizer adds or a configuration names."""
    yield from (token["id"] for token in tokenizer["added_tokens"])
    for name in ("config.json", "generation_config.json"):
        yield from _ids(json.loads(files.get(name, b"{}")))
    yield from json.loads(files.get("added_tokens.json", b"{}")).values()
    yield from map(int, json.loads(files.get("tokenizer_config.json", b"{}")).get("added_tokens_decoder", {}))


def _bytes_of(tokenizer: Mapping[str, Any]) -> list[str]:
    """The tokens that stand for single bytes, if there is one for every byte a text can hold."""
    model = tokenizer.get("model", {})
    if model.get("type") != "BPE":
        return []
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    if model.get("byte_fallback") and all(token in model["vocab"] for token in fallback):
        return fallback
    alphabet = ByteLevel.alphabet()
    return sorted(alphabet) if all(token in model["vocab"] for token in alphabet) else []


def _ids(value: Any, key: str = "") -> Iterable[int]:
    """Every token id a configuration names."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _ids(inner, name)
    elif key.endswith(_ID_KEYS):
        yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int))


def _with_ids(value: Any, new: Mapping[int, int], key: str = "") -> Any:
    """A configuration with every token id it names renumbered."""
    if isinstance(value, dict):
        return {name: _with_ids(inner, new, name) for name, inner in value.items()}
    if key.endswith(_ID_KEYS):
        many = [new.get(one, one) for one in value] if isinstance(value, list) else None
        return new.get(value, value) if isinstance(value, int) else (many if many is not None else value)
    return value


def _renumbered(name: str, data: bytes, new: Mapping[int, int]) -> bytes:
    """A file with token ids renumbered; what does not stay is left out of it."""
    if name == _TOKENIZER:
        content = _trimmed_tokenizer(json.loads(data), new)
    elif name in ("config.json", "generation_config.json"):
        content = _with_ids(json.loads(data), new)
    elif name == "added_tokens.json":
        content = {token: new[old] for token, old in json.loads(data).items() if old in new}
    elif name == "tokenizer_config.json":
        content = json.loads(data)
        if "added_tokens_decoder" in content:
            decoded = content["added_tokens_decoder"]
            content["added_tokens_decoder"] = {
                str(new[int(old)]): token for old, token in decoded.items() if int(old) in new
            }
    else:
        return data
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _trimmed_tokenizer(tokenizer: dict[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """A tokenizer.json of the tokens in `new`, and of the merges whose parts and results all stay."""
    if len(new) >= len(tokenizer["model"]["vocab"]) and all(old == place for old, place in new.items()):
        return tokenizer
    model = dict(tokenizer["model"])
    ids = model["vocab"]
    model["vocab"] = {token: new[old] for token, old in ids.items() if old in new}
    model["merges"] = [
        merge for merge in model["merges"] if all(ids[part] in new for part in (*_pair(merge), "".join(_pair(merge))))
    ]
    added = [{**token, "id": new[token["id"]]} for token in tokenizer["added_tokens"] if token["id"] in new]
    return {
        **tokenizer,
        "added_tokens": added,
        "post_processor": _post(tokenizer.get("post_processor"), new),
        "model": model,
    }


def _post(value: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with its special tokens' ids renumbered (template, BERT and RoBERTa forms)."""
    if not isinstance(value, dict):
        return value
    post: dict[str, Any] = {
        name: [_post(one, new) for one in inner] if name == "processors" else inner for name, inner in value.items()
    }
    if isinstance(post.get("special_tokens"), dict):
        post["special_tokens"] = {
            name: {**token, "ids": [new[old] for old in token["ids"]]} for name, token in post["special_tokens"].items()
        }
    for name in ("sep", "cls"):
        if isinstance(post.get(name), list):
            post[name] = [post[name][0], new[post[name][1]]]
    return post


def with_vocabulary(layout: Layout, vocabulary: Vocabulary) -> Layout:
    """The layout with the sizes its vocabulary may be trimmed to."""
    return replace(layout, vocabulary_sizes=vocabulary.sizes())
