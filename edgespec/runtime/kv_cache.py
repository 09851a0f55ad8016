"""KV caches: buffers allocated once, bound once where the graph allows it. `length` lives in the model, not here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgespec.runtime.graph_io import CacheTensor, GraphIO
from edgespec.runtime.memory import Memory
from edgespec.runtime.small_graph import SmallGraph
from edgespec.runtime.tail import first_positions


class KVCache(Protocol):
    """Positions in buffers. A pass reads the first `length` and writes `rows` behind them."""

    def bind(self, binding: ort.IOBinding, length: int, rows: int) -> None:
        """Make `binding` read `length` positions and write `rows` more."""
        ...

    def advance(self, length: int) -> None:
        """The pass succeeded: the cache holds `length` positions now."""
        ...


def make_cache(io: GraphIO, capacity: int, memory: Memory) -> KVCache:
    """A cache for `capacity` positions. In the host's memory, pages are touched, and so become resident, only as
    positions fill."""
    return SharedCache(io.cache, capacity, memory) if io.mode == "shared" else GrowingCache(io, capacity, memory)


class SharedCache:
    """One buffer per tensor, bound as past and present alike; the graph writes in place. Rewind costs nothing."""

    def __init__(self, tensors: Sequence[CacheTensor], capacity: int, memory: Memory) -> None:
        self._values: list[tuple[CacheTensor, ort.OrtValue]] = []
        self._buffers: list[NDArray[np.generic]] = []
        for t in tensors:
            buffer = np.zeros(_shape(t, capacity), t.dtype)  # what lies behind the length must be finite
            self._values.append((t, memory.place(buffer)))
            if not memory.apart:
                self._buffers.append(buffer)
        self._bound = False

    def bind(self, binding: ort.IOBinding, length: int, rows: int) -> None:
        if self._bound:
            return
        for t, value in self._values:
            binding.bind_ortvalue_input(t.past, value)
            binding.bind_ortvalue_output(t.present, value)
        self._bound = True

    def advance(self, length: int) -> None:
        """The graph is told the length through the attention mask."""

    def gather(self, start: int, positions: Sequence[int]) -> None:
        """Copy these positions to `start` and behind it. In the host's memory only."""
        for buffer in self._buffers:
            buffer[:, :, start : start + len(positions)] = buffer[:, :, list(positions)]


class GrowingCache:
    """Two flat buffers per tensor that take turns: a pass reads [1, heads, length, size] from one and writes
    [1, heads, length + rows, size] into the other. After a rewind the shorter view is packed anew by the next pass."""

    def __init__(self, io: GraphIO, capacity: int, memory: Memory) -> None:
        self._tensors, self._memory = io.cache, memory
        self._arrays = [[np.zeros(t.kv_heads * capacity * t.head_size, t.dtype) for t in io.cache] for _ in range(2)]
        self._buffers = [[memory.place(array) for array in half] for half in self._arrays]
        self._packing = SmallGraph(first_positions(io.cache[0].dtype), memory) if memory.apart else None
        if memory.apart:
            self._arrays.clear()
        self._current = 0
        self._packed = 0

    def bind(self, binding: ort.IOBinding, length: int, rows: int) -> None:
        if length < self._packed:
            self._repack(length)
        reads, writes = self._buffers[self._current], self._buffers[1 - self._current]
        for t, past, present in zip(self._tensors, reads, writes, strict=True):
            self._memory.bind_input(binding, t.past, past, t.dtype, _shape(t, length))
            self._memory.bind_output(binding, t.present, present, t.dtype, _shape(t, length + rows))

    def advance(self, length: int) -> None:
        self._current = 1 - self._current
        self._packed = length

    def _repack(self, length: int) -> None:
        if self._packing is None:
            source, target = self._arrays[self._current], self._arrays[1 - self._current]
            for t, old, new in zip(self._tensors, source, target, strict=True):
                _view(new, t, length)[:] = _view(old, t, self._packed)[:, :, :length]
        else:
            self._repack_there(self._packing, length)
        self.advance(length)

    def _repack_there(self, packing: SmallGraph, length: int) -> None:
        reads, writes = self._buffers[self._current], self._buffers[1 - self._current]
        for t, old, new in zip(self._tensors, reads, writes, strict=True):
            self._memory.bind_input(packing.binding, "past", old, t.dtype, _shape(t, self._packed))
            self._memory.bind_output(packing.binding, "kept", new, t.dtype, _shape(t, length))
            packing.run({"length": np.array([length])}, {})


def _shape(t: CacheTensor, positions: int) -> list[int]:
    return [1, t.kv_heads, positions, t.head_size]


def _view(buffer: NDArray[np.generic], t: CacheTensor, positions: int) -> NDArray[np.generic]:
    return buffer[: t.kv_heads * positions * t.head_size].reshape(_shape(t, positions))
