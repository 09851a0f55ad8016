"""How weights are stored and multiplied: the nodes for an embedding and for linear layers, in int8, int4 or float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgespec.graph.builder import MICROSOFT, GraphBuilder
from edgespec.graph.int4 import carried_chunks, has_four_bits, has_least_values, int4_chunks, sum_columns
from edgespec.graph.quantize import BLOCK, Rows, float_chunks, int8_chunks

WeightsName = Literal["int8", "int4", "mixed", "kept", "float32"]
_INT8_ACTIVATIONS: Final = 4
"""MatMulNBits' accuracy_level whose passes of a few rows cost little more than those of one."""
WORTH_SUMS: Final = 1 << 20
"""Weights behind one input. The nodes that make its sums take about 10 microseconds, in which the processor reads what
four bits save on half as many; and four bits take longer to multiply."""
EVEN_LAYERS: Final = 2
"""Last layers whose channels are evened out even if that takes four bits off their grid: what is rounded there nothing
makes good any more. In the default model they are most of what four bits cost (docs/decisions/0013-int4.md)."""

_Quantized = tuple[NDArray[np.uint8], NDArray[np.float32]]


class WeightFormat(Protocol):
    """Nodes for the two things that weights are used for. Activations are of the graph's float type."""

    @property
    def recipe(self) -> str:
        """What the weights went through, for the manifest."""
        ...

    @property
    def rounded(self) -> bool:
        """Whether weights or the inputs of products are rounded, so that how loud the channels are matters."""
        ...

    def equalizes(self, parts: Sequence[Rows], behind: int) -> bool:
        """Whether evening out the channels that all of `parts` read (equalize.py) pays; `behind`: how many layers
        follow theirs."""
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
    rounded = True

    def equalizes(self, parts: Sequence[Rows], behind: int) -> bool:
        return True

    def embed(self, graph: GraphBuilder, name: str, ids: str, table: Rows) -> str:
        self._store(graph, name, int8_chunks([table]), len(table.data), table.width, 8)
        blocks = table.width // BLOCK
        # Kept in the shape that MatMulNBits demands, so that the head can use the same tensor: a Reshape in between
        # would be folded into a second copy. Only the scales need another shape, and are stored once all the same.
        scales = graph.alias(f"{name}.scales_3d", f"{name}.scales", (len(table.data), blocks, 1))
        gathered = graph.node(
            "GatherBlockQuantized",
            [f"{name}.weight", ids, scales],
            f"{name}.blocks",
            domain=MICROSOFT,
            bits=8,
            block_size=BLOCK,
            gather_axis=0,
            quantize_axis=2,
        )
        return graph.node(
            "Reshape", [gathered, graph.constant(f"{name}.shape", [1, -1, table.width])], f"{name}.output"
        )

    def linear(self, graph: GraphBuilder, name: str, x: str, parts: Sequence[Rows]) -> str:
        rows, width = _size(parts)
        self._store(graph, name, int8_chunks(parts), rows, width, 8)
        return self._multiply(graph, name, x, name, rows, width, 8)

    def tied_head(self, graph: GraphBuilder, name: str, x: str, embedding: str, table: Rows) -> str:
        return self._multiply(graph, name, x, embedding, len(table.data), table.width, 8)

    def _store(
        self, graph: GraphBuilder, name: str, chunks: Iterable[_Quantized], rows: int, width: int, bits: int
    ) -> None:
        """Write NAME.weight uint8 [N, K/32, 32*bits/8] and NAME.scales [N, K/32], of the graph's float type."""
        scales: list[NDArray[np.float32]] = []

        def weights() -> Iterator[NDArray[np.uint8]]:
            for packed, chunk_scales in chunks:
                scales.append(chunk_scales)
                yield packed

        graph.weight(f"{name}.weight", weights(), (rows, width // BLOCK, BLOCK * bits // 8), TensorProto.UINT8)
        graph.floats(f"{name}.scales", scales, (rows, width // BLOCK))

    def _multiply(self, graph: GraphBuilder, name: str, x: str, weight: str, rows: int, width: int, bits: int) -> str:
        return graph.node(
            "MatMulNBits",
            [x, f"{weight}.weight", f"{weight}.scales"],
            f"{name}.output",
            domain=MICROSOFT,
            K=width,
            N=rows,
            bits=bits,
            block_size=BLOCK,
            accuracy_level=_INT8_ACTIVATIONS,
        )


class Int4Format(Int8Format):
    """Symmetric int4 in blocks of 32; int8 for embedding and head, delicate rows and the parts of layers named."""

    def __init__(self, recipe: str, int8_parts: frozenset[str] = frozenset()) -> None:
        self.recipe = recipe
        self._int8_parts = int8_parts | {"head"}

    def linear(self, graph: GraphBuilder, name: str, x: str, parts: Sequence[Rows]) -> str:
        if name.split(".")[-1] in self._int8_parts or any(part.delicate for part in parts):
            return super().linear(graph, name, x, parts)
        rows, width = _size(parts)
        self._store(graph, name, int4_chunks(parts), rows, width, 4)
        return self._multiply(graph, name, x, name, rows, width, 4)


class KeptFormat(Int8Format):
    """The file's own values where it has int4.py's four bits and that pays, at the speed of int4; int8 for all else.
    What has been evened out has them no longer."""

    recipe = "kept: the file's own 4-bit values where they pay, else int8 with equalized channels, block 32, level 4"

    def equalizes(self, parts: Sequence[Rows], behind: int) -> bool:
        return not _pays(parts) or behind < EVEN_LAYERS

    def linear(self, graph: GraphBuilder, name: str, x: str, parts: Sequence[Rows]) -> str:
        if not _pays(parts):
            return super().linear(graph, name, x, parts)
        rows, width = _size(parts)
        if has_least_values(parts):
            x, width = self._with_sums(graph, x, width), width + 2 * sum_columns(width)
        self._store(graph, name, carried_chunks(parts), rows, width, 4)
        return self._multiply(graph, name, x, name, rows, width, 4)

    def _with_sums(self, graph: GraphBuilder, x: str, width: int) -> str:
        """x [1,S,K] -> [1,S,K + 2C]: x, and behind it twice the sums of its blocks, C = `sum_columns`."""
        blocks = width // BLOCK
        shape = graph.constant(f"{x}.blocks_shape", [1, -1, blocks, BLOCK])
        axes = graph.constant(f"{x}.sums_axis", [3])
        sums = graph.node(
            "ReduceSum", [graph.node("Reshape", [x, shape], f"{x}.blocks"), axes], f"{x}.sums", keepdims=0
        )
        if missing := sum_columns(width) - blocks:
            pads = graph.constant(f"{x}.sums_pads", [0, 0, 0, 0, 0, missing])
            sums = graph.node("Pad", [sums, pads], f"{x}.padded_sums")
        return graph.node("Concat", [x, sums, sums], f"{x}.with_sums", axis=-1)


class Float32Format:
    """The weights as the file means them; the reference that quality is measured against."""

    recipe = "float32, dequantized"
    rounded = False

    def equalizes(self, parts: Sequence[Rows], behind: int) -> bool:
        return False

    def embed(self, graph: GraphBuilder, name: str, ids: str, table: Rows) -> str:
        return graph.node("Gather", [_store_float32(graph, name, [table]), ids], f"{name}.output")

    def linear(self, graph: GraphBuilder, name: str, x: str, parts: Sequence[Rows]) -> str:
        return self._multiply(graph, name, x, _store_float32(graph, name, parts))

    def tied_head(self, graph: GraphBuilder, name: str, x: str, embedding: str, table: Rows) -> str:
        return self._multiply(graph, name, x, f"{embedding}.weight")

    def _multiply(self, graph: GraphBuilder, name: str, x: str, weight: str) -> str:
        return graph.node("FusedMatMul", [x, weight], f"{name}.output", domain=MICROSOFT, transB=1)


FORMATS: Final[Mapping[WeightsName, WeightFormat]] = MappingProxyType(
    {
        "int8": Int8Format(),
        "int4": Int4Format("int4 symmetric block 32, int8 where delicate, equalized channels, accuracy level 4"),
        "mixed": Int4Format(
            "mixed: int4 in attention output, gate and up, else int8, block 32, equalized channels, accuracy level 4",
            frozenset({"qkv", "down"}),
        ),
        "kept": KeptFormat(),
        "float32": Float32Format(),
    }
)
"""`mixed` spares the two kinds of matrix that cost the default model most: of its mean KL of 0.22 in int4, half is due
to down and a fifth to qkv."""


def _pays(parts: Sequence[Rows]) -> bool:
    """Whether `parts` have four bits, and so many of them that it pays to keep them."""
    rows, width = _size(parts)
    return has_four_bits(parts) and (not has_least_values(parts) or rows * width >= WORTH_SUMS)


def _store_float32(graph: GraphBuilder, name: str, parts: Sequence[Rows]) -> str:
    """Write NAME.weight [N, K], of the graph's float type."""
    return graph.floats(f"{name}.weight", float_chunks(parts), _size(parts))


def _size(parts: Sequence[Rows]) -> tuple[int, int]:
    """Rows in all, and weights per row."""
    return sum(len(part.data) for part in parts), parts[0].width
