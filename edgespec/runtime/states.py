"""Hidden states of every cached position, for heads to read, where the model leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespec.runtime.memory import Memory
from edgespec.runtime.small_graph import Nodes, SmallGraph


class HiddenStates:
    """[capacity, size] of `dtype` in `memory`. Each pass writes its rows into their places, so a rewind costs nothing;
    nothing is fetched until somebody reads."""

    def __init__(self, memory: Memory, capacity: int, size: int, dtype: np.dtype[Any]) -> None:
        self._memory, self._size, self._dtype = memory, size, dtype
        self._host = np.zeros((capacity, size), dtype)
        self._value = memory.place(self._host)
        self._fetching: SmallGraph | None = None
        if memory.apart:
            self._host = self._host[:0]
            shape = [1, "rows", size]
            copy = [("Identity", ["there"], ["here"], {})]
            nodes = Nodes({"there": (dtype, shape)}, {"here": (dtype, shape)}, copy)
            self._fetching = SmallGraph(nodes, memory)

    def bind(self, binding: Any, past: int, rows: int) -> None:
        """Make `binding` write the states of `rows` positions behind `past` ones."""
        shape = [1, rows, self._size]
        self._memory.bind_output(binding, "hidden_states", self._value, self._dtype, shape, self._skip(past))

    def read(self, start: int, end: int) -> NDArray[np.float32]:
        """Those of these positions, float32 [end - start, size]. Raises: GenerationError."""
        if self._fetching is None:
            return self._host[start:end].astype(np.float32, copy=False)
        rows = np.zeros((1, end - start, self._size), self._dtype)
        if end > start:
            self.show(self._fetching.binding, "there", start, end)
            self._fetching.run({}, {"here": rows})
        return rows[0].astype(np.float32)

    def gather(self, start: int, positions: Sequence[int]) -> None:
        """As `SharedCache.gather`."""
        self._host[start : start + len(positions)] = self._host[list(positions)]

    def lie_in(self, memory: Memory, dtype: np.dtype[Any]) -> bool:
        """Whether a session whose tensors are there, of that type, can read them where they are."""
        here = self._memory
        return (here.device, here.apart, self._dtype) == (memory.device, memory.apart, dtype)

    def show(self, binding: Any, name: str, start: int, end: int) -> None:
        """Make `binding` read those of these positions where they are."""
        shape = [1, end - start, self._size]
        self._memory.bind_input(binding, name, self._value, self._dtype, shape, self._skip(start))

    def _skip(self, positions: int) -> int:
        return positions * self._size * self._dtype.itemsize


@dataclass(frozen=True, slots=True)
class StateRows:
    """The states of the positions from `start` to `end`, wherever they are; valid until the next pass."""

    states: HiddenStates
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def read(self) -> NDArray[np.float32]:
        """float32 [rows, size], in the host's memory. Raises: GenerationError."""
        return self.states.read(self.start, self.end)

    def bind(self, binding: Any, name: str, memory: Memory, dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """Make the input `name` of a session in `memory` read them, without a copy if they lie there. Returns what has
        to live until that session has run, if anything. Raises: GenerationError."""
        if self.states.lie_in(memory, dtype):
            self.states.show(binding, name, self.start, self.end)
            return None
        rows = self.read().astype(dtype, copy=False)
        memory.send(binding, name, rows, [1, *rows.shape])
        return rows
