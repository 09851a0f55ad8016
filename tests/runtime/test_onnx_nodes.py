"""The files and operators of a graph, read before anything else opens it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_lm
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgespec.errors import ModelError
from edgespec.runtime.onnx_nodes import graph_inputs, operators_and_files


def apart(name: str, location: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", location), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def branching() -> onnx.ModelProto:
    """Tensors in every kind of place: the graph, a branch of a branch, an attribute, a function, a sparse tensor."""
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["v"], value=apart("v", "attribute"))],
        "inner",
        [],
        [helper.make_tensor_value_info("v", TensorProto.FLOAT, [4])],
        [apart("i", "inner")],
    )
    outer = helper.make_graph(
        [helper.make_node("If", ["c"], ["w"], then_branch=inner, else_branch=inner)],
        "outer",
        [],
        [helper.make_tensor_value_info("w", TensorProto.FLOAT, [4])],
        [apart("o", "outer")],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=outer, else_branch=outer)],
        "main",
        [],
        [],
        [apart("a", "../canary"), numpy_helper.from_array(np.zeros(3, np.float32), "location")],
        sparse_initializer=[helper.make_sparse_tensor(apart("s", "sparse"), apart("t", "indices"), [4])],
    )
    body = [helper.make_node("Mul", ["x", "x"], ["z"]), helper.make_node("Constant", [], ["k"], value=apart("k", "fn"))]
    function = helper.make_function("own", "Square", ["x"], ["z"], body, [helper.make_opsetid("", 21)])
    return helper.make_model(graph, functions=[function])


def test_tensors_and_operators_are_found_wherever_they_stand(tmp_path: Path) -> None:
    operators, files = operators_and_files(tiny_lm.save(tmp_path, branching()))
    assert operators == {"If", "Constant", "Mul"}
    assert files == {"../canary", "inner", "outer", "attribute", "sparse", "indices", "fn"}


def test_inputs_have_the_types_and_shapes_that_onnx_reads(tmp_path: Path) -> None:
    shape = tiny_lm.Shape("growing", keep="required")
    made = tiny_lm.model(shape)
    expected = {
        value.name: (
            value.type.tensor_type.elem_type,
            tuple(d.dim_value or None for d in value.type.tensor_type.shape.dim),
        )
        for value in made.graph.input
    }
    assert graph_inputs(tiny_lm.save(tmp_path, made)) == expected
    assert expected["past_key_values.0.key"][1][1] == tiny_lm.KV_HEADS
    assert graph_inputs(tiny_lm.save(tmp_path, branching())) == {}


@given(cut=st.integers(0, 2000), at=st.integers(0, 2000), byte=st.integers(0, 255))
def test_a_damaged_file_is_read_or_refused(
    cut: int, at: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(branching().SerializeToString())
    data[at % len(data)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(data[: max(len(data) - cut, 0)])
    for read in (operators_and_files, graph_inputs):
        try:
            read(path)
        except ModelError as error:
            assert "is not an ONNX model, or not a whole one" in str(error)  # noqa: PT017


def test_graphs_nested_without_end_are_refused(tmp_path: Path) -> None:
    data = b""
    for _ in range(3000):
        for key in (0x32, 0x2A, 0x0A):  # a graph in an attribute in a node
            data = bytes([key]) + length_of(data) + data
    path = tmp_path / "deep.onnx"
    path.write_bytes(b"\x3a" + length_of(data) + data)
    with pytest.raises(ModelError, match="is not an ONNX model"):
        operators_and_files(path)


def length_of(data: bytes) -> bytes:
    size, length = len(data), b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return length + bytes([size])
