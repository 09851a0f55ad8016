"""The llama family in torch, for training: bfloat16, whole batches, hidden-state taps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from edgespec.graph.quantize import float_chunks
from edgespec.graph.reference import open_weights
from edgespec.graph.weights import vector


class TorchLlama:
    """A GGUF file's or a checkpoint's weights, frozen. Shapes: B sequences, S rows of each, D hidden, V vocabulary."""

    def __init__(self, source: Path, *, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> None:
        """Raises: ModelError if the model is damaged or not of the plain llama family."""
        self.config, weights = open_weights(source)
        config, rotary = self.config, self.config.layers[0].rotary
        if config.architecture != "llama" or config.biases or rotary is None or not config.taps:
            raise weights.error("drafts are trained for llama models without biases, of seven layers and more")
        self.device, self.dtype = torch.device(device), dtype

        def matrix(*names: str) -> Tensor:
            parts = [weights.rows(f"{name}.weight") for name in names]
            return torch.from_numpy(np.concatenate(list(float_chunks(parts)))).to(self.device, dtype)

        def gain(name: str) -> Tensor:
            return torch.from_numpy(vector(weights, f"{name}.weight")).to(self.device, dtype)

        self.embedding = matrix("token_embd")
        self.head = self.embedding if config.tied else matrix("output")
        self.norm = gain("output_norm")
        self.layers: list[dict[str, Tensor]] = []
        for n in range(len(config.layers)):
            b = f"blk.{n}"
            self.layers.append(
                {
                    "attention_norm": gain(f"{b}.attn_norm"),
                    "qkv": matrix(f"{b}.attn_q", f"{b}.attn_k", f"{b}.attn_v"),
                    "output": matrix(f"{b}.attn_output"),
                    "ffn_norm": gain(f"{b}.ffn_norm"),
                    "gate_up": matrix(f"{b}.ffn_gate", f"{b}.ffn_up"),
                    "down": matrix(f"{b}.ffn_down"),
                }
            )
        angles = np.outer(np.arange(config.context_length), rotary.frequencies)
        self.cos, self.sin = (torch.from_numpy(g(angles)).to(self.device, dtype) for g in (np.cos, np.sin))

    def new_cache(self, batch: int, length: int) -> Tensor:
        """Keys and values for `length` positions: [layers, 2, B, Hkv, length, head size]."""
        c = self.config
        shape = (len(c.layers), 2, batch, c.kv_heads, length, c.head_size)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def forward(
        self, ids: Tensor, cache: Tensor, past: int, mask: Tensor | None, taps: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """One pass over ids int64 [B, S] at positions past .. past + S - 1.

        mask: bool [B or 1, 1, S, past + S], True where a row sees a position; None: causal for S > 1 without a past.
        Returns the normed last hidden state [B, S, D], and the residual stream [B, S, D] behind the first n layers
        for each n of `taps`, in their order.
        """
        c, (batch, rows) = self.config, ids.shape
        cos, sin = (t[past : past + rows, None] for t in (self.cos, self.sin))
        x = F.embedding(ids, self.embedding)
        found: dict[int, Tensor] = {}
        for n, w in enumerate(self.layers):
            if n in taps:
                found[n] = x
            qkv = F.linear(self._norm(x, w["attention_norm"]), w["qkv"])
            q, k, v = qkv.view(batch, rows, -1, c.head_size).split([c.heads, c.kv_heads, c.kv_heads], dim=2)
            keys, values = cache[n]
            keys[:, :, past : past + rows] = rotate(k, cos, sin).transpose(1, 2)
            values[:, :, past : past + rows] = v.transpose(1, 2)
            attended = attend(
                rotate(q, cos, sin).transpose(1, 2), keys[:, :, : past + rows], values[:, :, : past + rows], mask
            )
            x = x + F.linear(attended.transpose(1, 2).reshape(batch, rows, -1), w["output"])
            gate, up = F.linear(self._norm(x, w["ffn_norm"]), w["gate_up"]).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, w["down"])
        if len(c.layers) in taps:
            found[len(c.layers)] = x
        return self._norm(x, self.norm), [found[n] for n in taps]

    def logits(self, x: Tensor) -> Tensor:
        """x [..., D], normed -> [..., V], in the model's dtype."""
        return F.linear(x, self.head)

    def _norm(self, x: Tensor, gain: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), gain, self.config.rms_epsilon)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped-query attention: q [B, H, S, size], k and v [B, Hkv, T, size] -> [B, H, S, size]."""
    if q.shape[2] > 1:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    # The heads that share keys as rows of one product: on a CPU several times faster than one row at a time.
    grouped = q.view(q.shape[0], k.shape[1], -1, q.shape[-1])
    return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).view(q.shape)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in halves: x [B, S, H, size], cos and sin [S, 1, size / 2]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
