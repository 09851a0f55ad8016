"""Evening out the channels that int8 matrix products read, at no cost when the model runs.

MatMulNBits rounds its input to int8 too, with one scale for 32 neighbouring channels: a loud channel leaves its quiet
neighbours few steps. Dividing the gain of the RMS norm before it by a factor per channel, and multiplying the columns
of the matrices that read it by the same, changes nothing but the loudness that is rounded (SmoothQuant, Xiao et al.
2023, arXiv:2211.10438). How loud the channels are is found by running the model in NumPy over a passage.

Only norms are treated. For the inputs of attn_output and ffn_down, bounded factors gained the default model little and
free ones made it worse; the columns behind the last norm are the embedding's. Weights stored as Q8_0 are treated too,
although int8 could hold them exactly otherwise: with the default model's weights, a little noise added, in that type,
mean KL was 0.0018 instead of 0.0030.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgespec.graph.config import DecoderConfig
from edgespec.graph.forward import READINGS, Forward
from edgespec.graph.quantize import Rows
from edgespec.graph.weights import WeightSource

Array = NDArray[np.float32]

PASSAGE: Final = """\
The ferry to the island leaves only when the tide allows, so nobody there trusts a clock. Old Marta, who sells \
smoked eel beside the pier, once waited nine hours for her own wedding. "Was he worth it?" "The eel was better."

For a small kitchen shelf you need:
- two pine boards, 80 cm long
- eight screws, a drill and a spirit level
1. Cut the boards. 2. Never drill above a socket!

def running_mean(values, window=3):
    total = sum(values[:window])
    for i in range(window, len(values)):
        yield total / window
        total += values[i] - values[i - window]

If a box holds 24 pears and 7 are bruised, 24 - 7 = 17 remain; at $0.45 each they bring $7.65.

Leaves look green to us because chlorophyll absorbs mostly red and blue light.

Le matin, le boulanger ouvre sa porte avant six heures, et toute la rue sent le pain chaud. Merci !
"""
"""What the activations are measured on: several kinds of text, as a chat has them. About 250 tokens."""

_MAX_TOKENS: Final = 384
ALPHA: Final = 0.5
"""How much of the channels' unevenness moves into the weights, 0 to 1. From 0.5 to 0.65 the default model's mean KL
hardly changes (0.0020), and beyond it rises.
"""
_MASSIVE: Final = 100.0
"""Times the energy of the middle row. The default model has 4 such inputs (127, 432, 2,047 and 268,939 times)."""
_LARGEST: Final = 64.0
"""Of a factor and of its inverse; the default model's go to 20 and 1/50."""


@dataclass(frozen=True, slots=True)
class Channels:
    """`factors`: what to divide each channel by, float32 [hidden size], by the name of the norm's gain. `energies`: the
    mean square of each channel so divided, float32 [width], by the names of the matrices that read it. `delicate`: the
    matrices that read a row of massive activations (Sun et al. 2024, arXiv:2402.17762). They make the one value that
    all later rows attend to; their rounding harms more than that of all others together: in the default model, int4 in
    one of 210 matrices, the 12th ffn_down, makes a third of the mean KL."""

    factors: Mapping[str, Array] = field(default_factory=dict[str, Array])
    energies: Mapping[str, Array] = field(default_factory=dict[str, Array])
    delicate: frozenset[str] = frozenset()


def measure_channels(
    source: WeightSource,
    config: DecoderConfig,
    layers: Sequence[int],
    ids: Sequence[int],
    equalizes: Callable[[Sequence[Rows], int], bool],
    progress: Callable[[float], None],
) -> Channels:
    """Run a model of just these `layers` over `ids`. Norms have factors if `equalizes` says so of their readers and the
    number of layers behind.

    s = rms(x)^a / rms(w)^(1-a): x the channel behind the norm, over the rows of `ids`; w its column in all matrices
    that read it. The median of each norm's factors is 1. Memory holds a chunk of the weights at a time.

    Raises: ModelError for a missing, misshapen or unreadable tensor, and for fewer than two ids.
    """
    if len(ids) < 2:
        raise source.error("its vocabulary has no tokens for plain text")
    factors, energies, delicate = dict[str, Array](), dict[str, Array](), set[str]()
    # What overflows float32 in here gives factors and energies that are not finite, which are not used.
    with np.errstate(all="ignore"):
        for done, reading in enumerate(Forward(source, config, ids).readings(layers), 1):
            loudness, behind = reading.channels, len(layers) - -(-done // READINGS)
            if reading.gain and equalizes([source.rows(tensor) for tensor in reading.tensors], behind):
                factors[reading.gain] = _factors(loudness, reading.columns)
                loudness = loudness / factors[reading.gain]
            energy = np.square(loudness)
            if np.isfinite(energy).all():
                energies |= dict.fromkeys(reading.tensors, energy)
            if reading.massive > _MASSIVE:
                delicate.update(reading.tensors)
            progress(done / (READINGS * len(layers)))
    return Channels(factors, energies, frozenset(delicate))


def passage_ids(tokenizer: Tokenizer, config: DecoderConfig) -> list[int]:
    """The token ids of the passage, as many as the model can take."""
    ids: list[int] = tokenizer.encode(PASSAGE, add_special_tokens=False).ids
    return ids[: min(_MAX_TOKENS, config.context_length)]


def _factors(activations: Array, weights: Array) -> Array:
    """Blocks share a scale, so that only ratios matter; the limits keep a channel that was silent here usable."""
    least = np.finfo(np.float32).tiny
    factors = np.maximum(activations, least) ** ALPHA / np.maximum(weights, least) ** (1 - ALPHA)
    factors = np.clip(factors / np.median(factors), 1 / _LARGEST, _LARGEST).astype(np.float32)
    return factors if np.isfinite(factors).all() else np.ones_like(factors)
