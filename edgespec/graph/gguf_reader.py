"""Reading a GGUF file: its metadata, and where its tensors lie. Nothing it declares is believed before it is checked.

The layout is llama.cpp's docs/gguf.md (of the ggml project), versions 2 and 3, little-endian. The `gguf` package has a
reader too; it builds a NumPy array for every token and trusts the sizes that a file declares.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from edgespec.errors import ModelError

_SCALARS: Final = {
    GGUFValueType.UINT8: np.dtype("<u1"),
    GGUFValueType.INT8: np.dtype("<i1"),
    GGUFValueType.UINT16: np.dtype("<u2"),
    GGUFValueType.INT16: np.dtype("<i2"),
    GGUFValueType.UINT32: np.dtype("<u4"),
    GGUFValueType.INT32: np.dtype("<i4"),
    GGUFValueType.UINT64: np.dtype("<u8"),
    GGUFValueType.INT64: np.dtype("<i8"),
    GGUFValueType.FLOAT32: np.dtype("<f4"),
    GGUFValueType.FLOAT64: np.dtype("<f8"),
    GGUFValueType.BOOL: np.dtype("?"),
}
_MAX_DIMENSIONS: Final = 4
_DEFAULT_ALIGNMENT: Final = 32
_SMALLEST_ENTRY: Final = 13
"""Bytes of the shortest metadata entry (empty key, type, one byte); tensor entries are longer."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as stored: `shape` in NumPy's order, rows first; `data` uint8 [rows, bytes per row], mapped."""

    file: str
    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    data: NDArray[np.uint8]


def shown(text: str) -> str:
    """A text of the file's as a message may quote it: short, on one line, nothing that a terminal obeys."""
    return ascii(text[:60])[1:-1]


class GGUFFile:
    """The metadata and tensors of one file. Every accessor raises ModelError, naming the file and the key or tensor."""

    def __init__(self, path: Path) -> None:
        """Raises: ModelError if the file is missing, no GGUF file, damaged, or declares what it does not hold."""
        self.path = path
        if not path.is_file():
            raise ModelError(f"{path} is not a file; give the path of a .gguf file.")
        cursor = _Cursor(path)
        tensor_count, entry_count = cursor.header()
        self.metadata: dict[str, Any] = {}
        for _ in range(entry_count):
            key = cursor.text()
            if key in self.metadata:
                raise cursor.damaged(f"the key {shown(key)} occurs twice")
            self.metadata[key] = cursor.value()
        self.tensors = cursor.tensors(tensor_count, self.integer("general.alignment", _DEFAULT_ALIGNMENT))

    def error(self, cause: str) -> ModelError:
        """What to raise when the file's content cannot be used."""
        return ModelError(f"{self.path.name} cannot be converted: {cause}; use another GGUF file of this model.")

    def integer(self, key: str, default: int | None = None) -> int:
        return self._get(key, int, "an integer", default)

    def number(self, key: str, default: float | None = None) -> float:
        return float(self._get(key, (int, float), "a number", default))

    def text(self, key: str, default: str | None = None) -> str:
        return self._get(key, str, "text", default)

    def texts(self, key: str) -> list[str]:
        values: list[Any] = self._get(key, list, "a list of texts", None)
        return values

    def flag(self, key: str, default: bool) -> bool:
        value = self.metadata.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"the metadata key {key} is not a yes or no")
        return value

    def integers(self, key: str) -> NDArray[Any]:
        return self._array(key, "a list of integers", "iu")

    def numbers(self, key: str) -> NDArray[Any]:
        return self._array(key, "a list of numbers", "f")

    def tensor(self, name: str, *shape: int) -> Tensor:
        """The tensor of that name. Raises: ModelError unless it is there and has `shape`."""
        found = self.tensors.get(name)
        if found is None:
            raise self.error(f"the tensor {name} is missing")
        if found.shape != shape:
            raise self.error(f"the tensor {name} has shape {list(found.shape)} instead of {list(shape)}")
        return found

    def _array(self, key: str, what: str, kinds: str) -> NDArray[Any]:
        values: NDArray[Any] = self._get(key, np.ndarray, what, None)
        if values.dtype.kind not in kinds:
            raise self.error(f"the metadata key {key} is not {what}")
        return values

    def _get(self, key: str, kind: Any, what: str, default: Any) -> Any:
        value = self.metadata.get(key, default)
        if value is None:
            raise self.error(f"the metadata key {key} is missing")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(f"the metadata key {key} is not {what}")
        return value


class _Cursor:
    """A position in the mapped file; every read is checked against its end before anything is allocated."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._size = path.stat().st_size
        if self._size < struct.calcsize("<4sIQQ"):
            raise self.damaged("it is empty or ends within its header")
        self._map: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        self._bytes = self._map.data
        self._at = 0

    def damaged(self, cause: str) -> ModelError:
        return ModelError(f"{self._name} is not an intact GGUF file: {cause}; fetch or copy it again.")

    def header(self) -> tuple[int, int]:
        """How many tensors and metadata entries follow."""
        magic, version, tensor_count, entry_count = self._unpack("<4sIQQ")
        if magic != b"GGUF":
            raise self.damaged("it does not start with GGUF")
        if version & 0xFFFF == 0:
            raise self.damaged("it is big-endian, which is not supported")
        if version not in (2, 3):
            raise self.damaged(f"its version is {version}, and only 2 and 3 are known")
        self._check((tensor_count + entry_count) * _SMALLEST_ENTRY, "its lists of metadata and tensors")
        return tensor_count, entry_count

    def text(self) -> str:
        (length,) = self._unpack("<Q")
        raw = self._take(length, "a text")
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise self.damaged("a text in its metadata is not UTF-8") from None

    def value(self) -> Any:
        """One metadata value: a Python scalar, text, list of texts, or NumPy array of numbers."""
        kind = self._value_type()
        if kind == GGUFValueType.STRING:
            return self.text()
        if kind != GGUFValueType.ARRAY:
            return self._numbers(kind, 1)[0].item()
        kind = self._value_type()
        (count,) = self._unpack("<Q")
        if kind == GGUFValueType.ARRAY:
            raise self.damaged("its metadata holds a list of lists")
        if kind != GGUFValueType.STRING:
            return self._numbers(kind, count)
        self._check(count * 8, "a list of texts")
        return [self.text() for _ in range(count)]

    def tensors(self, count: int, alignment: int) -> dict[str, Tensor]:
        """The tensor list and, behind it, the aligned data."""
        if alignment < 1 or alignment & (alignment - 1):
            raise self.damaged(f"its alignment is {alignment}, which is no power of two")
        infos = [self._tensor_info() for _ in range(count)]
        start = -(-self._at // alignment) * alignment
        tensors: dict[str, Tensor] = {}
        for name, shape, kind, offset in infos:
            if name in tensors:
                raise self.damaged(f"the tensor {shown(name)} occurs twice")
            tensors[name] = Tensor(self._name, name, shape, kind, self._data(name, shape, kind, start + offset))
        return tensors

    def _tensor_info(self) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
        name = self.text()
        (dimensions,) = self._unpack("<I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self.damaged(f"the tensor {shown(name)} declares {dimensions} dimensions")
        shape = self._unpack(f"<{dimensions}Q")[::-1]
        kind, offset = self._unpack("<IQ")
        try:
            return name, shape, GGMLQuantizationType(kind), offset
        except ValueError:
            raise self.damaged(f"the tensor {shown(name)} has the unknown type {kind}") from None

    def _data(self, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType, start: int) -> NDArray[np.uint8]:
        block, block_bytes = GGML_QUANT_SIZES[kind]
        rows, width = math.prod(shape[:-1]), shape[-1]
        if not rows or not width or width % block:
            raise self.damaged(f"the tensor {shown(name)} cannot have shape {list(shape)}")
        row_bytes = width // block * block_bytes
        end = start + rows * row_bytes
        if end > self._size:
            raise self.damaged(f"the tensor {shown(name)} should end at byte {end:,} of {self._size:,}")
        return self._map[start:end].reshape(rows, row_bytes)

    def _value_type(self) -> GGUFValueType:
        (kind,) = self._unpack("<I")
        try:
            return GGUFValueType(kind)
        except ValueError:
            raise self.damaged(f"its metadata holds the unknown type {kind}") from None

    def _numbers(self, kind: GGUFValueType, count: int) -> NDArray[Any]:
        dtype = _SCALARS[kind]
        return np.frombuffer(self._take(count * dtype.itemsize, "a list of numbers"), dtype)

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self._take(struct.calcsize(layout), "its metadata"))

    def _take(self, count: int, what: str) -> memoryview:
        self._check(count, what)
        self._at += count
        return self._bytes[self._at - count : self._at]

    def _check(self, count: int, what: str) -> None:
        if count > self._size - self._at:
            raise self.damaged(f"{what} would need {count:,} bytes where {self._size - self._at:,} are left")
