"""Changes to the weights of a graph that somebody else built, in memory: onnx protos in, the same protos changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"


def initializers(model: onnx.ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def matmuls(model: onnx.ModelProto) -> list[NodeProto]:
    """The products with a fixed matrix, in the order of the graph: the output head is the last."""
    known = initializers(model)
    return [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in known]


def gemm_to_matmul(model: onnx.ModelProto) -> None:
    """Write every `Gemm` with a fixed matrix as MatMul and Add, which is what the quantizers know."""
    known = initializers(model)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = options.get("alpha", 1.0) == options.get("beta", 1.0) == 1.0 and not options.get("transA")
        if node.op_type != "Gemm" or node.input[1] not in known or not plain:
            nodes.append(node)
            continue
        matrix = node.input[1]
        if options.get("transB"):
            turned = np.ascontiguousarray(numpy_helper.to_array(known[matrix]).T)
            matrix = f"{matrix}.turned"
            if matrix not in known:
                known[matrix] = numpy_helper.from_array(turned, matrix)
                model.graph.initializer.append(known[matrix])
        biased = len(node.input) > 2
        product = f"{node.output[0]}.product" if biased else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], matrix], [product], name=f"{node.name}.product"))
        if biased:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}.bias"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def tied_gather(model: onnx.ModelProto, head: NodeProto) -> NodeProto | None:
    """The node that looks up the embedding, if its table holds the very weights of the output head."""
    known = initializers(model)
    weights = numpy_helper.to_array(known[head.input[1]])
    for node in model.graph.node:
        table = known.get(node.input[0]) if node.op_type == "Gather" and not node.attribute else None
        if table is not None and list(table.dims) == [*weights.shape[::-1]]:
            return node if np.array_equal(numpy_helper.to_array(table), weights.T) else None
    return None


def gather_from_head(model: onnx.ModelProto, gather: NodeProto, weights: str, block: int) -> None:
    """Make `gather` read rows of the head that `MatMulNBits` has under the name `weights`, in 8 bits: one tensor for
    both. ids int64 [1,S] -> [1,S,hidden]."""
    known = initializers(model)
    scales: NDArray[np.generic] = numpy_helper.to_array(known[f"{weights}_scales"])
    new = {
        # GatherBlockQuantized wants scales with as many dimensions as the weights, which MatMulNBits wants in three.
        f"{weights}_scales_3d": scales.reshape(known[f"{weights}_Q8"].dims[0], -1, 1),
        f"{weights}_rows": np.array([0, 0, -1]),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in new.items())
    at = list(model.graph.node).index(gather)
    ids, output = gather.input[1], gather.output[0]
    model.graph.node.remove(gather)
    options: dict[str, Any] = {"bits": 8, "block_size": block, "gather_axis": 0, "quantize_axis": 2}
    lookup = helper.make_node(
        "GatherBlockQuantized",
        [f"{weights}_Q8", ids, f"{weights}_scales_3d"],
        [f"{output}.blocks"],
        domain=MICROSOFT,
        **options,
    )
    model.graph.node.insert(at, lookup)
    model.graph.node.insert(at + 1, helper.make_node("Reshape", [f"{output}.blocks", f"{weights}_rows"], [output]))
