"""An EAGLE-3 head in torch (Li et al. 2025, arXiv:2503.01840), as it is trained.

A row reads the next token's embedding and a feature g: of a committed position, what `fc` makes of three of the
target's hidden states; of a drafted one, the head's own last state. One decoder layer, a norm, and an output head over
a part of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from edgespec.graph.config import Rotary
from edgespec.graph.eagle import HeadConfig
from edgespec.graph.rotary import frequencies
from export.torch_llama import TorchLlama, rotate

ROPE_BASE: Final = 1e4
"""Of the head's rotation: it attends to a window, so it needs no slower turns."""


class EagleHead(nn.Module):
    """Weights are float32; products are computed in bfloat16. Shapes: B sequences of T rows, D hidden, S steps."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = c = config
        d, queries, keys = c.hidden_size, c.heads * c.head_size, c.kv_heads * c.head_size
        self.fc = nn.Linear(c.tapped_size, d, bias=False)
        self.embedding_norm = nn.Parameter(torch.ones(d))
        self.feature_norm = nn.Parameter(torch.ones(d))
        self.qkv = nn.Linear(2 * d, queries + 2 * keys, bias=False)
        self.output = nn.Linear(queries, d, bias=False)
        self.ffn_norm = nn.Parameter(torch.ones(d))
        self.gate_up = nn.Linear(d, 2 * c.ffn_size, bias=False)
        self.down = nn.Linear(c.ffn_size, d, bias=False)
        self.norm = nn.Parameter(torch.ones(d))
        self.lm_head = nn.Linear(d, c.vocab_size, bias=False)

    @torch.no_grad()
    def start_from(self, target: TorchLlama, words: Tensor) -> None:
        """Begin as the target's last layer behind its last tap, with its output head for `words`."""
        d, last = self.config.hidden_size, target.layers[-1]
        self.fc.weight.zero_()
        self.fc.weight[:, -d:] = torch.eye(d)
        self.feature_norm.copy_(last["attention_norm"])
        self.qkv.weight.mul_(0.5)
        self.qkv.weight[:, d:] = last["qkv"].float()
        self.output.weight.copy_(last["output"])
        self.ffn_norm.copy_(last["ffn_norm"])
        self.gate_up.weight.copy_(last["gate_up"])
        self.down.weight.copy_(last["down"])
        self.norm.copy_(target.norm)
        self.lm_head.weight.copy_(target.head[words])

    def unrolled(self, embedded: Tensor, taps: Tensor, mask: Tensor, steps: int) -> list[Tensor]:
        """Training-time test: `steps` steps of drafting from every row at once, each on the head's own states.

        embedded [B, T + steps - 1, D]: embeddings of the tokens behind rows 0, 1, ... taps [B, T, 3 * D]. mask bool
        [B, 1, T, T]: which rows a row attends to. Returns, for each step, the normed states [B, T, D].
        """
        c, rows = self.config, taps.shape[1]
        turns = torch.arange(rows + steps)[:, None] * torch.tensor(c.rotary.frequencies, dtype=torch.float64)
        cos, sin = (table.to(taps.device, taps.dtype) for table in (turns.cos(), turns.sin()))
        feature = F.linear(taps, self.fc.weight.to(taps.dtype))
        keys: list[Tensor] = []
        values: list[Tensor] = []
        states: list[Tensor] = []
        for step in range(steps):
            token = embedded[:, step : step + rows]
            x = torch.cat((self._norm(token, self.embedding_norm), self._norm(feature, self.feature_norm)), dim=-1)
            qkv = F.linear(x, self.qkv.weight.to(x.dtype)).unflatten(-1, (-1, c.head_size))
            q, k, v = qkv.split([c.heads, c.kv_heads, c.kv_heads], dim=2)
            turn = cos[step : step + rows, None], sin[step : step + rows, None]
            q = rotate(q, *turn).transpose(1, 2)
            keys.append(rotate(k, *turn).transpose(1, 2))
            values.append(v.transpose(1, 2))
            attended = self._attend(q, keys, values, mask)
            feature = feature + F.linear(attended, self.output.weight.to(x.dtype))
            gate, up = F.linear(self._norm(feature, self.ffn_norm), self.gate_up.weight.to(x.dtype)).chunk(2, dim=-1)
            feature = feature + F.linear(F.silu(gate) * up, self.down.weight.to(x.dtype))
            states.append(self._norm(feature, self.norm))
        return states

    def _attend(self, q: Tensor, keys: list[Tensor], values: list[Tensor], mask: Tensor) -> Tensor:
        """A row sees the first step's rows that `mask` allows, and of later steps only its own. q [B, H, T, size]."""
        c = self.config
        batch, _, rows, size = q.shape
        # The heads that share keys are rows of one product.
        grouped = q.reshape(batch, c.kv_heads, -1, size) * size**-0.5
        committed = torch.matmul(grouped, keys[0].transpose(-1, -2)).unflatten(2, (-1, rows))
        committed = committed.masked_fill(~mask[:, :, None], float("-inf"))
        apart = grouped.unflatten(2, (-1, rows))
        own = [(apart * k[:, :, None]).sum(-1, keepdim=True) for k in keys[1:]]
        weights = torch.cat([committed, *own], dim=-1).softmax(dim=-1)
        found = torch.matmul(weights[..., :rows].flatten(2, 3), values[0]).unflatten(2, (-1, rows))
        for i, v in enumerate(values[1:]):
            found = found + weights[..., rows + i : rows + i + 1] * v[:, :, None]
        return found.reshape(batch, c.heads, rows, size).transpose(1, 2).reshape(batch, rows, -1)

    def _norm(self, x: Tensor, gain: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), gain.to(x.dtype), self.config.rms_epsilon)


def frequent_words(counts: np.ndarray[tuple[int], np.dtype[np.int64]], size: int, always: Iterable[int]) -> Tensor:
    """The ids of the `size` most frequent tokens, `always` among them, in rising order: int64 [size]."""
    weighted = counts.astype(np.float64)
    weighted[list(always)] = np.inf
    return torch.from_numpy(np.sort(np.argsort(-weighted, kind="stable")[:size]))


def new_head(target: TorchLlama, words: Tensor, window: int) -> EagleHead:
    """A head for `target` that knows `words` and is yet to be trained."""
    c = target.config
    config = HeadConfig(
        hidden_size=c.hidden_size,
        tapped_size=len(c.taps) * c.hidden_size,
        embedding_size=c.hidden_size,
        ffn_size=c.ffn_size,
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_size=c.head_size,
        context_length=c.context_length,
        vocab_size=len(words),
        rms_epsilon=c.rms_epsilon,
        rotary=Rotary(tuple(frequencies(ROPE_BASE, c.head_size).tolist())),
        window=window,
    )
    head = EagleHead(config)
    head.start_from(target, words)
    return head.to(target.device)
