"""Grouped-query attention over a shared KV buffer, with what it needs to know of lengths and positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from onnx import TensorProto

from edgespec.graph.builder import MICROSOFT, GraphBuilder
from edgespec.graph.config import DecoderConfig, LayerConfig, Rotary
from edgespec.graph.rotary import has_long_table, table_chunks, table_rows


class Linear(Protocol):
    """Add the products of x with some tensors, of which `gain` is the norm that they read."""

    def __call__(self, name: str, x: str, tensors: Sequence[str], gain: str = "") -> str: ...


Norm = Callable[[str, str, str], str]
"""Add a norm: its name, its input, and the name of its gain."""


@dataclass(frozen=True, slots=True)
class _Tables:
    """How GroupQueryAttention is told of positions: the tables, and for LongRoPE the row of each position."""

    cos: str
    sin: str
    rows: str = ""


class Attention:
    """Adds the attention of a model's layers. Shapes: S rows of this pass, T = past + S, P rows of padding."""

    def __init__(self, graph: GraphBuilder, config: DecoderConfig, linear: Linear, norm: Norm) -> None:
        self._graph, self._config, self._linear, self._norm = graph, config, linear, norm
        # Matrix products on a GPU mind how many rows they get, so padding attention alone would gain nothing there.
        self._padded: Final = graph.profile == "cpu"
        self._padded_rows = self._rows_count = ""
        self._count = self._valid = self._width = ""  # S + P, T + P twice: what the mask says, what it is wide
        self._tree: list[str] = []
        self._lengths: list[str] = []
        self._layers: list[tuple[LayerConfig, _Tables | None]] = []

    def add_inputs(self, ids: str, layers: Sequence[LayerConfig]) -> None:
        """The inputs that say how long past + S is, and the rotation tables of `layers`, those of the graph."""
        shape, axis = self._graph.node("Shape", [ids], "ids_shape"), self._graph.constant("ids_axis", 1)
        self.rows = self._count = self._graph.node("Gather", [shape, axis], "rows")
        if self._padded:
            self._add_padding()
        self._add_lengths()
        tables: dict[Rotary, _Tables] = {}
        for layer in layers:
            if layer.rotary is not None and layer.rotary not in tables:
                tables[layer.rotary] = self._add_tables(layer.rotary, f"_{len(tables)}" if tables else "")
        self._layers = [(layer, tables[layer.rotary] if layer.rotary else None) for layer in layers]
        # A window counts rows, not positions, and a long table has rows of its own: no trees there.
        if self._padded and not any(layer.window for layer in layers) and not any(t.rows for t in tables.values()):
            self._tree = [self._add_positions(), self._add_bias()]

    def add(self, n: int, source: int, x: str) -> str:
        """The attention of layer `n` of the graph, which is layer `source` of the model: [1,S,hidden] to the same."""
        config, graph, name = self._config, self._graph, f"layers.{n}.attention"
        parts = [f"blk.{source}.attn_{part}" for part in "qkv"]
        packed = self._linear(f"{name}.qkv", x, parts, f"blk.{source}.attn_norm.weight")
        past, present = ([f"{when}.{n}.{what}" for what in ("key", "value")] for when in ("past_key_values", "present"))
        for before, after in zip(past, present, strict=True):
            graph.input(before, graph.element, [1, config.kv_heads, "past_length", config.head_size])
            graph.output(after, graph.element, [1, config.kv_heads, "present_length", config.head_size])
        if self._padded:
            packed = graph.node("Gather", [packed, self._padded_rows], f"{name}.query", axis=1)
        inputs = self._split(name, source, packed) if config.qk_norms else [packed, "", ""]
        attended = self._attend(n, name, [*inputs, *past], present)
        if self._padded:
            bounds = [graph.constant(f"{name}.from", [0]), self._rows_count, graph.constant(f"{name}.axis", [1])]
            attended = graph.node("Slice", [attended, *bounds], f"{name}.output")
        return self._linear(f"{name}.projection", attended, [f"blk.{source}.attn_output"])

    def _attend(self, n: int, name: str, inputs: list[str], present: list[str]) -> str:
        config, (layer, tables) = self._config, self._layers[n]
        attributes: dict[str, Any] = {}
        if config.attention_scale != config.head_size**-0.5:
            attributes["scale"] = config.attention_scale
        if layer.window is not None:
            attributes["local_window_size"] = layer.window
        if config.attention_softcap is not None:
            attributes["softcap"] = config.attention_softcap
        inputs = [*inputs, *self._lengths]
        if tables is not None:
            inputs += [tables.cos, tables.sin, *([tables.rows] if tables.rows else self._tree)]
        elif self._tree:
            inputs += ["", "", *self._tree]
        return self._graph.node(
            "GroupQueryAttention",
            inputs,
            name,
            [f"{name}.padded" if self._padded else f"{name}.output", *present],
            MICROSOFT,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            do_rotary=int(tables is not None),
            **attributes,
        )

    def _split(self, name: str, source: int, packed: str) -> list[str]:
        """Query, key and value apart, the first two normed head by head. (The CPU's GroupQueryAttention cannot.)"""
        config, graph = self._config, self._graph
        sizes = graph.constant(f"{name}.sizes", [config.query_size, config.key_size, config.key_size])
        outputs = [f"{name}.{part}" for part in "qkv"]
        graph.node("Split", [packed, sizes], f"{name}.split", outputs, axis=-1)
        return [self._normed(part, f"blk.{source}.attn_{part[-1]}_norm.weight") for part in outputs[:2]] + outputs[2:]

    def _normed(self, x: str, gain: str) -> str:
        graph = self._graph
        shape = graph.constant(f"{x}.heads_shape", [0, 0, -1, self._config.head_size])
        heads = graph.node("Reshape", [x, shape], f"{x}.heads")
        normed = self._norm(f"{x}.norm", heads, gain)
        return graph.node("Reshape", [normed, graph.constant(f"{x}.shape", [0, 0, -1])], f"{x}.normed")

    def _add_padding(self) -> None:
        """attention_padding P (0 unless given): attention sees the last row P times more. It has one kernel for a lone
        row and another for several, and their sums differ in the last bits; no other operator here does that."""
        graph, rows = self._graph, self._count
        padding = graph.input("attention_padding", TensorProto.INT64, [])
        graph.constant(padding, 0)
        zero, one = graph.constant("padding_zero", 0), graph.constant("padding_one", 1)
        self._count = graph.node("Add", [rows, padding], "padded_count")
        every = graph.node("Range", [zero, self._count, one], "padded_range")
        last = graph.node("Sub", [rows, one], "last_row")
        self._padded_rows = graph.node("Min", [every, last], "padded_rows")
        self._rows_count = graph.node("Unsqueeze", [rows, graph.constant("padding_axis", [0])], "rows_list")

    def _add_lengths(self) -> None:
        """From the mask and the padding: how long past + S is, in GroupQueryAttention's terms."""
        graph = self._graph
        mask = graph.input("attention_mask", TensorProto.INT64, [1, "total_sequence_length"])
        graph.input("num_logits_to_keep", TensorProto.INT64, [])
        valid = graph.node("ReduceSum", [mask, graph.constant("mask_axis", [1])], "given", keepdims=0)
        if self._padded:
            valid = graph.node("Add", [valid, "attention_padding"], "valid")
        self._valid = valid
        last = graph.node("Sub", [valid, graph.constant("one", [1])], "last_position")
        seqlens = graph.node("Cast", [last], "seqlens_k", to=TensorProto.INT32)
        width = graph.node("Gather", [graph.node("Shape", [mask], "mask_shape"), graph.constant("column", 1)], "width")
        if self._padded:
            width = graph.node("Add", [width, "attention_padding"], "padded_width")
        self._width = width
        self._lengths = [seqlens, graph.node("Cast", [width], "total_length", to=TensorProto.INT32)]

    def _add_positions(self) -> str:
        """The position of each row, int64 [1,S+P]: what the optional input position_ids says, else one after the other
        behind the past."""
        graph = self._graph
        given = graph.constant(graph.input("position_ids", TensorProto.INT64, [1, "sequence_length_given"]), [[-1]])
        end = graph.node("Squeeze", [self._valid], "positions_end")
        start = graph.node("Sub", [end, self._count], "positions_start")
        rising = graph.node("Range", [start, end, graph.constant("positions_step", 1)], "positions_rising")
        rising = graph.node("Unsqueeze", [rising, graph.constant("positions_axis", [0])], "positions_by_default")
        absent = graph.node("Less", [given, graph.constant("positions_first", 0)], "positions_absent")
        return graph.node("Where", [absent, rising, given], "positions")

    def _add_bias(self) -> str:
        """What is added to the attention scores, [1,1,S+P,T+P]: the optional input attention_bias, else nothing."""
        graph = self._graph
        shape = [1, 1, "sequence_length_biased", "total_sequence_length_biased"]
        given = graph.constant(graph.input("attention_bias", TensorProto.FLOAT, shape), [[[[0.0]]]], np.float32)
        axis = graph.constant("bias_axis", [0])
        sizes = [graph.node("Unsqueeze", [n, axis], f"{n}_list") for n in (self._count, self._width)]
        full = graph.node("Concat", [graph.constant("bias_heads", [1, 1]), *sizes], "bias_shape", axis=0)
        return graph.node("Expand", [given, full], "bias")

    def _add_tables(self, rotary: Rotary, suffix: str) -> _Tables:
        graph, context = self._graph, self._config.context_length
        shape = (table_rows(rotary, context), len(rotary.frequencies))
        cos, sin = (
            graph.floats(f"{name}_cache{suffix}", table_chunks(rotary, context, function), shape)
            for name, function in (("cos", np.cos), ("sin", np.sin))
        )
        return _Tables(cos, sin, self._add_rows(rotary) if has_long_table(rotary, context) else "")

    def _add_rows(self, rotary: Rotary) -> str:
        """The table row of each position, int64 [1,S+P]: behind those of the short context where the optional input
        context_length, the model's unless given, is longer than that. It is counted from shapes, which the host does,
        even where that takes a detour: what begins with an input is given to a GPU, and would be waited for."""
        graph = self._graph
        context = graph.input("context_length", TensorProto.INT64, [])
        graph.constant(context, self._config.context_length)
        short, zero, one = (
            graph.constant(f"table_{n}", v) for n, v in (("short", rotary.short_context), ("0", 0), ("1", 1))
        )
        longer, shorter = (graph.node("Add", [self.rows, n], f"{n}_and_rows") for n in (context, short))
        chosen = graph.node("Where", [graph.node("Greater", [longer, shorter], "is_long"), short, zero], "table_start")
        end = graph.node("Add", [self._width, chosen], "table_end")
        start = graph.node("Sub", [end, self._count], "table_first")
        rows = graph.node("Range", [start, end, one], "table_rows")
        return graph.node("Unsqueeze", [rows, graph.constant("table_axis", [0])], "table_row_ids")
