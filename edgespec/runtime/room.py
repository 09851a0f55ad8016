"""What a model takes of memory, counted before it is loaded, and what there is."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

import psutil

from edgespec.runtime.cuda import free_memory, shares_memory
from edgespec.runtime.device import DeviceKind
from edgespec.runtime.onnx_nodes import consumers, graph_inputs, operators_and_files

_ITEM_BYTES: Final = {1: 4, 2: 1, 3: 1, 10: 2, 16: 2}
"""By TensorProto.DataType: float32, uint8, int8, float16, bfloat16."""
_WORKSPACE: Final[dict[DeviceKind, int]] = {"cpu": 64 << 20, "cuda": 512 << 20}
"""Bytes for what a pass computes with; on CUDA also for what its libraries and the arena keep."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a model takes: weights, workspace, and its cache for each position."""

    weights: int
    workspace: int
    position: int

    def total(self, positions: int) -> int:
        return self.weights + self.workspace + self.position * positions

    def positions_within(self, available: int) -> int:
        """How many positions there is room for beside the weights."""
        return max(available - self.weights - self.workspace, 0) // max(self.position, 1)


def weights_of(graph: Path) -> int:
    """Bytes of a graph and of the files that it refers to. Raises: ModelError if it is no ONNX model."""
    files = {graph, *(graph.parent / name for name in operators_and_files(graph)[1])}
    return sum(file.stat().st_size for file in files if file.is_file())


def needs_of(graph: Path, weights: int, device: DeviceKind, head_size: int | None = None) -> Needs:
    """What a graph with so many bytes of weights takes, read from its file; `head_size` as in `read_graph_io`.

    Raises: ModelError if it is no ONNX model.
    """
    position, past_key = 0, ""
    for name, (element, shape) in graph_inputs(graph).items():
        if name.startswith("past_key_values.") and len(shape) == 4:
            _, heads, _, size = shape
            position += prod((heads or 1, size or head_size or 1, _ITEM_BYTES.get(element, 4)))
            past_key = past_key or name
    if past_key and consumers(graph, past_key) != {"GroupQueryAttention"}:
        position *= 2  # growing: one buffer to read, one to write
    return Needs(weights, _WORKSPACE[device], position)


def available_memory(device: DeviceKind) -> int | None:
    """Bytes that could be had now; None where nobody says. A GPU that computes in the processor's memory has what the
    processor has, once: its driver counts what files are cached as taken."""
    if device == "cuda" and not shares_memory():
        found = free_memory()
        return found[0] if found else None
    return psutil.virtual_memory().available


def same_memory(a: DeviceKind, b: DeviceKind) -> bool:
    """Whether what one of the devices takes is lost to the other."""
    return a == b or shares_memory()
