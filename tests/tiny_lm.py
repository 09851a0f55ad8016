"""A causal language model small enough to be built by a test, with its arithmetic in NumPy beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Array = NDArray[np.float32]

VOCAB, PADDED = 29, 32
"""The tokenizer's vocabulary, and the graph's, which is padded."""

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_SIZE, CONTEXT = 2, 16, 4, 2, 8, 24
GROUP = HEADS // KV_HEADS

Weights = dict[str, Array]


@cache
def weights() -> Weights:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return rng.normal(0.0, 0.5, shape).astype(np.float32)

    made = {"embedding": normal(PADDED, HIDDEN), "positions": normal(CONTEXT, HIDDEN), "head": normal(HIDDEN, PADDED)}
    for n in range(LAYERS):
        made[f"{n}.q"] = normal(HIDDEN, HEADS * HEAD_SIZE)
        made[f"{n}.k"] = normal(HIDDEN, KV_HEADS * HEAD_SIZE)
        made[f"{n}.v"] = normal(HIDDEN, KV_HEADS * HEAD_SIZE)
        made[f"{n}.o"] = normal(HEADS * HEAD_SIZE, HIDDEN) * np.float32(0.5)
    return made


def reference(ids: Sequence[int]) -> Array:
    """The logits of every row of a whole text: float32 [len(ids), VOCAB]."""
    w, length = weights(), len(ids)
    x = w["embedding"][list(ids)] + w["positions"][:length]
    future = np.triu(np.ones((length, length), bool), 1)
    for n in range(LAYERS):
        q = (x @ w[f"{n}.q"]).reshape(length, HEADS, HEAD_SIZE)
        k = (x @ w[f"{n}.k"]).reshape(length, KV_HEADS, HEAD_SIZE).repeat(GROUP, axis=1)
        v = (x @ w[f"{n}.v"]).reshape(length, KV_HEADS, HEAD_SIZE).repeat(GROUP, axis=1)
        scores = np.einsum("shd,thd->hst", q, k) / np.sqrt(HEAD_SIZE)
        scores[:, future] = -np.inf
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        x = np.tanh(x + np.einsum("hst,thd->shd", p, v).reshape(length, -1) @ w[f"{n}.o"])
    return (x @ w["head"])[:, :VOCAB].astype(np.float32)


@dataclass(frozen=True)
class Shape:
    """Which of the many forms a graph takes. `keep`: num_logits_to_keep as an input, or one with a default."""

    cache: Literal["growing", "shared"]
    mask: bool = True
    positions: bool = True
    keep: Literal["no", "required", "default"] = "no"

    def __str__(self) -> str:
        return f"{self.cache}{'-mask' * self.mask}{'-positions' * self.positions}-keep-{self.keep}"


class _Builder:
    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.nodes: list[NodeProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self.tensors = {name: numpy_helper.from_array(w, name) for name, w in weights().items()}

    def constant(self, name: str, value: Any, dtype: type[np.generic] = np.int64) -> str:
        self.tensors[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def node(self, op: str, inputs: Sequence[str], outputs: str | Sequence[str], domain: str = "", **more: Any) -> str:
        outputs = [outputs] if isinstance(outputs, str) else list(outputs)
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **more))
        return outputs[0]

    def input(self, name: str, element: int, shape: Sequence[int | str]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def size(self, value: str, axis: int, name: str) -> str:
        """A dimension, as a tensor of one."""
        return self.node("Shape", [value], name, start=axis, end=axis + 1)

    def build(self) -> onnx.ModelProto:
        self.input("input_ids", TensorProto.INT64, [1, "rows"])
        for n in range(LAYERS):
            for kind in ("key", "value"):
                shape = [1, KV_HEADS, "past", HEAD_SIZE]
                self.input(f"past_key_values.{n}.{kind}", TensorProto.FLOAT, shape)
                shape = [1, KV_HEADS, "total", HEAD_SIZE]
                self.outputs.append(helper.make_tensor_value_info(f"present.{n}.{kind}", TensorProto.FLOAT, shape))
        x = self.embedded()
        for n in range(LAYERS):
            q, k, v = (self.node("MatMul", [x, f"{n}.{part}"], f"{n}.{part}.out") for part in "qkv")
            heard = self.attention(n, q, k, v)
            x = self.node(
                "Tanh", [self.node("Add", [x, self.node("MatMul", [heard, f"{n}.o"], f"{n}.oo")], f"{n}.sum")], f"{n}.x"
            )
        self.node("MatMul", [self.kept(x), "head"], "logits")
        self.outputs.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "kept", PADDED]))
        graph = helper.make_graph(self.nodes, "tiny", self.inputs, self.outputs, list(self.tensors.values()))
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def embedded(self) -> str:
        """Token and position embeddings; sets how many positions there are before and after the pass."""
        rows = self.size("input_ids", 1, "row_count")
        if self.shape.mask:
            total = self.size(self.input("attention_mask", TensorProto.INT64, [1, "total"]), 1, "total_count")
        elif self.shape.cache == "growing":
            total = self.node("Add", [self.size("past_key_values.0.key", 2, "past_count"), rows], "total_count")
        else:  # only the positions say how full a shared cache is
            last = self.node(
                "ReduceMax", [self.input("position_ids", TensorProto.INT64, [1, "rows"])], "last", keepdims=0
            )
            total = self.node(
                "Add",
                [self.node("Unsqueeze", [last, self.constant("0", [0])], "last1"), self.constant("1", [1])],
                "total_count",
            )
        self.total, past = total, self.node("Sub", [total, rows], "before")
        self.scalars = [
            self.node("Squeeze", [past], "from"),
            self.node("Squeeze", [total], "to"),
        ]
        own = self.node("Range", [*self.scalars, self.constant("step", 1)], "own_positions")
        given = own
        if self.shape.positions:
            if self.shape.mask or self.shape.cache == "growing":
                self.input("position_ids", TensorProto.INT64, [1, "rows"])
            given = "position_ids"
        at = self.node("Gather", ["positions", given], "at")
        return self.node("Add", [self.node("Gather", ["embedding", "input_ids"], "token"), at], "x")

    def attention(self, n: int, q: str, k: str, v: str) -> str:
        past = [f"past_key_values.{n}.key", f"past_key_values.{n}.value"]
        present = [f"present.{n}.key", f"present.{n}.value"]
        if self.shape.cache == "shared":
            one = self.constant("one_total", [1])
            lens = self.node(
                "Cast", [self.node("Sub", [self.total, one], f"{n}.less")], f"{n}.lens", to=TensorProto.INT32
            )
            whole = self.node("Cast", [self.scalars[1]], f"{n}.whole", to=TensorProto.INT32)
            heads = {"num_heads": HEADS, "kv_num_heads": KV_HEADS}
            inputs = [q, k, v, *past, lens, whole]
            return self.node("GroupQueryAttention", inputs, [f"{n}.heard", *present], "com.microsoft", **heads)
        split = self.constant("split", [1, -1, KV_HEADS, HEAD_SIZE])
        for new, old, made in zip((k, v), past, present, strict=True):
            heads = self.node(
                "Transpose", [self.node("Reshape", [new, split], new + "4")], new + "t", perm=[0, 2, 1, 3]
            )
            self.node("Concat", [old, heads], made, axis=2)
        groups = self.constant("groups", [1, -1, KV_HEADS, GROUP, HEAD_SIZE])
        q = self.node("Transpose", [self.node("Reshape", [q, groups], q + "5")], q + "t", perm=[0, 2, 3, 1, 4])
        axis = self.constant("group_axis", [2])
        keys, values = (self.node("Unsqueeze", [p, axis], p + ".5") for p in present)
        keys = self.node("Transpose", [keys], keys + "t", perm=[0, 1, 2, 4, 3])
        scaled = self.node("Mul", [q, self.constant("scale", 1 / np.sqrt(HEAD_SIZE), np.float32)], q + "s")
        scores = self.node("MatMul", [scaled, keys], f"{n}.scores")
        column = self.node("Unsqueeze", ["own_positions", self.constant("column", [1])], f"{n}.rows")
        places = self.node(
            "Range", [self.constant("zero", 0), self.scalars[1], self.constant("step", 1)], f"{n}.places"
        )
        seen = self.node("LessOrEqual", [places, column], f"{n}.seen")
        masked = self.node("Where", [seen, scores, self.constant("never", -1e9, np.float32)], f"{n}.masked")
        mixed = self.node("MatMul", [self.node("Softmax", [masked], f"{n}.p", axis=-1), values], f"{n}.mixed")
        back = self.node("Transpose", [mixed], f"{n}.back", perm=[0, 3, 1, 2, 4])
        return self.node("Reshape", [back, self.constant("flat", [1, -1, HEADS * HEAD_SIZE])], f"{n}.heard")

    def kept(self, x: str) -> str:
        if self.shape.keep == "no":
            return x
        self.input("num_logits_to_keep", TensorProto.INT64, [])
        if self.shape.keep == "default":
            self.constant("num_logits_to_keep", 0)
        start = self.node(
            "Reshape", [self.node("Neg", ["num_logits_to_keep"], "minus"), self.constant("list", [1])], "start"
        )
        end, axis = self.constant("end", [2**31]), self.constant("row_axis", [1])
        return self.node("Slice", [x, start, end, axis], "kept_rows")


def model(shape: Shape) -> onnx.ModelProto:
    made = _Builder(shape).build()
    onnx.checker.check_model(made)
    return made


def save(directory: Path, made: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = directory / name
    onnx.save(made, path)
    return path
