"""The model's anatomy as shapes, read from a config's numbers and never from weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from space.errors import UserError
from space.rates import LADDERS, Rate


@dataclass(frozen=True)
class Linear:
    """A stored matrix: `rows` outputs by `columns` inputs, with a bias in 16 bits or none."""

    name: str
    rows: int
    columns: int
    bias: bool

    @property
    def parameters(self) -> int:
        return self.rows * self.columns + (self.rows if self.bias else 0)


@dataclass(frozen=True)
class Tower:
    """A stack of equal layers. `group` query heads share one key/value head; `gated` marks a SwiGLU FFN.

    `norm_parameters` counts one norm: 2 x hidden for LayerNorm, hidden for RMSNorm. `attention_biases` are those of the
    query, key, value and output projections.
    """

    name: str
    layers: int
    hidden: int
    kv_heads: int
    group: int
    head_dim: int
    ffn: int
    gated: bool
    norm_parameters: int
    attention_biases: tuple[bool, bool, bool, bool]
    ffn_bias: bool

    def attention(self, kv_heads: int) -> tuple[Linear, ...]:
        """Matrices of an attention sublayer that keeps `kv_heads` key/value heads and their query heads."""
        inner, keys = kv_heads * self.group * self.head_dim, kv_heads * self.head_dim
        names = ("q_proj", "k_proj", "v_proj", "o_proj" if self.gated else "out_proj")
        shapes = ((inner, self.hidden), (keys, self.hidden), (keys, self.hidden), (self.hidden, inner))
        return tuple(Linear(n, *shape, b) for n, shape, b in zip(names, shapes, self.attention_biases, strict=True))

    def feed_forward(self, channels: int) -> tuple[Linear, ...]:
        """Matrices of an FFN sublayer that keeps `channels` intermediate channels."""
        inputs, output = (("gate_proj", "up_proj"), "down_proj") if self.gated else (("fc1",), "fc2")
        return (
            *(Linear(name, channels, self.hidden, self.ffn_bias) for name in inputs),
            Linear(output, self.hidden, channels, self.ffn_bias),
        )

    @property
    def parameters(self) -> int:
        """Parameters of the whole stack, its layers' norms included."""
        linears = (*self.attention(self.kv_heads), *self.feed_forward(self.ffn))
        return self.layers * (sum(linear.parameters for linear in linears) + 2 * self.norm_parameters)


@dataclass(frozen=True)
class Layout:
    """A decoder with its vocabulary; for Qwen2-Audio an encoder too, convolutions before it and a projector behind.

    A plain decoder-only model has no encoder and `mel_bins` and `positions` of 0. `tied` says that lm_head is the
    embedding. `vocabulary_sizes`, ascending, the whole vocabulary last, are those it may be trimmed to,
    `rates`, cheapest first, those its parts may be stored at.
    """

    decoder: Tower
    vocabulary: int
    encoder: Tower | None = None
    mel_bins: int = 0
    positions: int = 0
    tied: bool = False
    vocabulary_sizes: tuple[int, ...] = ()
    rates: tuple[Rate, ...] = LADDERS["coded"]

    def __post_init__(self) -> None:
        if not self.vocabulary_sizes:
            object.__setattr__(self, "vocabulary_sizes", (self.vocabulary,))
        assert self.vocabulary_sizes[-1] == self.vocabulary
        assert list(self.vocabulary_sizes) == sorted(set(self.vocabulary_sizes))

    @property
    def towers(self) -> tuple[Tower, ...]:
        return (self.decoder,) if self.encoder is None else (self.encoder, self.decoder)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the parts outside of the towers that have a rate."""
        head = () if self.tied else ("lm_head",)
        return ("embedding", *head) if self.encoder is None else ("embedding", *head, "projector", "convolutions")

    def table(self, name: str, vocabulary: int) -> tuple[Linear, ...]:
        """Matrices of a table where `vocabulary` tokens stay.

        The convolutions are both, with their kernels flattened, and the encoder's table of positions.
        """
        if name == "embedding":
            return (Linear("embed_tokens", vocabulary, self.decoder.hidden, False),)
        if name == "lm_head":
            return (Linear("lm_head", vocabulary, self.decoder.hidden, False),)
        assert self.encoder is not None, f"a decoder-only model has no {name}"
        hidden = self.encoder.hidden
        if name == "projector":
            return (Linear("linear", self.decoder.hidden, hidden, True),)
        return (
            Linear("conv1", hidden, self.mel_bins * 3, True),
            Linear("conv2", hidden, hidden * 3, True),
            Linear("embed_positions", self.positions, hidden, False),
        )

    @property
    def final_norms(self) -> int:
        """Parameters of the norms after the towers."""
        return sum(tower.norm_parameters for tower in self.towers)

    @property
    def parameters(self) -> int:
        """Parameters of the uncompressed model."""
        linears = [linear for name in self.tables for linear in self.table(name, self.vocabulary)]
        tables = sum(linear.parameters for linear in linears)
        return tables + self.final_norms + sum(tower.parameters for tower in self.towers)

    @property
    def source_bytes(self) -> int:
        """Tensor bytes of the uncompressed model in bf16."""
        return 2 * self.parameters


def _positive(section: Mapping[str, Any], name: str) -> int:
    value = section[name]
    if not isinstance(value, int) or value < 1:
        raise UserError(f"config.json: {name} is {value!r}; it must be a whole number above 0")
    return value


# Decoder-only families, and whether query, key and value projections have a bias.
_DECODERS = {"qwen2": True, "llama": False, "mistral": False}
MODEL_TYPES = ("qwen2_audio", *_DECODERS)


def layout_from_config(config: Mapping[str, Any]) -> Layout:
    """The layout of a ``config.json`` of Qwen2-Audio or of a plain Llama, Mistral or Qwen2 decoder.

    Raises UserError for another model type or a missing number.
    """
    kind = config.get("model_type")
    try:
        if kind in _DECODERS:
            tied = bool(config.get("tie_word_embeddings"))
            return Layout(decoder=_decoder(config, kind), vocabulary=_positive(config, "vocab_size"), tied=tied)
        if kind == "qwen2_audio":
            audio, text = config["audio_config"], config["text_config"]
            return Layout(
                decoder=_decoder(text, "qwen2"),
                vocabulary=_positive(text, "vocab_size"),
                encoder=_encoder(audio),
                mel_bins=_positive(audio, "num_mel_bins"),
                positions=_positive(audio, "max_source_positions"),
            )
    except KeyError as error:
        raise UserError(f"config.json lacks {error}: tightfit needs every dimension of the model") from error
    raise UserError(f"model type {kind!r}: tightfit reads {', '.join(MODEL_TYPES)}; check the config.json")


def _encoder(audio: Mapping[str, Any]) -> Tower:
    hidden, heads = _positive(audio, "d_model"), _positive(audio, "encoder_attention_heads")
    return Tower(
        name="encoder",
        layers=_positive(audio, "encoder_layers"),
        hidden=hidden,
        kv_heads=heads,
        group=1,
        head_dim=hidden // heads,
        ffn=_positive(audio, "encoder_ffn_dim"),
        gated=False,
        norm_parameters=2 * hidden,
        attention_biases=(True, False, True, True),
        ffn_bias=True,
    )


def _decoder(text: Mapping[str, Any], kind: str) -> Tower:
    hidden, heads = _positive(text, "hidden_size"), _positive(text, "num_attention_heads")
    kv_heads = _positive(text, "num_key_value_heads") if text.get("num_key_value_heads") else heads
    of_keys = _DECODERS[kind] or bool(text.get("attention_bias"))
    of_output = kind != "qwen2" and bool(text.get("attention_bias"))
    return Tower(
        name="decoder",
        layers=_positive(text, "num_hidden_layers"),
        hidden=hidden,
        kv_heads=kv_heads,
        group=heads // kv_heads,
        head_dim=_positive(text, "head_dim") if text.get("head_dim") else hidden // heads,
        ffn=_positive(text, "intermediate_size"),
        gated=True,
        norm_parameters=hidden,
        attention_biases=(of_keys, of_keys, of_keys, of_output),
        ffn_bias=bool(text.get("mlp_bias")),
    )
