"""A model in a GGUF file: its metadata as a description, its tensors by canonical names."""

from __future__ import annotations

import numpy as np

from edgespec.errors import ModelError
from edgespec.graph.config import DecoderConfig, LayerConfig, Rotary
from edgespec.graph.gguf_reader import GGUFFile, shown
from edgespec.graph.quantize import Rows, float_chunks
from edgespec.graph.rotary import frequencies


def read_config(file: GGUFFile) -> DecoderConfig:
    """Raises: ModelError for another architecture, a missing or impossible value, or a feature not built here."""
    architecture = file.text("general.architecture")
    if architecture != "llama":
        raise ModelError(
            f"{file.path.name} holds a model of the {shown(architecture)} architecture, "
            "and only llama is supported; use a GGUF file of a llama model."
        )
    hidden_size, heads = file.integer("llama.embedding_length"), file.integer("llama.attention.head_count")
    head_size = file.integer("llama.attention.key_length", hidden_size // heads if heads > 0 else 0)
    embedding, layers = file.tensors.get("token_embd.weight"), file.integer("llama.block_count")
    if embedding is None:
        raise file.error("the tensor token_embd.weight is missing")
    if layers > len(file.tensors):
        raise file.error(f"it has too few tensors for {layers:,} layers")
    config = DecoderConfig(
        architecture=architecture,
        layers=(LayerConfig(_rotary(file, head_size)),) * layers,
        hidden_size=hidden_size,
        ffn_size=file.integer("llama.feed_forward_length"),
        heads=heads,
        kv_heads=file.integer("llama.attention.head_count_kv", heads),
        head_size=head_size,
        context_length=file.integer("llama.context_length"),
        vocab_size=embedding.shape[0],
        rms_epsilon=file.number("llama.attention.layer_norm_rms_epsilon"),
        attention_scale=head_size**-0.5 if head_size > 0 else 0.0,
        tied="output.weight" not in file.tensors,
    )
    config.check(file.error)
    _refuse_unknown(file, head_size)
    return config


class GGUFWeights:
    """The `WeightSource` of a GGUF file."""

    def __init__(self, file: GGUFFile, config: DecoderConfig) -> None:
        """Raises: ModelError if the file has tensors whose part in the model is not known."""
        self._file, self._shapes = file, config.tensors()
        self._interleaved = {"attn_q.weight": config.heads, "attn_k.weight": config.kv_heads}
        for name in file.tensors:
            if name not in self._shapes and name != "rope_freqs.weight":
                raise file.error(
                    f"it has a tensor {shown(name)}, which {config.architecture} models of its kind do not have"
                )

    def error(self, cause: str) -> ModelError:
        return self._file.error(cause)

    def rows(self, name: str) -> Rows:
        rows = Rows.of(self._file.tensor(name, *self._shapes[name]))
        # llama.cpp's RoPE turns neighbouring rows of a head together: such files keep attn_q and attn_k in that order.
        heads = self._interleaved.get(name.split(".", 2)[-1])
        return rows.interleaved_to_halves(heads) if heads else rows


def _refuse_unknown(file: GGUFFile, head_size: int) -> None:
    if file.integer("llama.rope.dimension_count", head_size) != head_size:
        raise file.error("it rotates only a part of each head, which is not supported")
    if file.integer("llama.attention.value_length", head_size) != head_size:
        raise file.error("its value heads differ in size from its key heads, which is not supported")
    scaling = file.text("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise file.error(f"its rotation is scaled in the way called {shown(scaling)}, which is not supported")


def _rotary(file: GGUFFile, head_size: int) -> Rotary:
    """rope_freqs.weight, if present, divides the frequencies."""
    base = file.number("llama.rope.freq_base", 10000.0)
    if not 0 < base < float("inf"):
        raise file.error("its rotation base is out of range")
    turns = frequencies(base, head_size)
    if "rope_freqs.weight" in file.tensors:
        (divisors,) = np.concatenate(list(float_chunks([Rows.of(file.tensor("rope_freqs.weight", head_size // 2))])))
        if not (divisors > 0).all():
            raise file.error("the tensor rope_freqs.weight has values that are not positive")
        turns = turns / divisors
    return Rotary(tuple(turns.tolist()))
