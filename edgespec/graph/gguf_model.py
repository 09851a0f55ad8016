"""The tensors of a GGUF file by canonical names, which are its own but for what it stacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edgespec.errors import ModelError
from edgespec.graph.config import DecoderConfig
from edgespec.graph.gguf_families import INTERLEAVED, ROTARY_TENSORS
from edgespec.graph.gguf_reader import GGUFFile, shown
from edgespec.graph.quantize import Rows

_PHI3_STACKS: Final = {
    "attn_q": ("attn_qkv", 0),
    "attn_k": ("attn_qkv", 1),
    "attn_v": ("attn_qkv", 2),
    "ffn_gate": ("ffn_up", 0),
    "ffn_up": ("ffn_up", 1),
}
"""In which tensor a part is, and how many parts lie before it there."""


class GGUFWeights:
    """The `WeightSource` of a GGUF file. Its norm gains are what multiplies: Gemma's have their one added."""

    def __init__(self, file: GGUFFile, config: DecoderConfig) -> None:
        """Raises: ModelError if the file has tensors whose part in the model is not known."""
        self._file, self._config, self._shapes = file, config, config.tensors()
        interleaved = config.architecture in INTERLEAVED
        self._interleaved = {"attn_q": config.heads, "attn_k": config.kv_heads} if interleaved else {}
        known = {self._place(name)[0] for name in self._shapes} | ROTARY_TENSORS
        for name in file.tensors:
            if name not in known:
                raise file.error(
                    f"it has a tensor {shown(name)}, which {config.architecture} models of its kind do not have"
                )

    def error(self, cause: str) -> ModelError:
        return self._file.error(cause)

    def rows(self, name: str) -> Rows:
        shape = self._shapes[name]
        stored, start, count = self._place(name)
        rows = Rows.of(self._file.tensor(stored, count, *shape[1:]))
        rows = replace(rows, data=rows.data[start : start + shape[0]]) if count != shape[0] else rows
        # llama.cpp's RoPE turns neighbouring rows of a head together: such files keep attn_q and attn_k in that order.
        heads = self._interleaved.get(name.split(".")[-2])
        return rows.interleaved_to_halves(heads) if heads else rows

    def _place(self, name: str) -> tuple[str, int, int]:
        """The tensor that `name` is stored in, its first row there, and how many rows that tensor has."""
        config, size = self._config, self._shapes[name][0]
        *layer, part, kind = name.split(".")
        if config.architecture != "phi3" or part not in _PHI3_STACKS:
            return name, 0, size
        stack, before = _PHI3_STACKS[part]
        attention = stack == "attn_qkv"
        sizes = (config.query_size, config.key_size, config.key_size) if attention else (config.ffn_size,) * 2
        return ".".join([*layer, stack, kind]), sum(sizes[:before]), sum(sizes)
