"""The model's anatomy as shapes, read from a config's numbers and never from weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from space.errors import UserError


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

    `norm_parameters` counts one norm: 2 x hidden for LayerNorm, hidden for RMSNorm.
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

    def attention(self, kv_heads: int) -> tuple[Linear, ...]:
        """Matrices of an attention sublayer that keeps `kv_heads` key/value heads and their query heads."""
        inner, keys = kv_heads * self.group * self.head_dim, kv_heads * self.head_dim
        if self.gated:
            names, biases = ("q_proj", "k_proj", "v_proj", "o_proj"), (True, True, True, False)
        else:
            names, biases = ("q_proj", "k_proj", "v_proj", "out_proj"), (True, False, True, True)
        shapes = ((inner, self.hidden), (keys, self.hidden), (keys, self.hidden), (self.hidden, inner))
        return tuple(Linear(n, *shape, bias) for n, shape, bias in zip(names, shapes, biases, strict=True))

    def feed_forward(self, channels: int) -> tuple[Linear, ...]:
        """Matrices of an FFN sublayer that keeps `channels` intermediate channels."""
        if self.gated:
            return (
                Linear("gate_proj", channels, self.hidden, False),
                Linear("up_proj", channels, self.hidden, False),
                Linear("down_proj", self.hidden, channels, False),
            )
        return (Linear("fc1", channels, self.hidden, True), Linear("fc2", self.hidden, channels, True))


@dataclass(frozen=True)
class Layout:
    """Qwen2-Audio's anatomy: two towers, convolutions before the encoder, a projector, embedding and lm_head."""

    encoder: Tower
    decoder: Tower
    vocabulary: int
    mel_bins: int
    positions: int

    @property
    def embedding(self) -> tuple[Linear, ...]:
        return (Linear("embed_tokens", self.vocabulary, self.decoder.hidden, False),)

    @property
    def lm_head(self) -> tuple[Linear, ...]:
        return (Linear("lm_head", self.vocabulary, self.decoder.hidden, False),)

    @property
    def projector(self) -> tuple[Linear, ...]:
        return (Linear("linear", self.decoder.hidden, self.encoder.hidden, True),)

    @property
    def convolutions(self) -> tuple[Linear, ...]:
        """Both convolutions with their kernels flattened, and the encoder's table of positions."""
        hidden = self.encoder.hidden
        return (
            Linear("conv1", hidden, self.mel_bins * 3, True),
            Linear("conv2", hidden, hidden * 3, True),
            Linear("embed_positions", self.positions, hidden, False),
        )

    @property
    def final_norms(self) -> int:
        """Parameters of the norms after the towers."""
        return self.encoder.norm_parameters + self.decoder.norm_parameters

    @property
    def parameters(self) -> int:
        """Parameters of the uncompressed model."""
        tables = (*self.embedding, *self.lm_head, *self.projector, *self.convolutions)
        total = sum(linear.parameters for linear in tables) + self.final_norms
        for tower in (self.encoder, self.decoder):
            linears = (*tower.attention(tower.kv_heads), *tower.feed_forward(tower.ffn))
            total += tower.layers * (sum(linear.parameters for linear in linears) + 2 * tower.norm_parameters)
        return total

    @property
    def source_bytes(self) -> int:
        """Tensor bytes of the uncompressed model in bf16."""
        return 2 * self.parameters


def _positive(section: Mapping[str, Any], name: str) -> int:
    value = section[name]
    if not isinstance(value, int) or value < 1:
        raise UserError(f"config.json: {name} is {value!r}; it must be a whole number above 0")
    return value


def layout_from_config(config: Mapping[str, Any]) -> Layout:
    """The layout of a Qwen2-Audio ``config.json``. Raises UserError for another model type or a missing number."""
    if config.get("model_type") != "qwen2_audio":
        raise UserError(f"model type {config.get('model_type')!r}: tightfit reads qwen2_audio; check the config.json")
    try:
        audio, text = config["audio_config"], config["text_config"]
        hidden, audio_hidden = _positive(text, "hidden_size"), _positive(audio, "d_model")
        heads, audio_heads = _positive(text, "num_attention_heads"), _positive(audio, "encoder_attention_heads")
        kv_heads = _positive(text, "num_key_value_heads") if text.get("num_key_value_heads") else heads
        return Layout(
            encoder=Tower(
                name="encoder",
                layers=_positive(audio, "encoder_layers"),
                hidden=audio_hidden,
                kv_heads=audio_heads,
                group=1,
                head_dim=audio_hidden // audio_heads,
                ffn=_positive(audio, "encoder_ffn_dim"),
                gated=False,
                norm_parameters=2 * audio_hidden,
            ),
            decoder=Tower(
                name="decoder",
                layers=_positive(text, "num_hidden_layers"),
                hidden=hidden,
                kv_heads=kv_heads,
                group=heads // kv_heads,
                head_dim=hidden // heads,
                ffn=_positive(text, "intermediate_size"),
                gated=True,
                norm_parameters=hidden,
            ),
            vocabulary=_positive(text, "vocab_size"),
            mel_bins=_positive(audio, "num_mel_bins"),
            positions=_positive(audio, "max_source_positions"),
        )
    except KeyError as error:
        raise UserError(
            f"config.json lacks {error}: a Qwen2-Audio config gives every dimension of both towers"
        ) from error
