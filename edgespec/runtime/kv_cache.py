"""KV caches: buffers allocated once, bound once where the graph allows it. `length` lives in the model, not here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgespec.runtime.graph_io import CacheTensor, GraphIO


class KVCache(Protocol):
    """Positions in buffers. A pass reads the first `length` and writes `rows` behind them."""

    def bind(self, binding: ort.IOBinding, length: int, rows: int) -> None:
        """Make `binding` read `length` positions and write `rows` more."""
        ...

    def advance(self, length: int) -> None:
        """The pass succeeded: the cache holds `length` positions now."""
        ...


def make_cache(io: GraphIO, capacity: int) -> KVCache:
    """A cache for `capacity` positions. Pages are touched, and so become resident, only as positions fill."""
    return SharedCache(io.cache, capacity) if io.mode == "shared" else GrowingCache(io, capacity)


class SharedCache:
    """One buffer per tensor, bound as past and present alike; the graph writes in place. Rewind costs nothing."""

    def __init__(self, tensors: Sequence[CacheTensor], capacity: int) -> None:
        self._buffers = [np.zeros(_shape(t, capacity), t.dtype) for t in tensors]
        self._values = [
            (t, ort.OrtValue.ortvalue_from_numpy(buffer)) for t, buffer in zip(tensors, self._buffers, strict=True)
        ]
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
        """Copy these positions to `start` and behind it."""
        for buffer in self._buffers:
            buffer[:, :, start : start + len(positions)] = buffer[:, :, list(positions)]


class GrowingCache:
    """Two flat buffers per tensor that take turns: a pass reads [1, heads, length, size] from one and writes
    [1, heads, length + rows, size] into the other. After a rewind the shorter view is packed anew by the next pass."""

    def __init__(self, io: GraphIO, capacity: int) -> None:
        self._tensors = io.cache
        self._buffers = [[np.zeros(t.kv_heads * capacity * t.head_size, t.dtype) for t in io.cache] for _ in range(2)]
        self._current = 0
        self._packed = 0

    def bind(self, binding: ort.IOBinding, length: int, rows: int) -> None:
        if length < self._packed:
            self._repack(length)
        reads, writes = self._buffers[self._current], self._buffers[1 - self._current]
        for t, past, present in zip(self._tensors, reads, writes, strict=True):
            binding.bind_input(t.past, "cpu", 0, t.dtype, _shape(t, length), past.ctypes.data)
            binding.bind_output(t.present, "cpu", 0, t.dtype, _shape(t, length + rows), present.ctypes.data)

    def advance(self, length: int) -> None:
        self._current = 1 - self._current
        self._packed = length

    def _repack(self, length: int) -> None:
        for t, source, target in zip(self._tensors, *self._ordered(), strict=True):
            _view(target, t, length)[:] = _view(source, t, self._packed)[:, :, :length]
        self.advance(length)

    def _ordered(self) -> tuple[list[NDArray[np.generic]], list[NDArray[np.generic]]]:
        return self._buffers[self._current], self._buffers[1 - self._current]


def _shape(t: CacheTensor, positions: int) -> list[int]:
    return [1, t.kv_heads, positions, t.head_size]


def _view(buffer: NDArray[np.generic], t: CacheTensor, positions: int) -> NDArray[np.generic]:
    return buffer[: t.kv_heads * positions * t.head_size].reshape(_shape(t, positions))
