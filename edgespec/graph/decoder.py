"""The graph of a decoder: embedding, layers of attention and gated feed-forward, norms between them, output head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from onnx import TensorProto

from edgespec.graph.attention import Attention
from edgespec.graph.builder import MICROSOFT, GraphBuilder
from edgespec.graph.config import DecoderConfig
from edgespec.graph.equalize import Channels
from edgespec.graph.formats import WeightFormat
from edgespec.graph.quantize import Rows
from edgespec.graph.weights import WeightSource, vector

_TO_THE_END: Final = np.iinfo(np.int64).max
_RESIDUAL_UNIT: Final = 64.0
"""What the sum of Gemma's layers is divided by where floats are float16, which ends at 65,504; the sum does not. All
that is added has gone through the embedding's scale or a post-norm's gain, and the norms that read it mind no scale."""


class DecoderGraph:
    """Writes one model into a GraphBuilder. Shapes below: S rows of this pass, T = past + S, R rows of logits."""

    def __init__(
        self,
        graph: GraphBuilder,
        source: WeightSource,
        config: DecoderConfig,
        weights: WeightFormat,
        channels: Channels,
    ) -> None:
        """The channels of a norm are divided by their factors, and the columns that read them multiplied by them."""
        self._graph, self._source, self._config, self._weights = graph, source, config, weights
        self._channels = channels
        self._unit = _RESIDUAL_UNIT if config.post_norms and graph.profile == "cuda" else 1.0
        self._attention = Attention(graph, config, self._linear, self._head_norm)

    def build(self, layers: Sequence[int], progress: Callable[[float], None]) -> None:
        """Add everything, with these layers of the source, renumbered from 0.

        Raises: ModelError for a missing, misshapen or unreadable tensor; OSError if the weights cannot be written.
        """
        config, graph = self._config, self._graph
        ids = graph.input("input_ids", TensorProto.INT64, [1, "sequence_length"])
        graph.output("logits", graph.element, [1, "logits_length", config.vocab_size])
        self._attention.add_inputs(ids, [config.layers[source] for source in layers])
        table = self._source.rows("token_embd.weight")
        residual = self._weights.embed(graph, "embedding", ids, table)
        residual = self._scaled("embedding.scaled", residual, config.embedding_scale / self._unit)
        gain = self._gain("layers.0.attention_norm", f"blk.{layers[0]}.attn_norm.weight")
        x = self._norm("first_norm", residual, gain, self._unit)
        progress(self._share(0, layers))
        # A part of a model is a draft, and a unit is for float16: no head reads either.
        taps = config.taps if len(layers) == len(config.layers) and self._unit == 1.0 else ()
        tapped: list[str] = []
        for n, source in enumerate(layers):
            if n in taps:
                tapped.append(residual)
            gain = f"blk.{source}.ffn_norm.weight"
            added = self._attention.add(n, source, x)
            x, residual = self._add_and_norm(n, source, "attention", added, residual, gain)
            following = f"blk.{layers[n + 1]}.attn_norm.weight" if n + 1 < len(layers) else "output_norm.weight"
            added = self._feed_forward(n, source, x)
            x, residual = self._add_and_norm(n, source, "ffn", added, residual, following)
            progress(self._share(n + 1, layers))
        if tapped:
            graph.output("hidden_states", graph.element, [1, "sequence_length", len(taps) * config.hidden_size])
            graph.node("Concat", tapped, "tapped", ["hidden_states"], axis=-1)
        self._head(x, table)

    def _share(self, done: int, layers: Sequence[int]) -> float:
        """The embedding counts as a layer."""
        return (done + 1) / (len(layers) + 1)

    def _feed_forward(self, n: int, source: int, x: str) -> str:
        graph, name = self._graph, f"layers.{n}.ffn"
        parts = [f"blk.{source}.ffn_{part}" for part in ("gate", "up")]
        both = self._linear(f"{name}.gate_up", x, parts, f"blk.{source}.ffn_norm.weight")
        gate, up = f"{name}.gate", f"{name}.up"
        graph.node("Split", [both], f"{name}.split", [gate, up], axis=-1, num_outputs=2)
        if self._config.activation == "silu":
            # x * sigmoid(alpha * x): with alpha 1 it is SiLU.
            activated = graph.node("QuickGelu", [gate], f"{name}.silu", domain=MICROSOFT, alpha=1.0)
        else:
            activated = graph.node("FastGelu", [gate], f"{name}.gelu", domain=MICROSOFT)
        product = graph.node("Mul", [activated, up], f"{name}.product")
        return self._linear(f"{name}.down", product, [f"blk.{source}.ffn_down"])

    def _add_and_norm(self, n: int, source: int, block: str, x: str, residual: str, gain: str) -> tuple[str, str]:
        """Add what a block computed to the residual and norm the sum. Returns the normed sum, and the sum itself."""
        if self._config.post_norms:
            part = "post_attention_norm" if block == "attention" else "post_ffw_norm"
            name = f"layers.{n}.{block}.post_norm"
            x = self._norm(f"{name}.output", x, self._gain(name, f"blk.{source}.{part}.weight", self._unit))
        x = self._scaled(f"layers.{n}.{block}.scaled", x, self._config.residual_scale)
        name = f"layers.{n}.ffn_norm" if block == "attention" else f"layers.{n}.next_norm"
        outputs = [f"{name}.output", "", "", f"{name}.sum"]
        self._graph.node(
            "SkipSimplifiedLayerNormalization",
            [x, residual, self._gain(name, gain)],
            name,
            outputs,
            MICROSOFT,
            epsilon=self._config.rms_epsilon / self._unit**2,
        )
        return outputs[0], outputs[3]

    def _head(self, x: str, table: Rows) -> None:
        """Logits for the last rows that `num_logits_to_keep` asks for; its default 0 means all."""
        config, graph = self._config, self._graph
        keep = graph.constant("num_logits_to_keep", 0)
        # -keep, where 0 is the first row and a start before that is clamped to it. Taken from the count of rows, which
        # the host holds, it is there when Slice asks for it: on a GPU all before it would have to be waited for.
        rows = self._attention.rows
        minus = graph.node("Sub", [graph.node("Sub", [rows, keep], "rows_left_out"), rows], "minus_kept")
        start = graph.node("Reshape", [minus, graph.constant("list", [1])], "start")
        end, axis = graph.constant("end", [_TO_THE_END]), graph.constant("row_axis", [1])
        kept = graph.node("Slice", [x, start, end, axis], "kept_rows")
        if config.tied:
            logits = self._weights.tied_head(graph, "head", kept, "embedding", table)
        else:
            logits = self._linear("head", kept, ["output"])
        if (cap := config.logit_softcap) is not None:
            bounded = graph.node("Tanh", [self._scaled("head.share", logits, 1 / cap)], "head.tanh")
            logits = self._scaled("head.capped", bounded, cap)
        graph.node("Identity", [logits], "logits")

    def _linear(self, name: str, x: str, tensors: Sequence[str], gain: str = "") -> str:
        """The products with some matrices, one after the other, and their biases. `gain` names the norm that they
        read, if they read one that may have factors."""
        factors = self._channels.factors.get(gain)
        parts = [
            replace(
                self._source.rows(name),
                factors=factors,
                energy=self._channels.energies.get(name),
                delicate=name in self._channels.delicate,
            )
            for name in (f"{tensor}.weight" for tensor in tensors)
        ]
        product = self._weights.linear(self._graph, name, x, parts)
        biased = [tensor.split(".")[-1] in self._config.biases for tensor in tensors]
        if not any(biased):
            return product
        sizes = [len(part.data) for part in parts]
        biases = [
            vector(self._source, f"{tensor}.bias") if has else np.zeros(size, np.float32)
            for tensor, has, size in zip(tensors, biased, sizes, strict=True)
        ]
        bias = self._graph.floats(f"{name}.bias", biases, [sum(sizes)])
        return self._graph.node("Add", [product, bias], f"{name}.biased")

    def _norm(self, name: str, x: str, gain: str, unit: float = 1.0) -> str:
        """`unit`: what x was divided by."""
        epsilon = self._config.rms_epsilon / unit**2
        return self._graph.node("SimplifiedLayerNormalization", [x, gain], name, epsilon=epsilon, axis=-1)

    def _head_norm(self, name: str, x: str, gain: str) -> str:
        return self._norm(name, x, self._gain(f"{name}.gain", gain))

    def _gain(self, name: str, source: str, unit: float = 1.0) -> str:
        """The weights that a norm multiplies by, divided by `unit`."""
        values = vector(self._source, source) / self._channels.factors.get(source, np.float32(1))
        scale = self._config.logit_scale if source == "output_norm.weight" else 1 / unit
        values = values * np.float32(scale)
        return self._graph.floats(f"{name}.weight", [values], [len(values)])

    def _scaled(self, name: str, x: str, scale: float) -> str:
        if scale == 1.0:
            return x
        return self._graph.node("Mul", [x, self._graph.constant(f"{name}.by", scale, self._graph.dtype)], name)
