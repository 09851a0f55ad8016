"""Rotary positions (Su et al. 2021, arXiv:2104.09864): how fast the pairs of a head turn, and tables of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from edgespec.graph.config import Rotary

_CHUNK = 8192
"""Positions of a table computed at a time."""


def frequencies(base: float, size: int) -> NDArray[np.float64]:
    """Radians per position for each pair of `size` values, [size / 2]."""
    return base ** (-np.arange(0, size, 2) / size)


def table_chunks(
    rotary: Rotary, context_length: int, function: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Iterator[NDArray[np.float32]]:
    """The table that `function` (np.cos or np.sin) makes, float32 [some positions, pairs] at a time: for LongRoPE all
    positions of the short context, then all of the long one; otherwise all positions once."""
    if has_long_table(rotary, context_length):
        yield from _chunks(rotary.frequencies, rotary.short_context, rotary.magnitude, function)
        yield from _chunks(rotary.long_frequencies, context_length, rotary.magnitude, function)
    else:
        yield from _chunks(rotary.frequencies, context_length, rotary.magnitude, function)


def table_rows(rotary: Rotary, context_length: int) -> int:
    return context_length + (rotary.short_context if has_long_table(rotary, context_length) else 0)


def has_long_table(rotary: Rotary, context_length: int) -> bool:
    return bool(rotary.long_frequencies) and context_length > rotary.short_context


def _chunks(
    turns: tuple[float, ...],
    positions: int,
    magnitude: float,
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> Iterator[NDArray[np.float32]]:
    for start in range(0, positions, _CHUNK):
        angles = np.outer(np.arange(start, min(start + _CHUNK, positions)), turns)
        yield (function(angles) * magnitude).astype(np.float32)
