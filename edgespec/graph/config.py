"""What the metadata of a GGUF file says about a model of the llama family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from edgespec.errors import ModelError
from edgespec.graph.gguf_reader import GGUFFile, shown

_MAX_CONTEXT: Final = 1 << 20
"""Positions; the rotation tables have a row for each, so a damaged number must not become gigabytes."""


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Sizes are counts of floats; `head_size` is that of one attention head, the same for query, key and value."""

    layers: int
    hidden_size: int
    ffn_size: int
    heads: int
    kv_heads: int
    head_size: int
    context_length: int
    vocab_size: int
    rms_epsilon: float
    rope_base: float

    @classmethod
    def read(cls, file: GGUFFile) -> Self:
        """Raises: ModelError for another architecture, a missing or impossible value, or a feature not built here."""
        architecture = file.text("general.architecture")
        if architecture != "llama":
            raise ModelError(
                f"{file.path.name} holds a model of the {shown(architecture)} architecture, "
                "and only llama is supported; use a GGUF file of a llama model."
            )
        hidden_size, heads = file.integer("llama.embedding_length"), file.integer("llama.attention.head_count")
        head_size = file.integer("llama.attention.key_length", hidden_size // heads if heads > 0 else 0)
        embedding = file.tensors.get("token_embd.weight")
        config = cls(
            layers=file.integer("llama.block_count"),
            hidden_size=hidden_size,
            ffn_size=file.integer("llama.feed_forward_length"),
            heads=heads,
            kv_heads=file.integer("llama.attention.head_count_kv", heads),
            head_size=head_size,
            context_length=file.integer("llama.context_length"),
            vocab_size=embedding.shape[0] if embedding else 0,
            rms_epsilon=file.number("llama.attention.layer_norm_rms_epsilon"),
            rope_base=file.number("llama.rope.freq_base", 10000.0),
        )
        config._check(file)
        return config

    def _check(self, file: GGUFFile) -> None:
        if not self.vocab_size:
            raise file.error("the tensor token_embd.weight is missing")
        counts = (self.layers, self.hidden_size, self.ffn_size, self.heads, self.kv_heads, self.head_size)
        if min(counts) < 1 or self.heads % self.kv_heads or self.head_size % 2:
            raise file.error("its layer, head and width counts do not fit together")
        if not 1 < self.context_length <= _MAX_CONTEXT:
            raise file.error(f"its context length is {self.context_length:,}")
        if not (0 < self.rms_epsilon < 1 and 0 < self.rope_base < float("inf")):
            raise file.error("its epsilon or rotation base is out of range")
        if file.integer("llama.rope.dimension_count", self.head_size) != self.head_size:
            raise file.error("it rotates only a part of each head, which is not supported")
        if file.integer("llama.attention.value_length", self.head_size) != self.head_size:
            raise file.error("its value heads differ in size from its key heads, which is not supported")
        scaling = file.text("llama.rope.scaling.type", "none")
        if scaling != "none":
            raise file.error(f"its rotation is scaled in the way called {shown(scaling)}, which is not supported")
