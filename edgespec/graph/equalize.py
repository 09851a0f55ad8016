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

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgespec.graph.config import LlamaConfig
from edgespec.graph.gguf_reader import GGUFFile
from edgespec.graph.quantize import Rows, float_chunks, vector
from edgespec.graph.rotary import rotation_frequencies

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
_LARGEST: Final = 64.0
"""Of a factor and of its inverse; the default model's go to 20 and 1/50."""


def channel_factors(
    file: GGUFFile, config: LlamaConfig, layers: Sequence[int], ids: Sequence[int], progress: Callable[[float], None]
) -> dict[str, Array]:
    """What to divide each channel by, float32 [hidden size], by the name of the gain tensor in the file.

    s = rms(x)^a / rms(w)^(1-a): x the channel behind the norm, over the rows of `ids` in a model of just these
    `layers`; w its column in all matrices that read it. The median of each norm's factors is 1. Memory holds a chunk
    of the weights at a time.

    Raises: ModelError for a missing, misshapen or unreadable tensor, and for fewer than two ids.
    """
    if len(ids) < 2:
        raise file.error("its vocabulary has no tokens for plain text")
    factors: dict[str, Array] = {}
    # What overflows float32 in here gives factors that are not finite, which `_factors` catches.
    with np.errstate(all="ignore"):
        for name, activations, weights in _Forward(file, config, ids).norms(layers):
            factors[name] = _factors(activations, weights)
            progress(len(factors) / (2 * len(layers)))
    return factors


def passage_ids(tokenizer: Tokenizer, config: LlamaConfig) -> list[int]:
    """The token ids of the passage, as many as the model can take."""
    ids: list[int] = tokenizer.encode(PASSAGE, add_special_tokens=False).ids
    return ids[: min(_MAX_TOKENS, config.context_length)]


def _factors(activations: Array, weights: Array) -> Array:
    """Blocks share a scale, so that only ratios matter; the limits keep a channel that was silent here usable."""
    least = np.finfo(np.float32).tiny
    factors = np.maximum(activations, least) ** ALPHA / np.maximum(weights, least) ** (1 - ALPHA)
    factors = np.clip(factors / np.median(factors), 1 / _LARGEST, _LARGEST).astype(np.float32)
    return factors if np.isfinite(factors).all() else np.ones_like(factors)


class _Forward:
    """One pass of the model over `ids`, a layer after the other, in float32 [rows, channels]."""

    def __init__(self, file: GGUFFile, config: LlamaConfig, ids: Sequence[int]) -> None:
        self._file, self._config = file, config
        table = self._rows("token_embd.weight", config.vocab_size, config.hidden_size)
        chosen = Rows(table.name, table.type, table.data[list(ids)], table.width)
        self._x = np.concatenate(list(float_chunks([chosen])))
        angles = np.outer(np.arange(len(ids)), rotation_frequencies(file, config))
        self._turns = np.exp(1j * angles).astype(np.complex64)[:, None]

    def norms(self, layers: Sequence[int]) -> Iterator[tuple[str, Array, Array]]:
        """For each norm its gain's name, and the RMS of its channels and of the columns that read them."""
        config = self._config
        queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
        for n in layers:
            gain = f"blk.{n}.attn_norm.weight"
            x = self._norm(gain)
            (q, k, v), weights = self._read(n, x, {"attn_q": queries, "attn_k": keys, "attn_v": keys})
            yield gain, _rms(x), weights
            self._add(n, "attn_output", self._attend(q, k, v))
            gain = f"blk.{n}.ffn_norm.weight"
            x = self._norm(gain)
            (gate, up), weights = self._read(n, x, {"ffn_gate": config.ffn_size, "ffn_up": config.ffn_size})
            yield gain, _rms(x), weights
            self._add(n, "ffn_down", _silu(gate) * up)

    def _norm(self, gain: str) -> Array:
        mean_square = np.square(self._x).mean(axis=1, keepdims=True)
        scaled = self._x / np.sqrt(mean_square + np.float32(self._config.rms_epsilon))
        return scaled * vector(self._file.tensor(gain, self._config.hidden_size))

    def _read(self, layer: int, x: Array, sizes: dict[str, int]) -> tuple[list[Array], Array]:
        """The products of x with some matrices of the layer, and the RMS of all their rows, [channels]."""
        squares, products = np.zeros(x.shape[1], np.float32), list[Array]()
        for part, rows in sizes.items():
            outputs: list[Array] = []
            for chunk in float_chunks([self._rows(f"blk.{layer}.{part}.weight", rows, x.shape[1])]):
                outputs.append(x @ chunk.T)
                squares += np.einsum("ij,ij->j", chunk, chunk)
            products.append(np.concatenate(outputs, axis=1))
        return products, np.sqrt(squares / sum(sizes.values()))

    def _add(self, layer: int, part: str, x: Array) -> None:
        (product,), _ = self._read(layer, x, {part: self._config.hidden_size})
        self._x += product

    def _attend(self, q: Array, k: Array, v: Array) -> Array:
        """Causal attention of query heads in groups that share a key head. Returns [rows, heads * head size]."""
        rows, size, shared = len(q), self._config.head_size, self._config.kv_heads
        queries = self._rotate(q).reshape(rows, shared, -1, size).transpose(1, 2, 0, 3)
        keys = self._rotate(k).transpose(1, 2, 0)[:, None]
        scores = queries @ keys / np.float32(np.sqrt(size))
        scores += np.triu(np.full((rows, rows), -np.inf, np.float32), 1)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        out = scores @ v.reshape(rows, shared, 1, size).transpose(1, 2, 0, 3)
        return out.transpose(2, 0, 1, 3).reshape(rows, -1)

    def _rotate(self, x: Array) -> Array:
        """[rows, heads * size] to [rows, heads, size]: neighbours turn together, in the row order of GGUF files."""
        pairs = x.reshape(len(x), -1, self._config.head_size).view(np.complex64)
        return (pairs * self._turns).view(np.float32)

    def _rows(self, name: str, rows: int, width: int) -> Rows:
        return Rows.of(self._file.tensor(name, rows, width))


def _silu(x: Array) -> Array:
    return x / (np.float32(1) + np.exp(-x))


def _rms(x: Array) -> Array:
    """[channels], over all rows but the first: its outliers (the attention sink) are no other row's."""
    return np.sqrt(np.square(x[1:]).mean(axis=0))
