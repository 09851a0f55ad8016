"""The graph of the llama family: RMS norm, grouped-query attention with rotary positions, gated SiLU feed-forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgespec.graph.builder import MICROSOFT, GraphBuilder
from edgespec.graph.config import LlamaConfig
from edgespec.graph.formats import WeightFormat
from edgespec.graph.gguf_reader import GGUFFile, shown
from edgespec.graph.quantize import Rows, vector
from edgespec.graph.rotary import rotation_frequencies

_TO_THE_END: Final = np.iinfo(np.int64).max
_LAYER_TENSORS: Final = (
    "attn_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
)
_CACHE_CHUNK: Final = 8192
"""Positions of the rotation tables computed at a time."""


class LlamaGraph:
    """Writes one model into a GraphBuilder. Shapes below: S rows of this pass, T = past + S, R rows of logits."""

    def __init__(
        self,
        graph: GraphBuilder,
        file: GGUFFile,
        config: LlamaConfig,
        weights: WeightFormat,
        factors: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """`factors`, by the name of a norm's gain: what the norm's channels are divided by, and its readers' columns
        multiplied by.

        Raises: ModelError if the file has tensors whose part in the model is not known.
        """
        self._graph, self._file, self._config, self._weights, self._factors = graph, file, config, weights, factors
        self._attention_inputs: list[str] = []
        self._padded_rows = self._rows_count = ""
        self._check_names()

    def build(self, layers: Sequence[int], progress: Callable[[float], None]) -> None:
        """Add everything, with these layers of the source, renumbered from 0.

        Raises: ModelError for a missing, misshapen or unreadable tensor; OSError if the weights cannot be written.
        """
        config = self._config
        ids = self._graph.input("input_ids", TensorProto.INT64, [1, "sequence_length"])
        self._graph.output("logits", TensorProto.FLOAT, [1, "logits_length", config.vocab_size])
        self._add_padding(ids)
        self._add_lengths()
        table = self._rows("token_embd.weight", config.vocab_size, config.hidden_size)
        residual = self._weights.embed(self._graph, "embedding", ids, table)
        x = self._first_norm(residual, layers[0])
        progress(self._share(0, layers))
        for n, source in enumerate(layers):
            x, residual = self._attention(n, source, x, residual)
            following = f"blk.{layers[n + 1]}.attn_norm.weight" if n + 1 < len(layers) else "output_norm.weight"
            x, residual = self._feed_forward(n, source, x, residual, following)
            progress(self._share(n + 1, layers))
        self._head(x, table)

    def _share(self, done: int, layers: Sequence[int]) -> float:
        """The embedding counts as a layer."""
        return (done + 1) / (len(layers) + 1)

    def _check_names(self) -> None:
        known = {f"{name}.weight" for name in ("token_embd", "output", "output_norm", "rope_freqs")}
        known |= {f"blk.{n}.{part}.weight" for n in range(self._config.layers) for part in _LAYER_TENSORS}
        for name in self._file.tensors:
            if name not in known:
                raise self._file.error(f"it has a tensor {shown(name)}, which plain llama models do not have")

    def _add_padding(self, ids: str) -> None:
        """attention_padding P (0 unless given): attention sees the last row P times more. It has one kernel for a lone
        row and another for several, and their sums differ in the last bits; no other operator here does that."""
        graph = self._graph
        padding = graph.input("attention_padding", TensorProto.INT64, [])
        graph.constant(padding, 0)
        zero, one = graph.constant("padding_zero", 0), graph.constant("padding_one", 1)
        rows = graph.node("Gather", [graph.node("Shape", [ids], "ids_shape"), one], "rows")
        every = graph.node("Range", [zero, graph.node("Add", [rows, padding], "padded_count"), one], "padded_range")
        last = graph.node("Sub", [rows, one], "last_row")
        self._padded_rows = graph.node("Min", [every, last], "padded_rows")
        self._rows_count = graph.node("Unsqueeze", [rows, graph.constant("padding_axis", [0])], "rows_list")

    def _add_lengths(self) -> None:
        """From the mask, the padding and the file: how long past + S is, in GroupQueryAttention's terms, and the
        rotation tables."""
        graph, half = self._graph, self._config.head_size // 2
        mask = graph.input("attention_mask", TensorProto.INT64, [1, "total_sequence_length"])
        graph.input("num_logits_to_keep", TensorProto.INT64, [])
        given = graph.node("ReduceSum", [mask, graph.constant("mask_axis", [1])], "given", keepdims=0)
        valid = graph.node("Add", [given, "attention_padding"], "valid")
        last = graph.node("Sub", [valid, graph.constant("one", [1])], "last_position")
        seqlens = graph.node("Cast", [last], "seqlens_k", to=TensorProto.INT32)
        width = graph.node("Gather", [graph.node("Shape", [mask], "mask_shape"), graph.constant("column", 1)], "width")
        padded = graph.node("Add", [width, "attention_padding"], "padded_width")
        total = graph.node("Cast", [padded], "total_length", to=TensorProto.INT32)
        frequencies = rotation_frequencies(self._file, self._config)
        caches = [
            graph.weight(name, self._rotations(frequencies, f), (self._config.context_length, half), TensorProto.FLOAT)
            for name, f in (("cos_cache", np.cos), ("sin_cache", np.sin))
        ]
        self._attention_inputs = [seqlens, total, *caches]

    def _rotations(
        self, frequencies: NDArray[np.float64], function: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    ) -> Iterator[NDArray[np.float32]]:
        for start in range(0, self._config.context_length, _CACHE_CHUNK):
            positions = np.arange(start, min(start + _CACHE_CHUNK, self._config.context_length))
            yield function(np.outer(positions, frequencies)).astype(np.float32)

    def _attention(self, n: int, source: int, x: str, residual: str) -> tuple[str, str]:
        """Attention and the norm behind it. Returns the normed sum, and the sum itself as the new residual."""
        config, graph, name = self._config, self._graph, f"layers.{n}.attention"
        queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
        q, k, v = (
            self._rows(f"blk.{source}.attn_{part}.weight", rows, config.hidden_size, f"blk.{source}.attn_norm.weight")
            for part, rows in (("q", queries), ("k", keys), ("v", keys))
        )
        parts = [q.interleaved_to_halves(config.heads), k.interleaved_to_halves(config.kv_heads), v]
        packed = self._weights.linear(graph, f"{name}.qkv", x, parts)
        past, present = ([f"{when}.{n}.{what}" for what in ("key", "value")] for when in ("past_key_values", "present"))
        for before, after in zip(past, present, strict=True):
            shape = [1, config.kv_heads, "past_length", config.head_size]
            graph.input(before, TensorProto.FLOAT, shape)
            graph.output(after, TensorProto.FLOAT, [1, config.kv_heads, "present_length", config.head_size])
        padded = graph.node("Gather", [packed, self._padded_rows], f"{name}.query", axis=1)
        attended = graph.node(
            "GroupQueryAttention",
            [padded, "", "", *past, *self._attention_inputs],
            name,
            [f"{name}.padded", *present],
            MICROSOFT,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            do_rotary=1,
        )
        bounds = [graph.constant(f"{name}.from", [0]), self._rows_count, graph.constant(f"{name}.axis", [1])]
        attended = graph.node("Slice", [attended, *bounds], f"{name}.output")
        output = self._rows(f"blk.{source}.attn_output.weight", config.hidden_size, queries)
        projected = self._weights.linear(graph, f"{name}.projection", attended, [output])
        return self._add_and_norm(f"layers.{n}.ffn_norm", projected, residual, f"blk.{source}.ffn_norm.weight")

    def _feed_forward(self, n: int, source: int, x: str, residual: str, norm: str) -> tuple[str, str]:
        """Feed-forward and the norm behind it, which is the next layer's. Returns as `_attention`."""
        config, graph, name = self._config, self._graph, f"layers.{n}.ffn"
        gain = f"blk.{source}.ffn_norm.weight"
        gate, up = (
            self._weights.linear(
                graph,
                f"{name}.{part}",
                x,
                [self._rows(f"blk.{source}.ffn_{part}.weight", config.ffn_size, config.hidden_size, gain)],
            )
            for part in ("gate", "up")
        )
        # x * sigmoid(alpha * x): with alpha 1 it is SiLU.
        activated = graph.node("QuickGelu", [gate], f"{name}.silu", domain=MICROSOFT, alpha=1.0)
        product = graph.node("Mul", [activated, up], f"{name}.product")
        down = self._rows(f"blk.{source}.ffn_down.weight", config.hidden_size, config.ffn_size)
        added = self._weights.linear(graph, f"{name}.down", product, [down])
        return self._add_and_norm(f"layers.{n}.next_norm", added, residual, norm)

    def _first_norm(self, x: str, source: int) -> str:
        scale = self._norm_weight("layers.0.attention_norm", f"blk.{source}.attn_norm.weight")
        epsilon = self._config.rms_epsilon
        return self._graph.node("SimplifiedLayerNormalization", [x, scale], "first_norm", epsilon=epsilon, axis=-1)

    def _add_and_norm(self, name: str, x: str, residual: str, source: str) -> tuple[str, str]:
        outputs = [f"{name}.output", "", "", f"{name}.sum"]
        self._graph.node(
            "SkipSimplifiedLayerNormalization",
            [x, residual, self._norm_weight(name, source)],
            name,
            outputs,
            MICROSOFT,
            epsilon=self._config.rms_epsilon,
        )
        return outputs[0], outputs[3]

    def _head(self, x: str, table: Rows) -> None:
        """Logits for the last rows that `num_logits_to_keep` asks for; its default 0 means all."""
        config, graph = self._config, self._graph
        keep = graph.constant("num_logits_to_keep", 0)
        # -0 is 0, the first row; a start before that is clamped to it.
        start = graph.node("Reshape", [graph.node("Neg", [keep], "minus_kept"), graph.constant("list", [1])], "start")
        end, axis = graph.constant("end", [_TO_THE_END]), graph.constant("row_axis", [1])
        kept = graph.node("Slice", [x, start, end, axis], "kept_rows")
        if "output.weight" in self._file.tensors:
            logits = self._weights.linear(
                graph, "head", kept, [self._rows("output.weight", config.vocab_size, config.hidden_size)]
            )
        else:
            logits = self._weights.tied_head(graph, "head", kept, "embedding", table)
        graph.node("Identity", [logits], "logits")

    def _rows(self, name: str, rows: int, width: int, gain: str = "") -> Rows:
        """`gain` names the norm that they read, if they read one that may have factors."""
        return Rows.of(self._file.tensor(name, rows, width), self._factors.get(gain))

    def _norm_weight(self, name: str, source: str) -> str:
        size = self._config.hidden_size
        values = vector(self._file.tensor(source, size)) / self._factors.get(source, np.float32(1))
        return self._graph.weight(f"{name}.weight", [values], [size], TensorProto.FLOAT)
