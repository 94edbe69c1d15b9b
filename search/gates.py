"""What trials are stopped by before they heal: a proxy, on how many utterances, and how many go on."""

from __future__ import annotations

from dataclasses import dataclass

# Proxies that trials can be stopped by; by the first if nothing else is known to be better.
GATES = ("divergence", "loss", "chrF")
DIVERGENCE = GATES[0]
# Utterances of the proxy role that the first two rungs score; as many as the second scores are translated in the last.
RUNG_UTTERANCES = (8, 48)
# What the first rung may score instead, where a study's fidelity says so (decision 0027).
FIRST_UTTERANCES = (4, 8, 16, 24)
# Share of a rung's trials that go on to the next. Healing costs many times what the first two rungs cost together, so
# few get there; the first knows less than the second and saves next to nothing, so it ends none but those without a
# score (decision 0032, measured on the bundled model).
SURVIVAL = (1.0, 1 / 8)


@dataclass(frozen=True)
class Gate:
    """The proxy of the rungs before healing, the utterances each scores, and the share that goes on from each."""

    proxy: str = DIVERGENCE
    utterances: tuple[int, ...] = RUNG_UTTERANCES
    survival: tuple[float, ...] = SURVIVAL


# The bundled model's.
DEFAULT = Gate()
