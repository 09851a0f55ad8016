"""One description for every family that can be built: what a reader of GGUF or of a checkpoint finds out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from edgespec.errors import ModelError

Activation = Literal["silu", "gelu_tanh"]

_MAX_CONTEXT: Final = 1 << 20
"""Positions; the rotation tables have a row for each, so a damaged number must not become gigabytes."""
_PAIRS: Final = 8
"""GroupQueryAttention rotates multiples of so many."""


@dataclass(frozen=True, slots=True)
class Rotary:
    """How a head's values turn with their position p (Su et al. 2021, arXiv:2104.09864).

    With n frequencies (radians per position), values i and i + n turn together by p * frequencies[i], i < n; values
    from 2n on stay. `magnitude` multiplies what has turned. LongRoPE: where the context is longer than
    `short_context`, every position turns by `long_frequencies` instead.
    """

    frequencies: tuple[float, ...]
    magnitude: float = 1.0
    long_frequencies: tuple[float, ...] = ()
    short_context: int = 0


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """What may differ from layer to layer. `rotary` None: the layer knows no positions (NoPE). `window`: how many
    positions a row attends to, its own included; None is all."""

    rotary: Rotary | None
    window: int | None = None


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """A decoder with RMS norms, grouped-query attention and a gated feed-forward.

    Sizes are counts of floats; `head_size` is that of one attention head, the same for query, key and value. `biases`:
    the layer parts with a bias, out of attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down. `qk_norms`: a
    norm over each query and key head. `post_norms`: norms behind attention and feed-forward, before they are added.
    `embedding_scale` multiplies the embedding, `residual_scale` what a layer adds, `attention_scale` query times key,
    `logit_scale` the logits. A soft-cap c makes x c*tanh(x/c).
    """

    architecture: str
    layers: tuple[LayerConfig, ...]
    hidden_size: int
    ffn_size: int
    heads: int
    kv_heads: int
    head_size: int
    context_length: int
    vocab_size: int
    rms_epsilon: float
    attention_scale: float
    activation: Activation = "silu"
    tied: bool = True
    biases: frozenset[str] = frozenset()
    qk_norms: bool = False
    post_norms: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    attention_softcap: float | None = None
    logit_softcap: float | None = None

    @property
    def query_size(self) -> int:
        return self.heads * self.head_size

    @property
    def key_size(self) -> int:
        return self.kv_heads * self.head_size

    @property
    def taps(self) -> tuple[int, ...]:
        """Behind how many layers a head reads the residual stream: low, middle and high, where EAGLE-3's public heads
        are trained to. None in a model that has too few layers for three."""
        count = len(self.layers)
        taps = (2, count // 2, count - 3)
        return taps if taps[0] < taps[1] < taps[2] else ()

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the model by its canonical name, which is GGUF's, and its shape, rows first."""
        whole: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (self.vocab_size, self.hidden_size),
            "output_norm.weight": (self.hidden_size,),
        }
        if not self.tied:
            whole["output.weight"] = (self.vocab_size, self.hidden_size)
        parts = self._layer_tensors()
        return whole | {f"blk.{n}.{part}": shape for n in range(len(self.layers)) for part, shape in parts.items()}

    def _layer_tensors(self) -> dict[str, tuple[int, ...]]:
        hidden, ffn, queries, keys = self.hidden_size, self.ffn_size, self.query_size, self.key_size
        matrices = {
            "attn_q": (queries, hidden),
            "attn_k": (keys, hidden),
            "attn_v": (keys, hidden),
            "attn_output": (hidden, queries),
            "ffn_gate": (ffn, hidden),
            "ffn_up": (ffn, hidden),
            "ffn_down": (hidden, ffn),
        }
        norms = {"attn_norm": hidden, "ffn_norm": hidden}
        if self.qk_norms:
            norms |= {"attn_q_norm": self.head_size, "attn_k_norm": self.head_size}
        if self.post_norms:
            norms |= {"post_attention_norm": hidden, "post_ffw_norm": hidden}
        tensors: dict[str, tuple[int, ...]] = {f"{part}.weight": shape for part, shape in matrices.items()}
        tensors |= {f"{part}.bias": shape[:1] for part, shape in matrices.items() if part in self.biases}
        return tensors | {f"{part}.weight": (size,) for part, size in norms.items()}

    def check(self, error: Callable[[str], ModelError]) -> None:
        """Raises: ModelError, made by `error` of the cause, for numbers that no model can have."""
        counts = (len(self.layers), self.hidden_size, self.ffn_size, self.heads, self.kv_heads, self.head_size)
        if min(counts) < 1 or self.heads % self.kv_heads or self.head_size % 2:
            raise error("its layer, head and width counts do not fit together")
        if not 1 < self.context_length <= _MAX_CONTEXT:
            raise error(f"its context length is {self.context_length:,}")
        scales = (self.attention_scale, self.embedding_scale, self.residual_scale, self.logit_scale)
        caps = (cap for cap in (self.attention_softcap, self.logit_softcap) if cap is not None)
        if not (0 < self.rms_epsilon < 1 and all(0 < abs(x) < math.inf for x in (*scales, *caps))):
            raise error("its epsilon or one of its multipliers is out of range")
        for layer in set(self.layers):
            if layer.window is not None and layer.window < 1:
                raise error(f"its attention window is {layer.window}")
            if layer.rotary is not None:
                self._check_rotary(layer.rotary, error)

    def _check_rotary(self, rotary: Rotary, error: Callable[[str], ModelError]) -> None:
        pairs, values = len(rotary.frequencies), (*rotary.frequencies, *rotary.long_frequencies, rotary.magnitude)
        fits = 0 < 2 * pairs <= self.head_size and len(rotary.long_frequencies) in (0, pairs)
        if not fits or not all(0 < value < math.inf for value in values):
            raise error("its rotation base, factors or size is out of range")
        if pairs % _PAIRS:
            raise error(f"it rotates {2 * pairs} values of each head, and only multiples of {2 * _PAIRS} can be")
        if rotary.long_frequencies and not 0 < rotary.short_context <= _MAX_CONTEXT:
            raise error(f"its original context length is {rotary.short_context:,}")
