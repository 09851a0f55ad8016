"""What the metadata of a GGUF file says about a model of the families that can be built.

What is not written there is what llama.cpp assumes for the family: which layers see only a window, or know no
positions, and by which base Gemma's local layers turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgespec.errors import ModelError
from edgespec.graph.config import DecoderConfig, LayerConfig, Rotary
from edgespec.graph.gguf_reader import GGUFFile, shown
from edgespec.graph.quantize import Rows, float_chunks
from edgespec.graph.rotary import frequencies

INTERLEAVED: Final = frozenset({"llama", "granite", "smollm3"})
"""Files of these keep the rows of attn_q and attn_k in llama.cpp's order, which turns neighbours together."""
ROTARY_TENSORS: Final = frozenset({"rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"})
_QKV: Final = frozenset({"attn_q", "attn_k", "attn_v"})
_NO_POSITIONS_EVERY: Final = 4
_GEMMA3_GLOBAL_EVERY: Final = 6
_GEMMA3_LOCAL_BASE: Final = 10000.0
_GEMMA_27B_LAYERS: Final = {"gemma2": 46, "gemma3": 62}
"""Only the largest of each scales attention by its width per head."""


def read_config(file: GGUFFile) -> DecoderConfig:
    """Raises: ModelError for another architecture, a missing or impossible value, or a feature not built here."""
    architecture = file.text("general.architecture")
    if architecture not in _FAMILIES:
        raise ModelError(
            f"{file.path.name} holds a model of the {shown(architecture)} architecture, "
            f"and only {', '.join(_FAMILIES)} are supported; use a GGUF file of one of those."
        )
    config = _FAMILIES[architecture](_Metadata(file, architecture))
    config.check(file.error)
    return config


class _Metadata:
    """The keys of one architecture, without its name before them."""

    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self.file, self._prefix = file, architecture
        self.architecture = architecture
        self.hidden_size, self.heads = self.integer("embedding_length"), self.integer("attention.head_count")
        self.head_size = self.integer("attention.key_length", self.hidden_size // self.heads if self.heads > 0 else 0)
        self.layers, self.context_length = self.integer("block_count"), self.integer("context_length")
        if not 0 < self.layers <= len(file.tensors):
            raise file.error(f"it has too few tensors for {self.layers:,} layers")
        if min(self.heads, self.head_size) < 1:
            raise file.error("its layer, head and width counts do not fit together")
        if self.integer("attention.value_length", self.head_size) != self.head_size:
            raise file.error("its value heads differ in size from its key heads, which is not supported")

    def integer(self, key: str, default: int | None = None) -> int:
        return self.file.integer(f"{self._prefix}.{key}", default)

    def number(self, key: str, default: float | None = None) -> float:
        return self.file.number(f"{self._prefix}.{key}", default)

    def text(self, key: str, default: str) -> str:
        return self.file.text(f"{self._prefix}.{key}", default)

    def window(self, default: int | None = None) -> int | None:
        """A window that holds the whole context is none."""
        window = self.integer("attention.sliding_window", default or self.context_length)
        return window if 0 < window < self.context_length else None

    def turns(self, base: float | None = None) -> NDArray[np.float64]:
        """Radians per position, before any scaling."""
        size = self.integer("rope.dimension_count", self.head_size)
        base = self.number("rope.freq_base", 10000.0) if base is None else base
        if not 0 < base < float("inf"):
            raise self.file.error("its rotation base is out of range")
        if not 0 < size <= self.head_size or size % 2:
            raise self.file.error(f"it rotates {size} of a head's {self.head_size} values")
        return frequencies(base, size)

    def rotary(self) -> Rotary:
        """rope_freqs.weight, if present, divides the frequencies (Llama 3.1)."""
        turns, scaling = self.turns(), self.text("rope.scaling.type", "none")
        if scaling == "linear":
            factor = self.number("rope.scaling.factor")
            if not factor > 0:
                raise self.file.error("its rotation is scaled by a factor that is not positive")
            turns = turns / factor
        elif scaling != "none":
            raise self.file.error(f"its rotation is scaled in the way called {shown(scaling)}, which is not supported")
        if "rope_freqs.weight" in self.file.tensors:
            turns = turns / self.divisors("rope_freqs.weight", len(turns))
        return Rotary(tuple(turns.tolist()))

    def divisors(self, name: str, size: int) -> NDArray[np.float32]:
        (divisors,) = np.concatenate(list(float_chunks([Rows.of(self.file.tensor(name, size))])))
        if not (divisors > 0).all():
            raise self.file.error(f"the tensor {name} has values that are not positive")
        return divisors

    def biases(self, parts: frozenset[str]) -> frozenset[str]:
        return frozenset(part for part in parts if f"blk.0.{part}.bias" in self.file.tensors)

    def decoder(self, layers: tuple[LayerConfig, ...] | None = None, **features: Any) -> DecoderConfig:
        """What all families have, with `features` on top; `layers` None: all alike."""
        embedding = self.file.tensors.get("token_embd.weight")
        if embedding is None:
            raise self.file.error("the tensor token_embd.weight is missing")
        common: dict[str, Any] = {
            "architecture": self.architecture,
            "layers": layers or (LayerConfig(self.rotary()),) * self.layers,
            "hidden_size": self.hidden_size,
            "ffn_size": self.integer("feed_forward_length"),
            "heads": self.heads,
            "kv_heads": self.integer("attention.head_count_kv", self.heads),
            "head_size": self.head_size,
            "context_length": self.context_length,
            "vocab_size": embedding.shape[0],
            "rms_epsilon": self.number("attention.layer_norm_rms_epsilon"),
            "attention_scale": self.head_size**-0.5,
            "tied": "output.weight" not in self.file.tensors,
        }
        return DecoderConfig(**(common | features))


def _llama(m: _Metadata) -> DecoderConfig:
    if m.integer("expert_count", 0):
        raise m.file.error("it is a mixture of experts, which is not supported")
    return m.decoder()


def _qwen2(m: _Metadata) -> DecoderConfig:
    return m.decoder(biases=m.biases(_QKV))


def _qwen3(m: _Metadata) -> DecoderConfig:
    return m.decoder(qk_norms=True)


def _smollm3(m: _Metadata) -> DecoderConfig:
    turned, still = LayerConfig(m.rotary()), LayerConfig(None)
    return m.decoder(tuple(turned if (n + 1) % _NO_POSITIONS_EVERY else still for n in range(m.layers)))


def _granite(m: _Metadata) -> DecoderConfig:
    if m.integer("expert_count", 0):
        raise m.file.error("it is a mixture of experts, which is not supported")
    return m.decoder(
        embedding_scale=m.number("embedding_scale", 1.0),
        residual_scale=m.number("residual_scale", 1.0),
        attention_scale=m.number("attention.scale", m.head_size**-0.5),
        logit_scale=1 / (m.number("logit_scale", 1.0) or float("nan")),
    )


def _phi3(m: _Metadata) -> DecoderConfig:
    """With the two tensors of factors, positions are scaled by LongRoPE."""
    if "rope_factors_long.weight" not in m.file.tensors:
        rotary = m.rotary()
    else:
        turns = m.turns()
        short, long = (turns / m.divisors(f"rope_factors_{which}.weight", len(turns)) for which in ("short", "long"))
        original = m.integer("rope.scaling.original_context_length", m.context_length)
        magnitude = m.number("rope.scaling.attn_factor", 1.0)
        rotary = Rotary(tuple(short.tolist()), magnitude, tuple(long.tolist()), original)
    return m.decoder((LayerConfig(rotary, m.window()),) * m.layers)


def _gemma2(m: _Metadata) -> DecoderConfig:
    rotary = m.rotary()
    local, far = LayerConfig(rotary, m.window(4096)), LayerConfig(rotary)
    return _gemma(
        m,
        tuple(far if n % 2 else local for n in range(m.layers)),
        attention_softcap=m.number("attn_logit_softcapping", 50.0),
        logit_softcap=m.number("final_logit_softcapping", 30.0),
    )


def _gemma3(m: _Metadata) -> DecoderConfig:
    local = LayerConfig(Rotary(tuple(m.turns(_GEMMA3_LOCAL_BASE).tolist())), m.window())
    far = LayerConfig(m.rotary())
    return _gemma(m, tuple(local if (n + 1) % _GEMMA3_GLOBAL_EVERY else far for n in range(m.layers)), qk_norms=True)


def _gemma(m: _Metadata, layers: tuple[LayerConfig, ...], **features: Any) -> DecoderConfig:
    largest = m.layers == _GEMMA_27B_LAYERS[m.architecture]
    width = m.hidden_size / m.heads if largest else m.head_size
    return m.decoder(
        layers,
        activation="gelu_tanh",
        post_norms=True,
        attention_scale=width**-0.5,
        embedding_scale=m.hidden_size**0.5,
        **features,
    )


_FAMILIES: Final[Mapping[str, Callable[[_Metadata], DecoderConfig]]] = MappingProxyType(
    {
        "gemma2": _gemma2,
        "gemma3": _gemma3,
        "granite": _granite,
        "llama": _llama,
        "phi3": _phi3,
        "qwen2": _qwen2,
        "qwen3": _qwen3,
        "smollm3": _smollm3,
    }
)
