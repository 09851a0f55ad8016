"""How weights are stored and multiplied: the nodes for an embedding and for linear layers, in int8 or float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgespec.graph.builder import MICROSOFT, GraphBuilder
from edgespec.graph.quantize import BLOCK, Rows, float_chunks, int8_chunks

WeightsName = Literal["int8", "float32"]
_BITS: Final = 8
_INT8_ACTIVATIONS: Final = 4
"""MatMulNBits' accuracy_level whose passes of a few rows cost little more than those of one."""


class WeightFormat(Protocol):
    """Nodes for the two things that weights are used for. Activations are of the graph's float type."""

    @property
    def recipe(self) -> str:
        """What the weights went through, for the manifest."""
        ...

    @property
    def equalized(self) -> bool:
        """Whether products round their inputs, so that evening out the channels (equalize.py) pays."""
        ...

    def embed(self, graph: GraphBuilder, name: str, ids: str, table: Rows) -> str:
        """ids int64 [1,S] -> [1,S,hidden]."""
        ...

    def linear(self, graph: GraphBuilder, name: str, x: str, parts: Sequence[Rows]) -> str:
        """x [1,S,K] -> [1,S,N]: the products with the rows of all `parts`, one after the other, in one node."""
        ...

    def tied_head(self, graph: GraphBuilder, name: str, x: str, embedding: str, table: Rows) -> str:
        """x [1,S,hidden] -> [1,S,vocab], with the very weights that `embed` stored under the name `embedding`."""
        ...


class Int8Format:
    """Symmetric int8 in blocks of 32."""

    recipe = "int8 symmetric block 32, equalized channels, accuracy level 4"
    equalized = True

    def embed(self, graph: GraphBuilder, name: str, ids: str, table: Rows) -> str:
        _store_int8(graph, name, [table])
        blocks = table.width // BLOCK
        # Kept in the shape that MatMulNBits demands, so that the head can use the same tensor: a Reshape in between
        # would be folded into a second copy. Only the scales need another shape, and are stored once all the same.
        scales = graph.alias(f"{name}.scales_3d", f"{name}.scales", (len(table.data), blocks, 1))
        gathered = graph.node(
            "GatherBlockQuantized",
            [f"{name}.weight", ids, scales],
            f"{name}.blocks",
            domain=MICROSOFT,
            bits=_BITS,
            block_size=BLOCK,
            gather_axis=0,
            quantize_axis=2,
        )
        return graph.node(
            "Reshape", [gathered, graph.constant(f"{name}.shape", [1, -1, table.width])], f"{name}.output"
        )

    def linear(self, graph: GraphBuilder, name: str, x: str, parts: Sequence[Rows]) -> str:
        _store_int8(graph, name, parts)
        return self._multiply(graph, name, x, name, parts)

    def tied_head(self, graph: GraphBuilder, name: str, x: str, embedding: str, table: Rows) -> str:
        return self._multiply(graph, name, x, embedding, [table])

    def _multiply(self, graph: GraphBuilder, name: str, x: str, weight: str, parts: Sequence[Rows]) -> str:
        rows, width = _size(parts)
        return graph.node(
            "MatMulNBits",
            [x, f"{weight}.weight", f"{weight}.scales"],
            f"{name}.output",
            domain=MICROSOFT,
            K=width,
            N=rows,
            bits=_BITS,
            block_size=BLOCK,
            accuracy_level=_INT8_ACTIVATIONS,
        )


class Float32Format:
    """The weights as the file means them; the reference that quality is measured against."""

    recipe = "float32, dequantized"
    equalized = False

    def embed(self, graph: GraphBuilder, name: str, ids: str, table: Rows) -> str:
        return graph.node("Gather", [_store_float32(graph, name, [table]), ids], f"{name}.output")

    def linear(self, graph: GraphBuilder, name: str, x: str, parts: Sequence[Rows]) -> str:
        return self._multiply(graph, name, x, _store_float32(graph, name, parts))

    def tied_head(self, graph: GraphBuilder, name: str, x: str, embedding: str, table: Rows) -> str:
        return self._multiply(graph, name, x, f"{embedding}.weight")

    def _multiply(self, graph: GraphBuilder, name: str, x: str, weight: str) -> str:
        return graph.node("FusedMatMul", [x, weight], f"{name}.output", domain=MICROSOFT, transB=1)


FORMATS: Final[dict[WeightsName, WeightFormat]] = {"int8": Int8Format(), "float32": Float32Format()}


def _store_int8(graph: GraphBuilder, name: str, parts: Sequence[Rows]) -> None:
    """Write NAME.weight uint8 [N, K/32, 32] and NAME.scales [N, K/32], of the graph's float type."""
    rows, width = _size(parts)
    scales: list[NDArray[np.float32]] = []

    def weights() -> Iterator[NDArray[np.uint8]]:
        for packed, chunk_scales in int8_chunks(parts):
            scales.append(chunk_scales)
            yield packed

    graph.weight(f"{name}.weight", weights(), (rows, width // BLOCK, BLOCK), TensorProto.UINT8)
    graph.floats(f"{name}.scales", scales, (rows, width // BLOCK))


def _store_float32(graph: GraphBuilder, name: str, parts: Sequence[Rows]) -> str:
    """Write NAME.weight [N, K], of the graph's float type."""
    return graph.floats(f"{name}.weight", float_chunks(parts), _size(parts))


def _size(parts: Sequence[Rows]) -> tuple[int, int]:
    """Rows in all, and weights per row."""
    return sum(len(part.data) for part in parts), parts[0].width
