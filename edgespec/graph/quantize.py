"""Rows of weights out of a file: as float32, or as int8 in blocks of 32.

int8 here is what `MatMulNBits` and `GatherBlockQuantized` of ONNX Runtime read with bits=8 and no zero points: an
unsigned byte b and its block's scale s stand for (b - 128) * s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from edgespec.errors import ModelError
from edgespec.graph.gguf_reader import Tensor

BLOCK: Final = 32
_LIMIT: Final = 127
_TRIALS: Final = 32
_TRIALS_WITHOUT_GRID: Final = 8
"""Scales tried for each block. Floats have no grid, and factors take weights off theirs: more trials gain nothing."""
_FLOATS: Final = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
_CHUNK: Final = 1 << 18
"""Weights held as float32 at a time: they stay in the processor's cache, and memory does not grow with the model."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a weight matrix, one per output, of `width` weights: `data` uint8 [rows, bytes per row], as stored.

    Checkpoints use GGUF's types F32, F16 and BF16. `name` is what a message calls them by. `factors` float32 [width],
    if given, multiply the columns. `energy` float32 [width], if given, is the mean square of what each multiplies.
    `delicate`: they are to be kept more exact than others (equalize.Channels).
    """

    name: str
    type: GGMLQuantizationType
    data: NDArray[np.uint8]
    width: int
    factors: NDArray[np.float32] | None = None
    energy: NDArray[np.float32] | None = None
    delicate: bool = False

    @classmethod
    def of(cls, tensor: Tensor, factors: NDArray[np.float32] | None = None) -> Rows:
        return cls(f"{tensor.name} of {tensor.file}", tensor.type, tensor.data, tensor.shape[-1], factors)

    def interleaved_to_halves(self, heads: int) -> Rows:
        """Undo the row order that GGUF files have in attn_q and attn_k.

        There, neighbouring rows of a head are rotated together (llama.cpp's RoPE); in ONNX Runtime's, row i of a head's
        first half is rotated with row i of its second half.
        """
        order = np.arange(len(self.data)).reshape(heads, -1, 2).swapaxes(1, 2).ravel()
        return replace(self, data=self.data[order])


def float_chunks(parts: Sequence[Rows]) -> Iterator[NDArray[np.float32]]:
    """The weights of `parts`, one below the other, as float32 [some rows, width] at a time.

    Raises: ModelError for an encoding that cannot be read, and for NaN or infinite weights.
    """
    for part, raw in raw_chunks(parts):
        yield dequantized(part, raw)


def int8_chunks(parts: Sequence[Rows]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """The same as int8: bytes uint8 [some rows, width] and scales float32 [some rows, width / 32] at a time.

    Q8_0 is the same format with float16 scales, so without factors its integers and scales are carried over as they
    are. All else is rounded to the nearest step, the scale of a block being the one of 32 (8 with factors) that leaves
    the least squared error. They put the block's largest weight on step 127, 126, ...: a source on a grid of 4 or 5
    bits is met exactly by one of them if its grid goes through zero, and nearly if not.

    Raises: ModelError as `float_chunks`, and for a width that is no multiple of 32.
    """
    for part, raw in raw_chunks(parts):
        require_blocks(part)
        on_grid = part.factors is None and part.type not in _FLOATS
        trials = _TRIALS if on_grid else _TRIALS_WITHOUT_GRID
        exact = part.type == GGMLQuantizationType.Q8_0 and part.factors is None
        packed, scales = _carry_q8_0(part, raw) if exact else _round(dequantized(part, raw), trials)
        yield packed.reshape(len(raw), -1), scales.reshape(len(raw), -1)


def require_blocks(part: Rows) -> None:
    """Raises: ModelError for a width that is no multiple of 32."""
    if part.width % BLOCK:
        raise ModelError(
            f"The rows of {part.name} have {part.width} weights, no multiple of {BLOCK}; use another model."
        )


def raw_chunks(parts: Sequence[Rows]) -> Iterator[tuple[Rows, NDArray[np.uint8]]]:
    """The rows of `parts`, each with some rows' bytes as stored at a time."""
    for part in parts:
        step = max(1, _CHUNK // part.width)
        for start in range(0, len(part.data), step):
            yield part, part.data[start : start + step]


def dequantized(part: Rows, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Some rows' bytes as float32 [rows, width]. Raises: ModelError as `float_chunks`."""
    try:
        with np.errstate(all="ignore"):  # a damaged scale is found below
            weights = dequantize(np.ascontiguousarray(raw), part.type)
    except NotImplementedError:
        raise ModelError(f"The type {part.type.name} of {part.name} cannot be read; use another GGUF file.") from None
    check_finite(part, weights)
    return weights if part.factors is None else weights * part.factors


def _carry_q8_0(part: Rows, raw: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    blocks = np.ascontiguousarray(raw).reshape(-1, 2 + BLOCK)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    check_finite(part, scales)
    return blocks[:, 2:] ^ np.uint8(0x80), scales  # two's complement with the top bit flipped is the value plus 128


def _round(weights: NDArray[np.float32], trials: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    blocks = weights.reshape(-1, BLOCK)
    largest = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
    scales, least = largest / np.float32(_LIMIT), np.full_like(largest, np.inf)
    for end in range(_LIMIT, _LIMIT - trials, -1):
        tried = largest / np.float32(end)
        off = blocks * inverse(tried)[:, None]
        off -= np.rint(off)
        error = np.einsum("ij,ij->i", off, off) / np.float32(end**2)  # relative to the largest weight
        better = error < least
        least[better], scales[better] = error[better], tried[better]
    return (np.rint(blocks * inverse(scales)[:, None]) + 128).astype(np.uint8), scales


def inverse(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / scales, and 0 where that would overflow: blocks of zeros, or of next to nothing, become zeros."""
    return np.divide(1, scales, out=np.zeros_like(scales), where=np.abs(scales) > np.finfo(np.float32).tiny)


def check_finite(part: Rows, values: NDArray[np.float32]) -> None:
    """Raises: ModelError for NaN or infinity."""
    if not np.isfinite(values).all():
        raise ModelError(f"The tensor {part.name} holds NaN or infinite weights; fetch or copy the model again.")
