"""Tokenizer, processor and untrained weights of the 1:1000 Qwen2-Audio: 8,397,056 parameters for 8,397,094,912."""

from __future__ import annotations

from collections.abc import Iterable
from math import log

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import arange, cat, exp
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2TokenizerFast,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

VOCABULARY = 567
SECONDS = 4
SPECIALS = ("<|endoftext|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")


def train_tokenizer(texts: Iterable[str]) -> Qwen2TokenizerFast:
    """A byte-level BPE of VOCABULARY entries, special tokens included, in the form of Qwen2's tokenizer."""
    plain = Tokenizer(BPE())
    plain.normalizer = normalizers.NFC()
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    plain.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain.train_from_iterator(texts, trainer)
    return Qwen2TokenizerFast(
        tokenizer_object=plain,
        eos_token=SPECIALS[0],
        pad_token=SPECIALS[0],
        unk_token=None,
        additional_special_tokens=list(SPECIALS[1:]),
    )


def make_processor(tokenizer: Qwen2TokenizerFast) -> Qwen2AudioProcessor:
    """Whisper features of 80 mel bins over SECONDS seconds; longer audio is cut there, as the original cuts at 30 s."""
    extractor = WhisperFeatureExtractor(feature_size=80, sampling_rate=16_000, hop_length=160, chunk_length=SECONDS)
    return Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer)


def make_model(
    tokenizer: Qwen2TokenizerFast, *, layers: int = 6, vocabulary: int = VOCABULARY, narrower: int = 1
) -> Qwen2AudioForConditionalGeneration:
    """Random weights in float32: encoder 6 x 192, decoder 6 x 256, ratios of heads and FFN as in the original.

    All widths, but not the number of heads, are `narrower` times smaller.
    """
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": 192 // narrower,
            "encoder_layers": layers,
            "encoder_attention_heads": 6,
            "encoder_ffn_dim": 768 // narrower,
            "num_mel_bins": 80,
            "max_source_positions": 50 * SECONDS,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": vocabulary,
            "hidden_size": 256 // narrower,
            "intermediate_size": 784 // narrower,
            "num_hidden_layers": layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        tie_word_embeddings=False,
    )
    model = Qwen2AudioForConditionalGeneration(config)
    _set_sinusoids(model)
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = end
    model.generation_config.bos_token_id = end
    return model


def _set_sinusoids(model: Qwen2AudioForConditionalGeneration) -> None:
    """Whisper's fixed positions (Radford et al. 2022, section 2.2): sines in the first half, cosines in the second."""
    table = model.model.audio_tower.embed_positions.weight.data
    positions, half = table.shape[0], table.shape[1] // 2
    angles = arange(positions)[:, None] * exp(-log(10_000) / (half - 1) * arange(half))[None, :]
    table.copy_(cat([angles.sin(), angles.cos()], dim=1))
