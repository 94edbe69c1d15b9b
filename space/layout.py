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


def layout_from_config(config: Mapping[str, Any]) -> Layout:
    """The layout of a Qwen2-Audio ``config.json``. Raises UserError for another model type or a missing number."""
    if config.get("model_type") != "qwen2_audio":
        raise UserError(f"model type {config.get('model_type')!r}: tightfit reads qwen2_audio; check the config.json")
    try:
        audio, text = config["audio_config"], config["text_config"]
        kv_heads = text.get("num_key_value_heads") or text["num_attention_heads"]
        return Layout(
            encoder=Tower(
                name="encoder",
                layers=audio["encoder_layers"],
                hidden=audio["d_model"],
                kv_heads=audio["encoder_attention_heads"],
                group=1,
                head_dim=audio["d_model"] // audio["encoder_attention_heads"],
                ffn=audio["encoder_ffn_dim"],
                gated=False,
                norm_parameters=2 * audio["d_model"],
            ),
            decoder=Tower(
                name="decoder",
                layers=text["num_hidden_layers"],
                hidden=text["hidden_size"],
                kv_heads=kv_heads,
                group=text["num_attention_heads"] // kv_heads,
                head_dim=text["hidden_size"] // text["num_attention_heads"],
                ffn=text["intermediate_size"],
                gated=True,
                norm_parameters=text["hidden_size"],
            ),
            vocabulary=text["vocab_size"],
            mel_bins=audio["num_mel_bins"],
            positions=audio["max_source_positions"],
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"config.json lacks {error}: a Qwen2-Audio config gives every dimension of both towers"
        ) from error
