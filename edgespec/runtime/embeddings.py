"""The embeddings of a graph of edgespec's own, for a head that shares them: rows read from the file, on the host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgespec.errors import ModelError
from edgespec.runtime.onnx_nodes import stored_tensors

_BLOCK: Final = 32
_ZERO_POINT: Final = np.float32(128)


class EmbeddingTable:
    """The embeddings of one of our own graphs, mapped: int8 in blocks of 32, where byte b of a block with scale s is
    (b - 128) * s (see graph.quantize)."""

    def __init__(self, graph: Path, width: int) -> None:
        """width: floats of an embedding. Raises: ModelError if the graph keeps them in another way."""
        weights, scales = stored_bytes(graph, "embedding.weight", "embedding.scales")
        scale = len(scales) * _BLOCK // max(len(weights), 1)  # bytes of one: float32, or float16 for CUDA
        if (
            width % _BLOCK
            or len(weights) % width
            or scale not in (2, 4)
            or len(weights) * scale != len(scales) * _BLOCK
        ):
            raise ModelError(f"{graph} has no embeddings that a head could share; pull the model again.")
        self._bytes = weights.reshape(-1, width // _BLOCK, _BLOCK)
        self._scales = scales.view(f"<f{scale}").reshape(-1, width // _BLOCK, 1)

    def rows(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 [len(ids), width]."""
        at = list(ids)
        scales = self._scales[at].astype(np.float32, copy=False)
        return ((self._bytes[at].astype(np.float32) - _ZERO_POINT) * scales).reshape(len(at), -1)


def stored_bytes(graph: Path, *names: str) -> list[NDArray[np.uint8]]:
    """The bytes of each of these weights, mapped; none of one that is not in a file of its own."""
    found = stored_tensors(graph, *names)
    places = [found.get(name, ("", 0, 0)) for name in names]
    return [
        np.memmap(graph.parent / file, np.uint8, "r", start, (size,)) if size else np.zeros(0, np.uint8)
        for file, start, size in places
    ]
