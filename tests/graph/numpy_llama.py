"""The llama family written down a second time, in NumPy and float64, with llama.cpp's conventions.

It reads a GGUF file with the gguf package's own reader and rotates neighbouring rows of a head together, as llama.cpp
does with the row order of such files. So it shares nothing with the code it checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

Array = NDArray[np.float64]


class NumpyLlama:
    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)
        self._metadata: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        self.weights: dict[str, Array] = {
            t.name: dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors
        }

    def logits(self, ids: Sequence[int], layers: Sequence[int] | None = None) -> Array:
        """All rows' logits, [len(ids), vocab], with these layers only."""
        x = self.weights["token_embd.weight"][list(ids)]
        for n in layers if layers is not None else range(self._get("block_count")):
            x = x + self._attention(n, self._norm(x, f"blk.{n}.attn_norm"))
            h = self._norm(x, f"blk.{n}.ffn_norm")
            gate, up = self._product(h, f"blk.{n}.ffn_gate"), self._product(h, f"blk.{n}.ffn_up")
            x = x + self._product(gate / (1 + np.exp(-gate)) * up, f"blk.{n}.ffn_down")
        head = "output" if "output.weight" in self.weights else "token_embd"
        return self._product(self._norm(x, "output_norm"), head)

    def _get(self, key: str) -> Any:
        return self._metadata[f"llama.{key}"]

    def _product(self, x: Array, name: str) -> Array:
        return x @ self.weights[f"{name}.weight"].T

    def _norm(self, x: Array, name: str) -> Array:
        mean_square = (x**2).mean(axis=-1, keepdims=True)
        return x / np.sqrt(mean_square + self._get("attention.layer_norm_rms_epsilon")) * self.weights[f"{name}.weight"]

    def _attention(self, n: int, x: Array) -> Array:
        heads, kv_heads = self._get("attention.head_count"), self._get("attention.head_count_kv")
        rows = len(x)
        q = self._rotate(self._product(x, f"blk.{n}.attn_q").reshape(rows, heads, -1))
        k = self._rotate(self._product(x, f"blk.{n}.attn_k").reshape(rows, kv_heads, -1))
        v = self._product(x, f"blk.{n}.attn_v").reshape(rows, kv_heads, -1)
        out = np.empty_like(q)
        for head in range(heads):
            shared = head // (heads // kv_heads)
            scores = q[:, head] @ k[:, shared].T / np.sqrt(q.shape[-1])
            scores[np.triu_indices(rows, 1)] = -np.inf
            p = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[:, head] = p / p.sum(axis=-1, keepdims=True) @ v[:, shared]
        return self._product(out.reshape(rows, -1), f"blk.{n}.attn_output")

    def _rotate(self, x: Array) -> Array:
        """[rows, heads, size]: elements 2i and 2i+1 turn together by position * base^(-2i/size) / factor."""
        size = x.shape[-1]
        frequencies = self._get("rope.freq_base") ** (-np.arange(0, size, 2) / size)
        frequencies = frequencies / self.weights.get("rope_freqs.weight", np.ones(size // 2))
        angles = np.outer(np.arange(len(x)), frequencies)[:, None]
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = np.empty_like(x)
        turned[..., 0::2] = even * np.cos(angles) - odd * np.sin(angles)
        turned[..., 1::2] = even * np.sin(angles) + odd * np.cos(angles)
        return turned
