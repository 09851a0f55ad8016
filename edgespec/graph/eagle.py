"""The graph of an EAGLE-3 head (Li et al. 2025, arXiv:2503.01840).

A row stands for a position of the text. It reads the embedding of the token behind it, and a feature: of a position
that the target has computed, `fc` of three of its hidden states; of a later one, the head's own state. One decoder
layer over both makes the row's state, and an output head over a part of the vocabulary says which token follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgespec.graph.builder import MICROSOFT, GraphBuilder
from edgespec.graph.config import Rotary
from edgespec.graph.formats import WeightFormat
from edgespec.graph.rotary import table_chunks
from edgespec.graph.weights import WeightSource, vector


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Sizes are counts of floats. tapped_size: of the target's hidden states together. embedding_size: of the target's
    embeddings. vocab_size: how many tokens the head knows. window: how many positions a row attends to, its own
    included; None is all. norm_before_residual: whether what is added to is the normed feature."""

    hidden_size: int
    tapped_size: int
    embedding_size: int
    ffn_size: int
    heads: int
    kv_heads: int
    head_size: int
    context_length: int
    vocab_size: int
    rms_epsilon: float
    rotary: Rotary
    window: int | None = None
    norm_before_residual: bool = False

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the head by its canonical name, and its shape, rows first."""
        hidden, read = self.hidden_size, self.embedding_size + self.hidden_size
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        shapes: dict[str, tuple[int, ...]] = {
            "fc": (hidden, self.tapped_size),
            "attn_q": (queries, read),
            "attn_k": (keys, read),
            "attn_v": (keys, read),
            "attn_output": (hidden, queries),
            "ffn_gate": (self.ffn_size, hidden),
            "ffn_up": (self.ffn_size, hidden),
            "ffn_down": (hidden, self.ffn_size),
            "embedding_norm": (self.embedding_size,),
            "feature_norm": (hidden,),
            "ffn_norm": (hidden,),
            "output_norm": (hidden,),
            "output": (self.vocab_size, hidden),
        }
        return {f"{name}.weight": shape for name, shape in shapes.items()}


class HeadSource(WeightSource, Protocol):
    """Weights by the names of `HeadConfig.tensors`, and which of the target's tokens each of the head's is."""

    @property
    def token_ids(self) -> NDArray[np.int64]:
        """int64 [vocab_size]."""
        ...


class HeadGraph:
    """Writes a head into a GraphBuilder. A committed rows, then B drafted ones, in a pass of S = A + B; T = past + S.

    embeds float [1,S,E]; hidden_states float [1,A,3D]; features float [1,B,H]; attention_mask int64 [1,T];
    past_key_values.0.key/value [1,Hkv,P,size] -> logits float [1,1,V] of the last row, states float [1,S,H],
    present.0.key/value. The weights token_ids, int64 [V], are for whoever reads the logits.
    """

    def __init__(self, graph: GraphBuilder, source: HeadSource, config: HeadConfig, weights: WeightFormat) -> None:
        self._graph, self._source, self._config, self._weights = graph, source, config, weights

    def build(self) -> None:
        """Raises: ModelError for a missing, misshapen or unreadable tensor; OSError if they cannot be written."""
        config, graph = self._config, self._graph
        embeds = graph.input("embeds", graph.element, [1, "rows", config.embedding_size])
        states = graph.input("hidden_states", graph.element, [1, "committed_rows", config.tapped_size])
        own = graph.input("features", graph.element, [1, "drafted_rows", config.hidden_size])
        graph.output("logits", graph.element, [1, 1, config.vocab_size])
        graph.output("states", graph.element, [1, "rows", config.hidden_size])
        feature = graph.node("Concat", [self._linear("fc", states, ["fc"]), own], "feature", axis=1)
        normed = self._norm("feature_norm", feature)
        both = graph.node("Concat", [self._norm("embedding_norm", embeds), normed], "read", axis=-1)
        attended = self._linear("projection", self._attend(both), ["attn_output"])
        x, residual = self._add_and_norm("ffn_norm", attended, normed if config.norm_before_residual else feature)
        gate, up = (self._linear(part, x, [f"ffn_{part}"]) for part in ("gate", "up"))
        activated = graph.node("QuickGelu", [gate], "silu", domain=MICROSOFT, alpha=1.0)
        added = self._linear("down", graph.node("Mul", [activated, up], "product"), ["ffn_down"])
        x, residual = self._add_and_norm("output_norm", added, residual)
        graph.node("Identity", [residual], "own_states", ["states"])
        bounds = [graph.constant(name, [value]) for name, value in (("last", -1), ("end", _END), ("row_axis", 1))]
        logits = self._linear("output", graph.node("Slice", [x, *bounds], "last_row"), ["output"])
        graph.node("Identity", [logits], "last_logits", ["logits"])
        graph.weight("token_ids", [self._source.token_ids], [config.vocab_size], TensorProto.INT64)

    def _attend(self, x: str) -> str:
        config, graph = self._config, self._graph
        packed = self._linear("qkv", x, ["attn_q", "attn_k", "attn_v"])
        mask = graph.input("attention_mask", TensorProto.INT64, [1, "total_sequence_length"])
        valid = graph.node("ReduceSum", [mask, graph.constant("mask_axis", [1])], "valid", keepdims=0)
        before = graph.node("Sub", [valid, graph.constant("one", [1])], "last_position")
        width = graph.node("Gather", [graph.node("Shape", [mask], "mask_shape"), graph.constant("column", 1)], "width")
        lengths = [
            graph.node("Cast", [before], "seqlens_k", to=TensorProto.INT32),
            graph.node("Cast", [width], "total_length", to=TensorProto.INT32),
        ]
        past, present = ([f"{when}.0.{what}" for what in ("key", "value")] for when in ("past_key_values", "present"))
        for before, after in zip(past, present, strict=True):
            graph.input(before, graph.element, [1, config.kv_heads, "past_length", config.head_size])
            graph.output(after, graph.element, [1, config.kv_heads, "present_length", config.head_size])
        shape = (config.context_length, len(config.rotary.frequencies))
        tables = [
            graph.floats(name, table_chunks(config.rotary, config.context_length, function), shape)
            for name, function in (("cos_cache", np.cos), ("sin_cache", np.sin))
        ]
        return graph.node(
            "GroupQueryAttention",
            [packed, "", "", *past, *lengths, *tables],
            "attention",
            ["attended", *present],
            MICROSOFT,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            do_rotary=1,
            local_window_size=config.window or -1,
        )

    def _linear(self, name: str, x: str, tensors: Sequence[str]) -> str:
        return self._weights.linear(self._graph, name, x, [self._source.rows(f"{tensor}.weight") for tensor in tensors])

    def _gain(self, name: str) -> str:
        values = vector(self._source, f"{name}.weight")
        return self._graph.floats(f"{name}.weight", [values], [len(values)])

    def _norm(self, name: str, x: str) -> str:
        epsilon = self._config.rms_epsilon
        return self._graph.node("SimplifiedLayerNormalization", [x, self._gain(name)], name, epsilon=epsilon, axis=-1)

    def _add_and_norm(self, name: str, x: str, residual: str) -> tuple[str, str]:
        """Returns the normed sum, and the sum itself."""
        outputs = [f"{name}.output", "", "", f"{name}.sum"]
        self._graph.node(
            "SkipSimplifiedLayerNormalization",
            [x, residual, self._gain(name)],
            name,
            outputs,
            MICROSOFT,
            epsilon=self._config.rms_epsilon,
        )
        return outputs[0], outputs[3]


_END: Final = np.iinfo(np.int64).max
