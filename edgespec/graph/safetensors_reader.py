"""Reading safetensors files. Nothing a header declares is believed before it is checked, nothing in it is executed.

The layout (huggingface/safetensors, its README): eight bytes with the header's length, little-endian; the header, a
JSON object {name: {dtype, shape, data_offsets}}; the data, row-major and little-endian.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from edgespec.errors import ModelError
from edgespec.graph.gguf_reader import Tensor, shown

_MAX_HEADER: Final = 1 << 24
"""Bytes. A tensor takes about a hundred, and the largest models have some thousands in a file."""
_MAX_DIMENSIONS: Final = 8
_TYPES: Final = {
    "F32": GGMLQuantizationType.F32,
    "F16": GGMLQuantizationType.F16,
    "BF16": GGMLQuantizationType.BF16,
}
_INTEGERS: Final = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8")}
_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8}


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a tensor lies: bytes `start` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class SafetensorsFile:
    """The tensors of one file, mapped. Iterating gives their names."""

    def __init__(self, path: Path) -> None:
        """Raises: ModelError if the file is missing, damaged, or declares what it does not hold."""
        self.path = path
        if not path.is_file():
            raise ModelError(f"{path} is not a file; fetch or copy the whole checkpoint.")
        size = path.stat().st_size
        if size < 8:
            raise self._damaged("it is empty or ends within its header")
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self._entries = self._header(size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def tensor(self, name: str, *shape: int) -> Tensor:
        """The tensor of that name, which must be there. Raises: ModelError unless it has `shape` and holds floats."""
        entry = self._entries[name]
        if entry.dtype not in _TYPES:
            raise self._unusable(f"the tensor {shown(name)} is of type {shown(entry.dtype)}, and only floats are read")
        if entry.shape != shape:
            raise self._unusable(f"the tensor {shown(name)} has shape {list(entry.shape)} instead of {list(shape)}")
        rows = self._bytes[entry.start : entry.end].reshape(math.prod(shape[:-1]), -1)
        return Tensor(self.path.name, name, shape, _TYPES[entry.dtype], rows)

    def integers(self, name: str, count: int) -> NDArray[np.int64]:
        """The list of `count` integers of that name, which must be there, int64 [count]. Raises: ModelError if it is
        something else."""
        entry = self._entries[name]
        if entry.dtype not in _INTEGERS or entry.shape != (count,):
            raise self._unusable(f"the tensor {shown(name)} is no list of {count} integers")
        return self._bytes[entry.start : entry.end].view(_INTEGERS[entry.dtype]).astype(np.int64)

    def let_go(self) -> None:
        """Give what was read back to the system, so that memory does not grow with the file."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _header(self, size: int) -> dict[str, _Entry]:
        length = int.from_bytes(self._map[:8], "little")
        if length > size - 8:
            raise self._damaged(f"its header would need {length:,} bytes where {size - 8:,} are left")
        if length > _MAX_HEADER:
            raise self._damaged(f"its header takes {length:,} bytes, more than the {_MAX_HEADER:,} that are read")
        try:
            header = json.loads(self._map[8 : 8 + length], object_pairs_hook=self._unique)
        except (ValueError, RecursionError):
            raise self._damaged("its header is not JSON") from None
        if not isinstance(header, dict):
            raise self._damaged("its header is no JSON object")
        entries = cast(dict[str, Any], header)
        return {name: self._entry(name, e, 8 + length, size) for name, e in entries.items() if name != "__metadata__"}

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise self._damaged("a name occurs twice in its header")
        return found

    def _entry(self, name: str, value: Any, data: int, size: int) -> _Entry:
        fields = cast(dict[str, Any], value) if isinstance(value, dict) else {}
        dtype, shape, offsets = fields.get("dtype"), _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
        if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
            raise self._damaged(f"it does not describe the tensor {shown(name)}")
        start, end = data + offsets[0], data + offsets[1]
        if len(shape) > _MAX_DIMENSIONS or not data <= start <= end <= size:
            raise self._damaged(f"the tensor {shown(name)} should end at byte {end:,} of {size:,}")
        if dtype in _BYTES and math.prod(shape) * _BYTES[dtype] != end - start:
            raise self._damaged(f"the tensor {shown(name)} has {end - start:,} bytes for shape {shape}")
        return _Entry(dtype, tuple(shape), start, end)

    def _damaged(self, cause: str) -> ModelError:
        return ModelError(f"{self.path.name} is not an intact safetensors file: {cause}; fetch or copy it again.")

    def _unusable(self, cause: str) -> ModelError:
        return ModelError(f"{self.path.name} cannot be converted: {cause}; use another model.")


def _counts(value: Any) -> list[int] | None:
    """The value if it is a list of integers from 0 on."""
    if not isinstance(value, list):
        return None
    items = cast(list[Any], value)
    return items if all(type(item) is int and 0 <= item < 1 << 53 for item in items) else None
