"""Who consumes a value in an ONNX file: the one question that a session cannot answer.

Read from the file's wire format (protobuf; onnx.proto), because importing onnx costs 0.3 s at every start, and
because it parses weights that stand inside the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_NODE_INPUT, _NODE_OP_TYPE = 1, 4


def consumers(graph: Path, value: str) -> set[str]:
    """The operator types of the nodes, subgraphs aside, that take `value`. The file must have been loaded before:
    one that is no ONNX model raises IndexError or finds nothing."""
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


def _fields(data: mmap, start: int, end: int, *wanted: int) -> Iterator[tuple[int, int, int]]:
    """(number, first byte, end) of the `wanted` strings and messages among the fields in data[start:end]."""
    while start < end:
        key, start = _varint(data, start)
        number, kind = key >> 3, key & 7
        if kind == 0:
            _, start = _varint(data, start)
            continue
        length, start = _varint(data, start) if kind == 2 else (8 if kind == 1 else 4, start)
        if number in wanted and kind == 2:
            yield number, start, start + length
        start += length


def _varint(data: mmap, start: int) -> tuple[int, int]:
    """(value, where it ends): seven bits a byte, the lowest first, the high bit set on all but the last."""
    value = shift = 0
    while True:
        byte = data[start]
        value |= (byte & 0x7F) << shift
        start, shift = start + 1, shift + 7
        if byte < 0x80:
            return value, start
