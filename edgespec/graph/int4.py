"""Rows of weights as int4 in blocks of 32: rounded to it, or carried over from a file that has four bits already.

int4 here is what `MatMulNBits` of ONNX Runtime reads with bits=4 and no zero points: a code c from 0 to 15 and its
block's scale s stand for (c - 8) * s; two codes share a byte, the first in its lower half.

GGUF's Q4_1 and Q4_K stand for c * s + m, with a least value m for each block. That is (c - 8) * s and, for each block,
m + 8s times the sum of the inputs that meet it: one more column per block, over inputs that are the sums of 32. Such
columns get eight bits, as two int4 columns over the same sums, so that the fast kernel multiplies them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
from gguf.constants import GGMLQuantizationType as Type
from gguf.quants import Q4_K
from numpy.typing import NDArray

from edgespec.graph.quantize import BLOCK, Rows, check_finite, dequantized, inverse, raw_chunks, require_blocks

Codes = NDArray[np.uint8]
Scales = NDArray[np.float32]

_ZERO: Final = 8
_STEPS: Final = np.concatenate([np.linspace(-9.5, -5.5, 12), np.linspace(5.5, 8.0, 6)]).astype(np.float32)
"""Where the block's largest weight is put, in steps from zero; -8 is the lowest code, so most are negative."""
_SILENT: Final = 1e-4
_DIGIT_LIMIT: Final = 119
"""The largest number that two digits from -8 to 7 can write in either sign: 7 * 16 + 7."""


def int4_chunks(parts: Sequence[Rows]) -> Iterator[tuple[Codes, Scales]]:
    """The weights of `parts` rounded: bytes uint8 [some rows, width / 2], scales float32 [some rows, width / 32].

    Of several scales for a block, each then fitted to its codes by least squares, the one with the least squared error;
    errors count by the energy of what they multiply, where `Rows.energy` is given.

    Raises: ModelError as `int8_chunks`.
    """
    for part, raw in raw_chunks(parts):
        require_blocks(part)
        codes, scales = _round(dequantized(part, raw), part.energy)
        yield _packed(codes, len(raw)), scales.reshape(len(raw), -1)


def has_four_bits(parts: Sequence[Rows]) -> bool:
    """Whether `carried_chunks` can carry all of `parts` over."""
    return all(part.type in _GRIDS and part.factors is None for part in parts)


def has_least_values(parts: Sequence[Rows]) -> bool:
    """Whether carrying `parts` over takes columns for sums."""
    return any(part.type != Type.Q4_0 for part in parts)


def sum_columns(width: int) -> int:
    """How many columns there are for each digit of the least values: one per block, filled up to whole blocks."""
    return -(-width // BLOCK**2) * BLOCK


def carried_chunks(parts: Sequence[Rows]) -> Iterator[tuple[Codes, Scales]]:
    """The file's own codes and scales, as `int4_chunks`. If `has_least_values`, rows are wider by two digits of
    `sum_columns` each, the upper one first.

    Raises: ModelError for scales that are NaN or infinite.
    """
    wide = has_least_values(parts)
    for part, raw in raw_chunks(parts):
        with np.errstate(all="ignore"):  # a damaged scale is found below
            codes, scales, least = _GRIDS[part.type](np.ascontiguousarray(raw))
        check_finite(part, scales)
        check_finite(part, least)
        rows = len(raw)
        packed, scales = _packed(codes, rows), scales.reshape(rows, -1)
        if wide:
            digits, digit_scales = _digits(least.reshape(rows, -1) + _ZERO * scales)
            packed, scales = np.hstack([packed, digits]), np.hstack([scales, digit_scales])
        yield packed, scales


def _round(weights: NDArray[np.float32], energy: NDArray[np.float32] | None) -> tuple[Codes, Scales]:
    """Codes [blocks, 32] and scales [blocks]."""
    blocks = weights.reshape(-1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    relative = blocks * inverse(largest)  # from -1 to 1: nothing below can overflow
    counts = np.broadcast_to(_counts(energy, weights.shape[1]), (len(weights), weights.shape[1])).reshape(-1, BLOCK)
    weighted = relative * counts
    scales, most = np.zeros(len(blocks), np.float32), np.zeros(len(blocks), np.float32)
    for step in _STEPS:
        steps = np.clip(np.rint(relative * step), -_ZERO, _ZERO - 1)
        product = np.einsum("ij,ij->i", weighted, steps)
        fitted = product * inverse(np.einsum("ij,ij,ij->i", counts, steps, steps))
        gained = product * fitted  # how much less the squared error is than that of zeros
        better = gained > most
        most[better], scales[better] = gained[better], fitted[better]
    codes = np.clip(np.rint(relative * inverse(scales)[:, None]), -_ZERO, _ZERO - 1) + _ZERO
    return codes.astype(np.uint8), scales * largest[:, 0]


def _counts(energy: NDArray[np.float32] | None, width: int) -> NDArray[np.float32]:
    """How much the error of each column counts, [width]; a silent one counts a little, for other texts' sake."""
    if energy is None:
        return np.ones(width, np.float32)
    return energy * inverse(energy.max(keepdims=True)) + np.float32(_SILENT)


def _packed(codes: Codes, rows: int) -> Codes:
    pairs = codes.reshape(rows, -1, 2)
    return np.bitwise_or(pairs[..., 0], np.left_shift(pairs[..., 1], 4), dtype=np.uint8)


def _digits(values: NDArray[np.float32]) -> tuple[Codes, Scales]:
    """Values [rows, blocks] as two digits: bytes [rows, columns], scales [rows, 2 * columns / 32]."""
    rows, blocks = values.shape
    padded = np.zeros((rows, sum_columns(blocks * BLOCK)), np.float32)
    padded[:, :blocks] = values
    groups = padded.reshape(rows, -1, BLOCK)
    scales = np.abs(groups).max(axis=2) / np.float32(_DIGIT_LIMIT)
    numbers = np.rint(groups * inverse(scales)[..., None]).astype(np.int32)
    lower = (numbers + _ZERO) % 16
    upper = (numbers + _ZERO - lower) // 16 + _ZERO
    codes = np.concatenate([upper, lower], axis=1).astype(np.uint8)
    return _packed(codes, rows), np.hstack([16 * scales, scales])


def _q4_0(raw: Codes) -> tuple[Codes, Scales, Scales]:
    blocks = raw.reshape(-1, 2 + BLOCK // 2)
    scales = _float16(blocks[:, :2])
    return _nibbles(blocks[:, 2:]), scales, -_ZERO * scales


def _q4_1(raw: Codes) -> tuple[Codes, Scales, Scales]:
    blocks = raw.reshape(-1, 4 + BLOCK // 2)
    return _nibbles(blocks[:, 4:]), _float16(blocks[:, :2]), _float16(blocks[:, 2:4])


def _q4_k(raw: Codes) -> tuple[Codes, Scales, Scales]:
    """Eight blocks of 32 with scales and least values of six bits, in units of the superblock's two."""
    blocks = raw.reshape(-1, 16 + 128)
    scales, least = Q4_K.get_scale_min(blocks[:, 4:16])
    codes = _nibbles(blocks[:, 16:].reshape(-1, BLOCK), BLOCK)
    return (
        codes,
        (_float16(blocks[:, :2])[:, None] * scales).ravel(),
        (-_float16(blocks[:, 2:4])[:, None] * least).ravel(),
    )


def _nibbles(data: Codes, run: int = BLOCK // 2) -> Codes:
    """The lower halves of `run` bytes, then their upper halves: codes [blocks, 32]."""
    halves = np.bitwise_and(data, 15, dtype=np.uint8), np.right_shift(data, 4, dtype=np.uint8)
    return np.stack(halves, axis=1).reshape(-1, 2, run).reshape(-1, BLOCK)


def _float16(data: Codes) -> Scales:
    return data.copy().view("<f2")[:, 0].astype(np.float32)


_GRIDS: Final[Mapping[Type, Callable[[Codes], tuple[Codes, Scales, Scales]]]] = MappingProxyType(
    {Type.Q4_0: _q4_0, Type.Q4_1: _q4_1, Type.Q4_K: _q4_k}
)
"""Codes [blocks, 32], scales [blocks] and the values of code 0 [blocks]."""
