"""What an ONNX file says that a session does not: who consumes a value, which operators there are, which files hold
the weights.

Read from the file's wire format (protobuf; onnx.proto), because importing onnx costs 0.3 s at every start, because it
parses weights that stand inside the file, and because the files must be known before anything opens them.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

from edgespec.errors import ModelError

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INPUT = 1, 11
_VALUE_NAME, _VALUE_TYPE, _TENSOR_TYPE = 1, 2, 1
_ELEMENT, _SHAPE, _DIMENSION, _SIZE = 1, 2, 1, 1
_NODE_INPUT, _NODE_OP_TYPE = 1, 4
_TENSOR_NAME, _TENSOR_EXTERNAL = 8, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

# Where messages of interest stand in each other: message -> field -> message.
_INSIDE = {
    "model": {_MODEL_GRAPH: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {_GRAPH_NODE: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {_TENSOR_EXTERNAL: "external"},
    "external": {},
}


def consumers(graph: Path, value: str) -> set[str]:
    """The operator types of the nodes, subgraphs aside, that take `value`. The file must have been loaded before:
    one that is no ONNX model raises IndexError or ValueError, or finds nothing."""
    name = value.encode()
    found: set[str] = set()
    with graph.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        for _, start, end in _fields(data, 0, len(data), _MODEL_GRAPH):
            for _, first, last in _fields(data, start, end, _GRAPH_NODE):
                if data.find(name, first, last) < 0:
                    continue
                node = [(n, data[a:b]) for n, a, b in _fields(data, first, last, _NODE_INPUT, _NODE_OP_TYPE)]
                if (_NODE_INPUT, name) in node:
                    found.update(text.decode() for n, text in node if n == _NODE_OP_TYPE)
    return found


def graph_inputs(graph: Path) -> dict[str, tuple[int, tuple[int | None, ...]]]:
    """Each input's element type, a number of TensorProto.DataType, and its shape, None where a dimension is free; 0 and
    () for what is no tensor. Raises: ModelError if the file is no ONNX model."""
    found: dict[str, tuple[int, tuple[int | None, ...]]] = {}
    try:
        with graph.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            for _, start, end in _fields(data, 0, len(data), _MODEL_GRAPH):
                for _, first, last in _fields(data, start, end, _GRAPH_INPUT):
                    name = next((data[a:b].decode() for _, a, b in _fields(data, first, last, _VALUE_NAME)), "")
                    found[name] = _tensor_type(data, first, last)
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(f"{graph} is not an ONNX model, or not a whole one; get it again.") from error
    return found


def _tensor_type(data: mmap, start: int, end: int) -> tuple[int, tuple[int | None, ...]]:
    for number in (_VALUE_TYPE, _TENSOR_TYPE):
        start, end = next(((a, b) for _, a, b in _fields(data, start, end, number)), (0, 0))
    element = _number(data, start, end, _ELEMENT) or 0
    first, last = next(((a, b) for _, a, b in _fields(data, start, end, _SHAPE)), (0, 0))
    return element, tuple(_number(data, a, b, _SIZE) for _, a, b in _fields(data, first, last, _DIMENSION))


def operators_and_files(graph: Path) -> tuple[set[str], set[str]]:
    """The operator types of all nodes, subgraphs and functions included, and the names under which tensors refer to
    files of their own (external data). Raises: ModelError if the file is no ONNX model."""
    operators: set[str] = set()
    files: set[str] = set()
    try:
        with graph.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            for kind, start, end in _walk(data, "model", 0, len(data)):
                if kind == "node":
                    operators.update(data[a:b].decode() for _, a, b in _fields(data, start, end, _NODE_OP_TYPE))
                elif kind == "external":
                    key, value = _entry(data, start, end)
                    if key == "location":
                        files.add(value)
    except (OSError, ValueError, IndexError, RecursionError) as error:
        raise ModelError(f"{graph} is not an ONNX model, or not a whole one; get it again.") from error
    return operators, files


def stored_tensors(graph: Path, *names: str) -> dict[str, tuple[str, int, int]]:
    """Where those of the weights `names` lie that are in files of their own: file name, offset and length in bytes.
    The file must have been loaded before, as for `consumers`."""
    found: dict[str, tuple[str, int, int]] = {}
    with graph.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        for kind, start, end in _walk(data, "model", 0, len(data)):
            if kind != "tensor":
                continue
            name = next((data[a:b].decode() for _, a, b in _fields(data, start, end, _TENSOR_NAME)), "")
            if name in names:
                place = dict(_entry(data, a, b) for _, a, b in _fields(data, start, end, _TENSOR_EXTERNAL))
                found[name] = place["location"], int(place["offset"]), int(place["length"])
    return found


def _entry(data: mmap, start: int, end: int) -> tuple[str, str]:
    """The key and the value of a tensor's reference to a file of its own."""
    entry = {n: data[a:b].decode() for n, a, b in _fields(data, start, end, _ENTRY_KEY, _ENTRY_VALUE)}
    return entry.get(_ENTRY_KEY, ""), entry.get(_ENTRY_VALUE, "")


def _walk(data: mmap, kind: str, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Each message inside the one of `kind` at data[start:end], however deep: (its kind, first byte, end)."""
    inside = _INSIDE[kind]
    for number, first, last in _fields(data, start, end, *inside):
        yield inside[number], first, last
        yield from _walk(data, inside[number], first, last)


def _fields(data: mmap, start: int, end: int, *wanted: int) -> Iterator[tuple[int, int, int]]:
    """(number, first byte, end) of the `wanted` strings and messages among the fields in data[start:end]."""
    while start < end:
        key, start = _varint(data, start)
        number, kind = key >> 3, key & 7
        if kind == 0:
            _, start = _varint(data, start)
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"no field is of wire type {kind}")
        length, start = _varint(data, start) if kind == 2 else (8 if kind == 1 else 4, start)
        if start + length > end:
            raise ValueError("a field is longer than what it stands in")
        if number in wanted and kind == 2:
            yield number, start, start + length
        start += length


def _number(data: mmap, start: int, end: int, wanted: int) -> int | None:
    """The first number in field `wanted` of data[start:end]."""
    while start < end:
        key, start = _varint(data, start)
        if key & 7 == 0:
            value, start = _varint(data, start)
            if key >> 3 == wanted:
                return value
        elif key & 7 == 2:
            length, start = _varint(data, start)
            start += length
        else:
            start += 8 if key & 7 == 1 else 4
    return None


def _varint(data: mmap, start: int) -> tuple[int, int]:
    """(value, where it ends): seven bits a byte, the lowest first, the high bit set on all but the last."""
    value = shift = 0
    while shift < 70:
        byte = data[start]
        value |= (byte & 0x7F) << shift
        start, shift = start + 1, shift + 7
        if byte < 0x80:
            return value, start
    raise ValueError("a number has more than 64 bits")
