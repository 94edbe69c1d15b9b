"""Prior values of a plan's options, where no weight has been looked at: a coarse guess, replaced by measured values.

The loss of an option is a weight times a distortion. The distortion joins the noise of the rate with the energy that
pruning takes. A sublayer's weight grows with the root of its parameters; beyond that weights follow what is published
of this model family: the first layers and the last are dear, the encoder is dearer than the decoder (Moslem 2025), FFN
channels go more gently than attention heads, lm_head needs more bits than the embedding (Diet-KIT 2026).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from space.choices import PARTS, VOCABULARY, Option, whole_size
from space.layout import Layout, Tower
from space.plan import Sublayer
from space.rates import Coded, Packed, Rate

# Signal to noise in dB of the weights at 2, 3 and 4 bits, of a real Whisper's linear layers; more bits at 6 dB each.
_DECIBELS = {2: 8.0, 3: 13.5, 4: 19.2, 5: 25.2, 6: 31.2, 8: 43.2, 16: math.inf}
# Coded: what a bit brings, and what error feedback and entropy coding bring before the first one is spent.
_DECIBELS_A_BIT, _DECIBELS_OF_FEEDBACK = 6.02, 5.0
# dB for halving the groups of 128, once or twice.
_DECIBELS_A_HALVING = 0.5
# The least important share p of heads or channels holds about this power of p of the energy.
_PRUNING_POWER = 1.5
_SUBLAYER_WEIGHT = {"attention": 1.0, "ffn": 0.8}
_ENCODER_WEIGHT = 1.5
# The depth, from 0 to 1, of the cheapest layer; its weight, and what the first and the last layer weigh more.
_CHEAPEST, _CHEAPEST_WEIGHT, _INPUT_WEIGHT, _OUTPUT_WEIGHT = 2 / 3, 0.3, 4.0, 2.0
_TABLE_WEIGHT = {"embedding": 2.0, "lm_head": 6.0, "projector": 4.0, "convolutions": 4.0}
_VOCABULARY_WEIGHT = 8.0

Coverage = Callable[[int], float]
# Proven gap that plans on these values are asked for.
GAP = 1e-4


def rate_noise(rate: Rate) -> float:
    """Noise power over signal power of weights stored at a rate."""
    if rate.bits == 16:
        return 0.0
    if isinstance(rate, Coded):
        decibels = _DECIBELS_A_BIT * rate.bits + _DECIBELS_OF_FEEDBACK * min(1.0, rate.bits)
        return math.pow(10, -decibels / 10)
    decibels = _DECIBELS[rate.bits] + _DECIBELS_A_HALVING * math.log2(128 / rate.group)
    return math.pow(10, -decibels / 10)


def zipf_coverage(vocabulary: int) -> Coverage:
    """The share of running text that the k most frequent tokens cover, if frequencies fall as 1/rank (Zipf's law)."""
    return lambda kept: math.log1p(kept) / math.log1p(vocabulary)


def prior_loss(layout: Layout, coverage: Coverage | None = None) -> Callable[[str, Option], float]:
    """The loss of every option of a layout, 0 for the source's own; `coverage` is that of counted data, if any."""
    covered = coverage or zipf_coverage(layout.vocabulary)
    towers = {tower.name: tower for tower in layout.towers}
    unit = layout.decoder.parameters / layout.decoder.layers
    weights = {(tower.name, part): _size_weight(tower, part, unit) for tower in layout.towers for part in PARTS}

    @cache
    def loss(name: str, option: Option) -> float:
        if name == VOCABULARY:
            assert isinstance(option, int)
            return _VOCABULARY_WEIGHT * (1 - covered(option))
        if isinstance(option, Packed | Coded):
            return _TABLE_WEIGHT[name] * rate_noise(option)
        assert isinstance(option, Sublayer)
        tower_name, index, part = name.split(".")
        tower = towers[tower_name]
        return weights[tower_name, part] * _depth_weight(tower, int(index)) * _distortion(tower, part, option)

    return loss


def _size_weight(tower: Tower, part: str, unit: float) -> float:
    """Grows with the root of a sublayer's parameters, counted in `unit`s."""
    linears = tower.attention(tower.kv_heads) if part == "attention" else tower.feed_forward(tower.ffn)
    return _SUBLAYER_WEIGHT[part] * math.sqrt(sum(linear.parameters for linear in linears) / unit)


def _distortion(tower: Tower, part: str, option: Sublayer) -> float:
    if not option.kept:
        return 1.0
    pruned = math.pow(1 - option.kept / whole_size(tower, part), _PRUNING_POWER)
    return 1 - (1 - pruned) * (1 - rate_noise(option.rate))


def _depth_weight(tower: Tower, index: int) -> float:
    """Dear at both ends, dearer at the input, cheapest at two thirds of the depth.

    Layers differ much, so that a small bound removes the cheap ones and leaves the dear ones whole: in truth a layer is
    the dearer the more others are gone.
    """
    depth = index / max(1, tower.layers - 1)
    away = (_CHEAPEST - depth) / _CHEAPEST if depth < _CHEAPEST else (depth - _CHEAPEST) / (1 - _CHEAPEST)
    dear = _INPUT_WEIGHT if depth < _CHEAPEST else _OUTPUT_WEIGHT
    return (_CHEAPEST_WEIGHT + dear * away**2) * (_ENCODER_WEIGHT if tower.name == "encoder" else 1.0)
