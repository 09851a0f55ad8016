"""What is done with logits and caches where they are: tiny graphs, so that whole rows need not cross the bus.

Only operators that every provider has, in float32 whatever the model computes in. Shapes: R rows, W the width of the
graph's vocabulary, V the tokenizer's, which is not larger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgespec.errors import GenerationError
from edgespec.runtime.memory import Memory
from edgespec.runtime.small_graph import Nodes, SmallGraph, Tensor

Redo = Callable[[GenerationError], NDArray[np.float32]]
"""Computes the rows of a pass again, in the host's memory, float32 [rows, V], after that error."""

Found = TypeVar("Found")

_FAR: Final = np.float32(2.0**24)
"""Beyond every token id, and with them among the whole numbers that float32 holds."""


class Tail:
    """The logits of passes, [1, capacity, W] of `dtype`, kept in `memory`."""

    def __init__(self, memory: Memory, width: int, vocab_size: int, dtype: np.dtype[Any]) -> None:
        self.vocab_size = vocab_size
        self._memory, self._width, self._dtype = memory, width, dtype
        self._best, self._top, self._row = (SmallGraph(nodes, memory) for nodes in tail_nodes(dtype, width, vocab_size))
        self._capacity = 0
        self._logits = memory.place(np.zeros(1, dtype))
        self._shown: dict[SmallGraph, tuple[Any, int]] = {}
        self._tokens, self._scores = np.zeros((1, 0), np.int64), np.zeros((1, 0), np.float32)

    def bind(self, binding: Any, rows: int) -> None:
        """Make `binding` write the logits of so many rows."""
        if rows > self._capacity:
            self._capacity, self._logits = rows, self._memory.place(np.zeros(rows * self._width, self._dtype))
        self._memory.bind_output(binding, "logits", self._logits, self._dtype, [1, rows, self._width])

    def best(self, rows: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """For each of the first `rows`, the likeliest token, the lowest id among equals, and its score; valid until the
        next call."""
        if self._tokens.size != rows:
            self._tokens, self._scores = np.zeros((1, rows), np.int64), np.zeros((1, rows), np.float32)
        self._run(self._best, rows, {}, {"tokens": self._tokens, "scores": self._scores})
        return self._tokens[0], self._scores[0]

    def top(self, rows: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """For each of the first `rows`, the `count` likeliest tokens and their scores, falling: [rows, count]."""
        tokens, scores = np.zeros((1, rows, count), np.int64), np.zeros((1, rows, count), np.float32)
        self._run(self._top, rows, {"count": np.array([count])}, {"tokens": tokens, "scores": scores})
        return tokens[0], scores[0]

    def whole(self, rows: int, row: int) -> NDArray[np.float32]:
        """Number `row` of the first `rows`: float32 [V]."""
        scores = np.zeros((1, 1, self.vocab_size), self._dtype)
        self._run(self._row, rows, {"row": np.array([row])}, {"scores": scores})
        return scores[0, 0].astype(np.float32, copy=False)

    def _run(
        self, graph: SmallGraph, rows: int, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> None:
        if self._shown.get(graph) != (self._logits, rows):
            self._memory.bind_input(graph.binding, "logits", self._logits, self._dtype, [1, rows, self._width])
            self._shown[graph] = self._logits, rows
        graph.run(inputs, outputs)


class TailRows:
    """The rows of one pass from number `first` of `rows` on: the RemoteLogits of decoding.remote."""

    def __init__(self, tail: Tail, first: int, rows: int, redo: Redo) -> None:
        self.vocab_size = tail.vocab_size
        self._tail, self._first, self._rows, self._redo = tail, first, rows, redo
        self._host: NDArray[np.float32] | None = None
        self._best: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None
        self._top: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None

    def best(self, row: int) -> tuple[int, float]:
        if self._best is None:
            self._best = self._ask(partial(self._tail.best, self._rows))
        if self._best is None:
            scores = _unusable_first(self.whole(row))
            return int(scores.argmax()), float(scores.max())
        tokens, scores = self._best
        return int(tokens[self._first + row]), float(scores[self._first + row])

    def top(self, row: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        if self._top is None or self._top[0].shape[1] != count:
            self._top = self._ask(partial(self._tail.top, self._rows, count))
        if self._top is None:
            scores = _unusable_first(self.whole(row))
            ids = np.argsort(-scores, kind="stable")[:count]
            return ids, scores[ids]
        ids, scores = self._top
        return ids[self._first + row], scores[self._first + row]

    def whole(self, row: int) -> NDArray[np.float32]:
        found = self._ask(partial(self._tail.whole, self._rows, self._first + row))
        if found is not None:
            return found
        assert self._host is not None  # that is why nothing was found
        return self._host[row]

    def _ask(self, question: Callable[[], Found]) -> Found | None:
        """What the device answers; None if it has failed, now or before, and the rows are in the host's memory."""
        if self._host is None:
            try:
                return question()
            except GenerationError as error:
                self._host = self._redo(error)
        return None

    def all(self) -> NDArray[np.float32]:
        """Every row, one copy each: float32 [rows, V]."""
        return np.stack([self.whole(row) for row in range(self._rows - self._first)])


def tail_nodes(dtype: np.dtype[Any], width: int, vocab_size: int) -> tuple[Nodes, Nodes, Nodes]:
    """logits [1,R,W] -> the best token of each row; its likeliest ones; one row."""
    logits: dict[str, Tensor] = {"logits": (dtype, [1, "rows", width])}
    return _best_nodes(logits, vocab_size), _top_nodes(logits, vocab_size), _row_nodes(logits, vocab_size)


def first_positions(dtype: np.dtype[Any]) -> Nodes:
    """past [1, heads, positions, size] -> kept: its first `length`, int64 [1], positions."""
    return Nodes(
        {"past": (dtype, [1, "heads", "positions", "size"]), "length": (np.int64, [1])},
        {"kept": (dtype, [1, "heads", "kept_positions", "size"])},
        [("Slice", ["past", "start", "length", "axis"], ["kept"], {})],
        {"start": np.array([0]), "axis": np.array([2])},
    )


def _usable(vocab_size: int) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    """logits -> x [1,R,V] float32: without the columns that are no tokens, and with +Inf for NaN, which no operator
    is bound to find the largest."""
    nodes = [
        ("Slice", ["logits", "start", "end", "axis"], ["cut"], {}),
        ("Cast", ["cut"], ["floats"], {"to": 1}),
        ("IsNaN", ["floats"], ["unusable"], {}),
        ("Where", ["unusable", "infinity", "floats"], ["x"], {}),
    ]
    ends = {"start": np.array([0]), "end": np.array([vocab_size]), "axis": np.array([2])}
    return nodes, {**ends, "infinity": np.array(np.inf, np.float32)}


def _best_nodes(logits: Mapping[str, Tensor], vocab_size: int) -> Nodes:
    """What TopK and ArgMax take among equals is left open: here it is the least of their ids. TopK finds the extremes,
    because ReduceMax and ReduceMin on CUDA are cuDNN's, and nothing else here needs that library."""
    nodes, constants = _usable(vocab_size)
    nodes += [
        ("TopK", ["x", "one"], ["peak", "a_best_id"], {"axis": 2}),
        ("Equal", ["x", "peak"], ["is_best"], {}),
        ("Where", ["is_best", "ids", "far"], ["best_ids"], {}),
        ("TopK", ["best_ids", "one"], ["least", "its_place"], {"axis": 2, "largest": 0}),
        ("Squeeze", ["least", "axis"], ["least_ids"], {}),
        ("Cast", ["least_ids"], ["tokens"], {"to": 7}),
        ("Squeeze", ["peak", "axis"], ["scores"], {}),
    ]
    constants |= {"ids": np.arange(vocab_size, dtype=np.float32), "far": np.array(_FAR), "one": np.array([1])}
    return Nodes(logits, {"tokens": (np.int64, [1, "rows"]), "scores": (np.float32, [1, "rows"])}, nodes, constants)


def _top_nodes(logits: Mapping[str, Tensor], vocab_size: int) -> Nodes:
    nodes, constants = _usable(vocab_size)
    nodes.append(("TopK", ["x", "count"], ["scores", "tokens"], {"axis": 2}))
    shape = [1, "rows", "wanted"]
    outputs: dict[str, Tensor] = {"tokens": (np.int64, shape), "scores": (np.float32, shape)}
    return Nodes({**logits, "count": (np.int64, [1])}, outputs, nodes, constants)


def _row_nodes(logits: Mapping[str, Tensor], vocab_size: int) -> Nodes:
    """In the type that the model gives: half the bytes for float16."""
    dtype, _ = logits["logits"]
    nodes = [
        ("Gather", ["logits", "row"], ["one"], {"axis": 1}),
        ("Slice", ["one", "start", "end", "axis"], ["scores"], {}),
    ]
    constants = {"start": np.array([0]), "end": np.array([vocab_size]), "axis": np.array([2])}
    return Nodes({**logits, "row": (np.int64, [1])}, {"scores": (dtype, [1, 1, vocab_size])}, nodes, constants)


def _unusable_first(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.isnan(scores), np.float32(np.inf), scores)
