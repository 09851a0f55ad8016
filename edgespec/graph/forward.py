"""A model's forward pass in NumPy over short texts, its weights streamed: how loud its channels are, and its logits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgespec.graph.config import DecoderConfig, LayerConfig, Rotary
from edgespec.graph.quantize import float_chunks
from edgespec.graph.rotary import has_long_table
from edgespec.graph.weights import WeightSource, vector

Array = NDArray[np.float32]

READINGS: Final = 4
"""Of a layer."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the matrices `tensors` read: `gain` names the norm that it comes from, "" if from none; the RMS of its
    channels and of the columns that read them, float32 [channels]; by how much the energy of the most massive row
    exceeds that of the middle one."""

    gain: str
    tensors: tuple[str, ...]
    channels: Array
    columns: Array
    massive: float


class Forward:
    """One pass of the model over some texts, a layer after the other, in float32 [rows of all texts, channels]."""

    def __init__(self, source: WeightSource, config: DecoderConfig, *texts: Sequence[int]) -> None:
        self._source, self._config = source, config
        self._ends = list(accumulate(len(ids) for ids in texts))
        table = source.rows("token_embd.weight")
        chosen = replace(table, data=table.data[[token for ids in texts for token in ids]])
        self._x = np.concatenate(list(float_chunks([chosen]))) * np.float32(config.embedding_scale)
        positions = np.concatenate([np.arange(len(ids)) for ids in texts])
        self._turns = {
            layer.rotary: _turns(layer.rotary, config.context_length, positions)
            for layer in set(config.layers)
            if layer.rotary is not None
        }

    def readings(self, layers: Sequence[int]) -> Iterator[Reading]:
        """What the matrices of each layer read, in the order of the pass."""
        for n in layers:
            gain = f"blk.{n}.attn_norm.weight"
            (q, k, v), reading = self._read(n, self._norm(self._x, gain), ("attn_q", "attn_k", "attn_v"), gain)
            yield reading
            yield self._add(n, "attn_output", "post_attention_norm", self._attend(n, q, k, v))
            gain = f"blk.{n}.ffn_norm.weight"
            (gate, up), reading = self._read(n, self._norm(self._x, gain), ("ffn_gate", "ffn_up"), gain)
            yield reading
            activate = _silu if self._config.activation == "silu" else _gelu_tanh
            yield self._add(n, "ffn_down", "post_ffw_norm", activate(gate) * up)

    def logits(self, rows: slice, vocab_size: int) -> Array:
        """Of some rows, behind the last layer: float32 [rows, vocab_size], a part of the model's vocabulary."""
        config = self._config
        x = self._norm(self._x[rows], "output_norm.weight") * np.float32(config.logit_scale)
        head = self._source.rows("token_embd.weight" if config.tied else "output.weight")
        chosen = replace(head, data=head.data[:vocab_size])
        logits = np.concatenate([x @ chunk.T for chunk in float_chunks([chosen])], axis=1, dtype=np.float32)
        if (cap := config.logit_softcap) is not None:
            np.tanh(logits / np.float32(cap), out=logits)
            logits *= np.float32(cap)
        return logits

    def _norm(self, x: Array, gain: str) -> Array:
        mean_square = np.square(x).mean(axis=-1, keepdims=True)
        return x / np.sqrt(mean_square + np.float32(self._config.rms_epsilon)) * vector(self._source, gain)

    def _read(self, layer: int, x: Array, parts: Sequence[str], gain: str = "") -> tuple[list[Array], Reading]:
        """The products of x with some matrices of the layer."""
        squares, products, rows = np.zeros(x.shape[1], np.float32), list[Array](), 0
        tensors = tuple(f"blk.{layer}.{part}.weight" for part in parts)
        for part, tensor in zip(parts, tensors, strict=True):
            outputs: list[Array] = []
            for chunk in float_chunks([self._source.rows(tensor)]):
                outputs.append(x @ chunk.T)
                squares += np.einsum("ij,ij->j", chunk, chunk)
                rows += len(chunk)
            product = np.concatenate(outputs, axis=1)
            if part in self._config.biases:
                product += vector(self._source, f"blk.{layer}.{part}.bias")
            products.append(product)
        return products, Reading(gain, tensors, _rms(x), np.sqrt(squares / rows), _massive(x))

    def _add(self, layer: int, part: str, post_norm: str, x: Array) -> Reading:
        (product,), reading = self._read(layer, x, (part,))
        if self._config.post_norms:
            product = self._norm(product, f"blk.{layer}.{post_norm}.weight")
        self._x += product * np.float32(self._config.residual_scale)
        return reading

    def _attend(self, n: int, q: Array, k: Array, v: Array) -> Array:
        """Attention within each text. Returns [rows, heads * head size]."""
        layer = self._config.layers[n]
        queries = self._heads(q, layer, f"blk.{n}.attn_q_norm.weight")
        keys = self._heads(k, layer, f"blk.{n}.attn_k_norm.weight")
        texts = [slice(start, end) for start, end in pairwise([0, *self._ends])]
        return np.concatenate([self._attend_within(layer, queries[t], keys[t], v[t]) for t in texts])

    def _attend_within(self, layer: LayerConfig, queries: Array, keys: Array, v: Array) -> Array:
        """Causal attention of query heads in groups that share a key head."""
        config, rows = self._config, len(v)
        shared, size = config.kv_heads, config.head_size
        queries, keys = queries.reshape(rows, shared, -1, size), keys.transpose(1, 2, 0)[:, None]
        scores = queries.transpose(1, 2, 0, 3) @ keys * np.float32(config.attention_scale)
        if (cap := config.attention_softcap) is not None:
            scores = np.float32(cap) * np.tanh(scores / np.float32(cap))
        scores += _mask(rows, layer.window)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        out = scores @ v.reshape(rows, shared, 1, size).transpose(1, 2, 0, 3)
        return out.transpose(2, 0, 1, 3).reshape(rows, -1)

    def _heads(self, x: Array, layer: LayerConfig, gain: str) -> Array:
        """[rows, heads * size] to [rows, heads, size], normed and turned where the model does."""
        heads = x.reshape(len(x), -1, self._config.head_size)
        if self._config.qk_norms:
            heads = self._norm(heads, gain)
        if layer.rotary is None:
            return heads
        cos, sin = self._turns[layer.rotary]
        pairs = cos.shape[-1]
        first, second, rest = heads[..., :pairs], heads[..., pairs : 2 * pairs], heads[..., 2 * pairs :]
        turned = [first * cos - second * sin, first * sin + second * cos, rest]
        return np.concatenate(turned, axis=-1, dtype=np.float32)


def _turns(rotary: Rotary, context_length: int, positions: NDArray[np.int64]) -> tuple[Array, Array]:
    """Cosines and sines, [rows, 1, pairs], as the graph has them for its whole context."""
    frequencies = rotary.long_frequencies if has_long_table(rotary, context_length) else rotary.frequencies
    angles = np.outer(positions, frequencies)[:, None]
    return (np.cos(angles) * rotary.magnitude).astype(np.float32), (np.sin(angles) * rotary.magnitude).astype(
        np.float32
    )


def _mask(rows: int, window: int | None) -> Array:
    """What is added to the scores, [rows, rows]: -inf for later positions and those before the window."""
    mask = np.triu(np.full((rows, rows), -np.inf, np.float32), 1)
    if window is not None:
        mask += np.tril(np.full((rows, rows), -np.inf, np.float32), -window)
    return mask


def _silu(x: Array) -> Array:
    return x / (np.float32(1) + np.exp(-x))


def _gelu_tanh(x: Array) -> Array:
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
    return np.float32(0.5) * x * (np.float32(1) + np.tanh(inner))


def _massive(x: Array) -> float:
    energies = np.square(x).sum(axis=1)
    return float(energies.max() / np.median(energies))


def _rms(x: Array) -> Array:
    """[channels], over all rows but the first: its outliers (the attention sink) are no other row's."""
    return np.sqrt(np.square(x[1:]).mean(axis=0))
