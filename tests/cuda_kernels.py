"""What ONNX Runtime's CUDA provider has kernels for, as far as our graphs use them, and what it leaves to the host.

Found out from the provider of onnxruntime-gpu 1.31.1 itself: a session for a graph of each operator alone, in each
type, tells which provider it was assigned to. A node that follows a Shape, and whose inputs are all known on the host,
is given back to the host, unless its kernel reads all of them there anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from onnx import ModelProto, NodeProto, TensorProto

_HALF: Final = frozenset({TensorProto.FLOAT16})
_FLOATS: Final = _HALF | {TensorProto.FLOAT}
_NUMBERS: Final = _FLOATS | {TensorProto.INT64, TensorProto.INT32}
_ANY: Final = _NUMBERS | {TensorProto.BOOL, TensorProto.UINT8}

KERNELS: Final[Mapping[str, frozenset[int]]] = {
    **dict.fromkeys(("Shape", "Cast", "Identity", "Gather", "Slice", "Reshape", "Squeeze", "Unsqueeze"), _ANY),
    **dict.fromkeys(("Add", "Sub", "Mul", "Neg", "Less", "Greater", "Equal", "Where", "Expand", "Concat"), _NUMBERS),
    **dict.fromkeys(("Split", "ReduceSum", "TopK"), _NUMBERS),
    "Range": _NUMBERS - _HALF,
    **dict.fromkeys(("IsNaN", "Tanh", "Pad", "QuickGelu", "FastGelu", "FusedMatMul"), _FLOATS),
    **dict.fromkeys(("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"), _FLOATS),
    **dict.fromkeys(("MatMulNBits", "GatherBlockQuantized"), _FLOATS),
    "GroupQueryAttention": _HALF,
}
"""The types of an operator's data. Not here, though there are kernels: ReduceMax, ReduceMin and ArgMax, which are
cuDNN's, and cuDNN is a library that need not be there."""

_DATA: Final = {"GatherBlockQuantized": 2, "Where": 1}
"""Which input has that type, if not the first."""
_WANTED_ON_HOST: Final = {
    **dict.fromkeys(("Reshape", "Expand", "Squeeze", "Unsqueeze", "Split", "TopK", "Pad", "ReduceSum"), (1,)),
    "Slice": (1, 2, 3, 4),
    "Range": (0, 1, 2),
    "GroupQueryAttention": (6,),
}
"""Inputs that a kernel reads on the host: if a device has computed them, everything before is waited for."""


@dataclass
class Placement:
    """unknown: nodes without a kernel. waited_for: inputs that the host has to wait for, as node.input."""

    unknown: list[str] = field(default_factory=list[str])
    waited_for: list[str] = field(default_factory=list[str])
    on_host: list[str] = field(default_factory=list[str])


def place(model: ModelProto) -> Placement:
    graph, found = model.graph, Placement()
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    known = set(types)  # on the host, whatever stands before it
    counted: set[str] = set()
    for node in graph.node:
        data = types[node.input[_DATA.get(node.op_type, 0)]]
        wanted = _WANTED_ON_HOST.get(node.op_type, ())
        reads = {name for i, name in enumerate(node.input) if name and i not in wanted}
        if node.op_type != "Shape" and reads <= known and reads & counted:
            found.on_host.append(node.name)
        elif data not in KERNELS.get(node.op_type, ()):
            found.unknown.append(f"{node.op_type} {node.name} of {TensorProto.DataType.Name(data)}")
        if node.op_type == "Shape" or node.name in found.on_host[-1:]:
            known.update(node.output)
            counted.update(node.output)
        for i in wanted:
            if i < len(node.input) and node.input[i] and node.input[i] not in known:
                found.waited_for.append(f"{node.name}.{node.input[i]}")
        types |= dict.fromkeys(node.output, _type(node, data))
        if node.op_type == "TopK":
            types[node.output[1]] = TensorProto.INT64
    return found


def _type(node: NodeProto, data: int) -> int:
    if node.op_type == "Cast":
        return node.attribute[0].i
    if node.op_type == "Shape":
        return TensorProto.INT64
    return TensorProto.BOOL if node.op_type in ("Less", "Greater", "Equal", "IsNaN") else data
