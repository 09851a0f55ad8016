"""Optimum's attention, some sixty small operators a layer, as one GroupQueryAttention: all layers or none.

What is looked for is scaled dot-product attention as torch's exporter writes it: softmax(q k' + mask) v, with k and v
out of the cache and repeated for groups of heads. The mask is no matter of looks: the part of the graph that makes it
is run, at both ends of the context, and has to be the causal one and nothing else, so that sliding windows and biases
by distance are left as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgespec.runtime.session import open_session
from export.graph_weights import MICROSOFT, initializers

_SHAPE_OPS = {"Unsqueeze", "Expand", "Reshape", "Transpose"}
_NEVER = -1e9
"""A mask's value from here on down hides a position."""


@dataclass(frozen=True, slots=True)
class _Attention:
    """One layer's: names of values. `query` [1,H,S,D] and `key`, `value` [1,Hkv,S,D] are new; `heard` is [1,S,H,D]."""

    query: str
    key: str
    value: str
    mask: str
    heard: str
    scale: float


def fuse_attention(model: onnx.ModelProto, heads: int, context_length: int, scratch: Path) -> bool:
    """Rewrite the graph, whose cache then is one that GroupQueryAttention fills; False, and nothing done, if some layer
    is not of the known form. Holds for passes without padding: every position in attention_mask is taken as there.
    `scratch` is a directory for what is tried on the way."""
    graph = _Graph(model)
    pasts = [v for v in model.graph.input if v.name.startswith("past_key_values.") and v.name.endswith(".key")]
    sizes = [_sizes(past) for past in pasts]
    layers = [graph.attention(past.name.split(".")[1], size) for past, (_, size) in zip(pasts, sizes, strict=True)]
    masked = any(v.name == "attention_mask" for v in model.graph.input)
    if not layers or not masked or any(layer is None for layer in layers):
        return False
    found = [layer for layer in layers if layer is not None]
    if not all(_is_causal(model, mask, context_length, scratch) for mask in {layer.mask for layer in found}):
        return False
    fused: dict[str, list[NodeProto]] = {}
    for past, layer, size in zip(pasts, found, sizes, strict=True):
        fused[layer.heard] = _fused(model, past.name.split(".")[1], layer, (heads, *size))
    made = {output for nodes in fused.values() for node in nodes for output in node.output}
    nodes = _lengths(model)
    for node in model.graph.node:
        nodes += fused.get(node.output[0], [])
        if not made.intersection(node.output):
            nodes.append(node)
    kept = _needed(nodes, [output.name for output in model.graph.output])
    del model.graph.node[:]
    model.graph.node.extend(kept)
    if all(opset.domain != MICROSOFT for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return True


def _sizes(past: onnx.ValueInfoProto) -> tuple[int, int]:
    """Key and value heads, and the head size."""
    dimensions = past.type.tensor_type.shape.dim
    return dimensions[1].dim_value, dimensions[3].dim_value


class _Graph:
    """Who makes and who takes each value."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.known = initializers(model)
        self.maker = {output: node for node in model.graph.node for output in node.output}
        self.takers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)

    def attention(self, layer: str, head_size: int) -> _Attention | None:
        """The attention that reads `present.LAYER`, if it is of the known form."""
        self.roots = head_size**-0.25
        new = [
            self._appended(f"past_key_values.{layer}.{kind}", f"present.{layer}.{kind}") for kind in ("key", "value")
        ]
        for softmax in [node for node in self.maker.values() if node.op_type == "Softmax"]:
            added = self.maker.get(softmax.input[0])
            if added is None or added.op_type != "Add":
                continue
            scores = self.maker.get(added.input[0])
            if scores is None or scores.op_type != "MatMul":
                continue
            key, key_scale = self._back(scores.input[1], _SHAPE_OPS)
            query, query_scale = self._back(scores.input[0], set())
            heard = self._heard(softmax, f"present.{layer}.value")
            if key == f"present.{layer}.key" and heard is not None and None not in new:
                return _Attention(query, str(new[0]), str(new[1]), added.input[1], heard, key_scale * query_scale)
        return None

    def _appended(self, past: str, present: str) -> str | None:
        """What Concat puts behind `past` to make `present`."""
        node = self.maker.get(present)
        return node.input[1] if node and node.op_type == "Concat" and list(node.input[:1]) == [past] else None

    def _back(self, name: str, through: set[str]) -> tuple[str, float]:
        """Where `name` comes from, before operators of `through` and products with a number: (name, the product)."""
        scale = 1.0
        while (node := self.maker.get(name)) is not None:
            factor = self._factor(node.input[1]) if node.op_type == "Mul" else None
            if factor is None and node.op_type not in through:
                break
            scale *= 1.0 if factor is None else factor
            name = node.input[0]
        return name, scale

    def _heard(self, softmax: NodeProto, present: str) -> str | None:
        """The values by their weights, heads turned behind the rows: the output of the Transpose that ends it."""
        weights = softmax.output[0]
        for node in self.takers.get(weights, []):
            if node.op_type == "Where" and node.input[2] == weights:  # rows without any position become 0
                weights = node.output[0]
        for mix in self.takers.get(weights, []):
            if mix.op_type == "MatMul" and self._back(mix.input[1], _SHAPE_OPS) == (present, 1.0):
                ends = self.takers.get(mix.output[0], [])
                turned = [helper.get_attribute_value(n.attribute[0]) for n in ends if n.op_type == "Transpose"]
                return ends[0].output[0] if len(ends) == 1 and turned == [[0, 2, 1, 3]] else None
        return None

    def _factor(self, name: str) -> float | None:
        """A number that the graph has, or makes out of the head size: sqrt(1 / sqrt(D)), half of the scale each."""
        steps: list[str] = []
        start = name
        while (node := self.maker.get(name)) is not None and node.op_type != "Constant":
            if node.op_type == "Div" and self._number(node.input[0]) != 1.0:
                break
            steps += [] if node.op_type in ("Cast", "Slice", "Gather", "Squeeze", "Unsqueeze") else [node.op_type]
            if node.op_type == "Shape":
                break
            name = node.input[1 if node.op_type == "Div" else 0]
        return self.roots if steps == ["Sqrt", "Div", "Sqrt", "Shape"] else self._number(start)

    def _number(self, name: str) -> float | None:
        maker = self.maker.get(name)
        tensor = self.known.get(name)
        if maker is not None and maker.op_type == "Constant" and maker.attribute[0].name == "value":
            tensor = maker.attribute[0].t
        value: NDArray[Any] | None = None if tensor is None else numpy_helper.to_array(tensor)
        return float(value.reshape(())) if value is not None and value.size == 1 else None


def _needed(nodes: Sequence[NodeProto], outputs: Sequence[str]) -> list[NodeProto]:
    """The nodes that `outputs` depend on, in their order. Subgraphs are taken to use everything."""
    wanted = set(outputs) | {name for node in nodes if any(a.g.node for a in node.attribute) for name in node.input}
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


def _is_causal(model: onnx.ModelProto, mask: str, context_length: int, scratch: Path) -> bool:
    """Whether `mask`, run on its own, hides from each row what comes after it and nothing else."""
    nodes = _needed(model.graph.node, [mask])
    used = {name for node in nodes for name in node.input}
    inputs = [value for value in model.graph.input if value.name in used]
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    output = helper.make_tensor_value_info(mask, TensorProto.FLOAT, None)
    part = helper.make_model(
        helper.make_graph(nodes, "mask", inputs, [output], weights),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
    onnx.save(part, scratch / "mask.onnx")
    session = open_session(scratch / "mask.onnx", "cpu")
    for past in (0, 1, context_length // 2, context_length - 5):
        for rows in (1, 2, 5):
            given = {value.name: _filled(value, past, rows) for value in inputs}
            made: NDArray[Any] = np.asarray(session.run([mask], given)[0])
            places = np.arange(past + rows)
            causal = places[None, :] <= places[past:, None]
            if made.shape[-2:] != causal.shape:
                return False
            if not (((made == 0) == causal) & ((made <= _NEVER) == ~causal)).all():
                return False
    return True


def _filled(value: onnx.ValueInfoProto, past: int, rows: int) -> NDArray[Any]:
    """What the runtime would give for an input, the cache empty of meaning."""
    if value.name == "attention_mask":
        return np.ones((1, past + rows), np.int64)
    if value.name == "position_ids":
        return np.arange(past, past + rows, dtype=np.int64)[None]
    if value.name == "input_ids":
        return np.ones((1, rows), np.int64)
    _, kv_heads, _, head_size = (d.dim_value for d in value.type.tensor_type.shape.dim)
    return np.zeros((1, kv_heads, past, head_size), np.float32)


def _lengths(model: onnx.ModelProto) -> list[NodeProto]:
    """How many positions there are, as GroupQueryAttention wants it: all as a number, and all but one as a list."""
    constants = {"fused.one": np.array([1]), "fused.flat": np.array([0, 0, -1])}
    model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in constants.items())
    return [
        helper.make_node("Shape", ["attention_mask"], ["fused.positions"], start=1, end=2),
        helper.make_node("Sub", ["fused.positions", "fused.one"], ["fused.others"]),
        helper.make_node("Cast", ["fused.others"], ["fused.last"], to=TensorProto.INT32),
        helper.make_node("Squeeze", ["fused.positions"], ["fused.number"]),
        helper.make_node("Cast", ["fused.number"], ["fused.total"], to=TensorProto.INT32),
    ]


def _fused(model: onnx.ModelProto, layer: str, found: _Attention, sizes: tuple[int, int, int]) -> list[NodeProto]:
    """The nodes that make `found.heard` and the layer's `present`; sizes: heads, key and value heads, head size."""
    heads, kv_heads, head_size = sizes
    name = f"fused.{layer}"
    nodes: list[NodeProto] = []
    flat: list[str] = []
    for part, value in (("q", found.query), ("k", found.key), ("v", found.value)):
        turned, done = f"{name}.{part}.turned", f"{name}.{part}"
        nodes.append(helper.make_node("Transpose", [value], [turned], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [turned, "fused.flat"], [done]))
        flat.append(done)
    caches = [f"{when}.{layer}.{kind}" for when in ("past_key_values", "present") for kind in ("key", "value")]
    options: dict[str, Any] = {"num_heads": heads, "kv_num_heads": kv_heads, "scale": found.scale}
    inputs, outputs = [*flat, *caches[:2], "fused.last", "fused.total"], [f"{name}.heard", *caches[2:]]
    nodes.append(helper.make_node("GroupQueryAttention", inputs, outputs, name=name, domain=MICROSOFT, **options))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, heads, head_size]), f"{name}.shape"))
    nodes.append(helper.make_node("Reshape", [f"{name}.heard", f"{name}.shape"], [found.heard]))
    return nodes
