"""What is read from a graph, and every reason to refuse one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_lm
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tiny_lm import CONTEXT, VOCAB, Shape

from edgespec.errors import ModelError
from edgespec.runtime.graph_io import GraphIO, read_graph_io
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.onnx_nodes import consumers
from edgespec.runtime.session import open_session


def read(path: Path) -> GraphIO:
    session = open_session(path, "cpu")
    return read_graph_io(session.get_inputs(), session.get_overridable_initializers(), session.get_outputs(), path)


@pytest.mark.parametrize("keep", ["no", "required", "default"])
@pytest.mark.parametrize("cache", ["growing", "shared"])
def test_what_a_graph_has_is_found(cache: str, keep: str, graphs: Callable[[Shape], Path]) -> None:
    for mask, positions in ((True, True), (True, False), (False, True)):
        io = read(graphs(Shape(cache, mask, positions, keep)))  # pyright: ignore[reportArgumentType]
        assert io.mode == cache
        assert (io.attention_mask, io.position_ids, io.logits_to_keep) == (mask, positions, keep != "no")
        assert io.vocab_size == tiny_lm.PADDED
        assert io.logits_dtype == np.float32
        names = [(t.past, t.present) for t in io.cache]
        assert names == [(f"past_key_values.{n}.{k}", f"present.{n}.{k}") for n in (0, 1) for k in ("key", "value")]
        assert {(t.kv_heads, t.head_size, t.dtype) for t in io.cache} == {(2, 8, np.dtype(np.float32))}


# Each change makes a graph that loads and runs, but not as a target or draft here.

Change = Callable[[onnx.ModelProto], None]


def renamed(old: str, new: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        for value in [*graph.input, *graph.output]:
            if value.name == old:
                value.name = new
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    return change


def dimension(name: str, axis: int, size: int | str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for value in [*model.graph.input, *model.graph.output]:
            if value.name == name:
                dim = value.type.tensor_type.shape.dim[axis]
                dim.Clear()
                if isinstance(size, int):
                    dim.dim_value = size
                else:
                    dim.dim_param = size

    return change


def last_row_only(model: onnx.ModelProto) -> None:
    graph = model.graph
    (head,) = [n for n in graph.node if n.output[0] == "logits"]
    picked = helper.make_node("Gather", [head.input[0], "only"], ["last_row"], axis=1)
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "only"))
    head.input[0] = "last_row"
    graph.node.insert(list(graph.node).index(head), picked)
    dimension("logits", 1, 1)(model)


def without_cache(model: onnx.ModelProto) -> None:
    graph = model.graph
    for value in [v for v in graph.input if v.name.startswith("past")]:
        graph.input.remove(value)
        shape = (1, tiny_lm.KV_HEADS, 0, tiny_lm.HEAD_SIZE)
        graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), value.name))


def int32_ids(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        if value.name == "input_ids":
            value.type.tensor_type.elem_type = TensorProto.INT32


def one_id_less_deep(model: onnx.ModelProto) -> None:
    """num_logits_to_keep as a list of one."""
    for value in model.graph.input:
        if value.name == "num_logits_to_keep":
            value.type.tensor_type.shape.dim.add().dim_value = 1


def extra_input(name: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]))
        model.graph.output.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, [1, 4]))
        model.graph.node.append(helper.make_node("Identity", [name], ["extra"]))

    return change


def float8_cache(model: onnx.ModelProto) -> None:
    for value in [*model.graph.input, *model.graph.output]:
        if value.name in ("past_key_values.0.key", "present.0.key"):
            value.type.tensor_type.elem_type = TensorProto.FLOAT8E4M3FN
    (concat,) = [n for n in model.graph.node if n.output[0] == "present.0.key"]
    wide, past = "wide_past", concat.input[0]
    concat.input[0] = wide
    concat.output[0] = "wide_present"
    at = list(model.graph.node).index(concat)
    narrow = helper.make_node("Cast", ["wide_present"], ["present.0.key"], to=TensorProto.FLOAT8E4M3FN)
    model.graph.node.insert(at + 1, narrow)
    model.graph.node.insert(at, helper.make_node("Cast", [past], [wide], to=TensorProto.FLOAT))
    for node in model.graph.node:
        if node is not narrow:
            node.input[:] = ["wide_present" if name == "present.0.key" else name for name in node.input]


def added_to(model: onnx.ModelProto) -> None:
    """A cache that is summed up, as recurrent state is."""
    for node in model.graph.node:
        if node.op_type == "Concat":
            node.op_type = "Add"
            del node.attribute[:]


def unused(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Concat":
            node.op_type = "Identity"
            node.input.remove(node.input[0])
            del node.attribute[:]


def double_logits(model: onnx.ModelProto) -> None:
    (head,) = [n for n in model.graph.node if n.output[0] == "logits"]
    head.output[0] = "single"
    model.graph.node.append(helper.make_node("Cast", ["single"], ["logits"], to=TensorProto.DOUBLE))
    for value in model.graph.output:
        if value.name == "logits":
            value.type.tensor_type.elem_type = TensorProto.DOUBLE


REFUSALS: list[tuple[Change, str]] = [
    (renamed("input_ids", "tokens"), "it has no input_ids"),
    (renamed("logits", "scores"), "it has no logits"),
    (extra_input("conv_state"), r"it keeps recurrent or convolution state \(conv_state\), which cannot be rewound"),
    (extra_input("ssm_states.3"), r"it keeps recurrent or convolution state \(ssm_states.3\)"),
    (extra_input("block_table"), r"it takes paged inputs \(block_table\)"),
    (
        extra_input("encoder_hidden_states"),
        "it is the decoder of an encoder-decoder model, which takes encoder_hidden_s",
    ),
    (extra_input("past_key_values.0.decoder.key"), "it is the decoder of an encoder-decoder model"),
    (extra_input("use_cache_branch"), "it has a branch of its own for the first pass"),
    (extra_input("pixel_values"), "it takes more than token ids: pixel_values"),
    (extra_input("rhythm"), "it wants an input that is not understood: rhythm"),
    (dimension("input_ids", 1, 1), "it takes 1 tokens a pass, no more and no less"),
    (float8_cache, r"past_key_values.0.key is a tensor\(float8e4m3fn\)"),
    (int32_ids, r"its input_ids is a tensor\(int32\) of shape \[1, 'rows'\]"),
    (one_id_less_deep, r"its num_logits_to_keep is a tensor\(int64\) of shape \[1\]"),
    (last_row_only, "it gives logits for the last row only, so drafts cannot be verified"),
    (double_logits, r"logits is a tensor\(double\)"),
    (without_cache, "it has no KV cache"),
    (renamed("present.1.value", "kept.1.value"), "past_key_values.1.value has no counterpart present.1.value"),
    (dimension("past_key_values.0.key", 3, "size"), r"past_key_values.0.key has the shape \[1, 2, 'past', 'size'\]"),
    (added_to, "its KV cache feeds Add, which cannot be rewound here"),
    (unused, "its KV cache feeds nothing"),
]


@pytest.mark.parametrize(("change", "reason"), REFUSALS, ids=[reason[:40] for _, reason in REFUSALS])
def test_a_graph_that_cannot_be_driven_is_refused_by_name(change: Change, reason: str, tmp_path: Path) -> None:
    model = tiny_lm.model(Shape("growing", keep="required"))
    change(model)
    path = tiny_lm.save(tmp_path, model)
    with pytest.raises(ModelError, match=f"model.onnx cannot run here: {reason}.*pull another"):
        OnnxCausalLM.open(path, context_length=CONTEXT, vocab_size=VOCAB)


def test_a_head_size_that_the_graph_leaves_open_can_be_told(tmp_path: Path) -> None:
    model = tiny_lm.model(Shape("shared", positions=False))
    for name in ("past_key_values.{}.{}", "present.{}.{}"):
        for n, kind in product(range(tiny_lm.LAYERS), ("key", "value")):
            dimension(name.format(n, kind), 3, "size")(model)
    path = tiny_lm.save(tmp_path, model)
    with pytest.raises(ModelError, match=r"has the shape \[1, 2, 'past', 'size'\]"):
        OnnxCausalLM.open(path, context_length=CONTEXT, vocab_size=VOCAB)
    opened = OnnxCausalLM.open(path, context_length=CONTEXT, vocab_size=VOCAB, head_size=tiny_lm.HEAD_SIZE)
    ids = [3, 1, 4, 1, 5]
    assert np.allclose(opened.forward(ids), tiny_lm.reference(ids), atol=2e-4)


def test_a_cache_whose_length_is_looked_at_is_not_shared(tmp_path: Path) -> None:
    """GroupQueryAttention beside Shape: a buffer as long as the context would pass for a full cache."""
    model = tiny_lm.model(Shape("shared", positions=False))
    for node in model.graph.node:
        if node.output[0] == "total_count":
            node.output[0] = "mask_count"
    at = next(i for i, node in enumerate(model.graph.node) if "total_count" in node.input)
    for node in (
        helper.make_node("Add", ["past_count", "row_count"], ["total_count"]),
        helper.make_node("Shape", ["past_key_values.0.key"], ["past_count"], start=2, end=3),
    ):
        model.graph.node.insert(at, node)
    opened = OnnxCausalLM.open(tiny_lm.save(tmp_path, model), context_length=CONTEXT, vocab_size=VOCAB)
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    for start, end in ((0, 3), (3, 4), (4, 8)):
        assert np.allclose(opened.forward(ids[start:end]), tiny_lm.reference(ids[:end])[start:], atol=2e-4)
    opened.rewind(5)
    assert np.allclose(opened.forward(ids[5:]), tiny_lm.reference(ids)[5:], atol=2e-4)


def test_logits_without_a_fixed_vocabulary_are_refused(graphs: Callable[[Shape], Path]) -> None:
    """ONNX Runtime infers the size where it can, so the description alone is asked."""

    class Loose:
        name, type, shape = "logits", "tensor(float)", [1, "rows", "vocab"]

    path = graphs(Shape("growing"))
    session = open_session(path, "cpu")
    outputs = [v for v in session.get_outputs() if v.name != "logits"]
    with pytest.raises(ModelError, match=r"its logits have the shape \[1, 'rows', 'vocab'\] instead of"):
        read_graph_io(session.get_inputs(), [], [Loose(), *outputs], path)


@given(
    ops=st.lists(st.sampled_from(["Add", "Concat", "GroupQueryAttention", "é"]), max_size=4),
    name=st.sampled_from(["past", "past_key_values.0.key", "x" * 200, "ü"]),
    padding=st.integers(0, 300),
)
def test_consumers_are_those_the_onnx_package_finds(
    ops: list[str], name: str, padding: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    nodes = [helper.make_node(op, ["other", name], [f"out{i}"], doc_string="d" * padding) for i, op in enumerate(ops)]
    nodes += [helper.make_node("Mul", ["other", f"{name}.longer"], ["a"]), helper.make_node("Neg", ["other"], [name])]
    weights = onnx.numpy_helper.from_array(np.arange(padding, dtype=np.int64), name)
    graph = helper.make_graph(nodes, name, [], [], [weights], doc_string=name)
    path = tiny_lm.save(tmp_path_factory.getbasetemp(), helper.make_model(graph, producer_name=name), "any.onnx")
    assert consumers(path, name) == {n.op_type for n in onnx.load(path).graph.node if name in n.input} == set(ops)
