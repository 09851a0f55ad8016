"""The graph of a recurrent head: a small network that reads a target's hidden states and says what follows, token by
token.

As in ReDrafter (Cheng et al. 2024, arXiv:2403.09919) and Hydra (Ankner et al. 2024, arXiv:2402.05109) a state is
carried from token to token, and nothing is attended to: what can be copied from the text is looked up elsewhere. A step
reads a state and the token behind it. The first state is made of the target's hidden states, later ones are the head's
own. Its output head has two factors, and knows a part of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray
from onnx import TensorProto

from edgespec.graph.builder import GRAPH_NAME, MICROSOFT, GraphBuilder
from edgespec.graph.formats import FORMATS, WeightsName
from edgespec.graph.quantize import Rows

EPSILON: Final = 1e-5
"""Of every RMS norm."""


@dataclass(frozen=True, slots=True)
class RecurrentConfig:
    """Sizes are counts of floats. tapped_size: of the target's hidden states together. embedding_size: of the head's
    own embeddings, of which the target's `token_count` tokens have one each. rank: what the output head multiplies.
    vocab_size: how many tokens the head names."""

    tapped_size: int
    token_count: int
    embedding_size: int
    state_size: int
    ffn_size: int
    rank: int
    vocab_size: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the head by its name, and its shape, rows first."""
        state = self.state_size
        return {
            "embedding": (self.token_count, self.embedding_size),
            "token": (state, self.embedding_size),
            "taps": (state, self.tapped_size),
            "taps_norm": (self.tapped_size,),
            "own": (state, state),
            "own_norm": (state,),
            "up": (self.ffn_size, state),
            "down": (state, self.ffn_size),
            "ffn_norm": (state,),
            "projection": (self.rank, state),
            "output": (self.vocab_size, self.rank),
            "output_norm": (state,),
        }


@dataclass(frozen=True, slots=True)
class RecurrentWeights:
    """`tensors`: float32, as `RecurrentConfig.tensors` has them. token_ids: int64 [vocab_size], which of the target's
    tokens each of the head's is. belief: float32 [6], how what is looked up is believed (see `Belief`)."""

    config: RecurrentConfig
    tensors: Mapping[str, NDArray[np.float32]]
    token_ids: NDArray[np.int64]
    belief: NDArray[np.float32]


def write_recurrent(weights: RecurrentWeights, out: Path, name: WeightsName = "int8") -> Path:
    """Write the head as a graph into the directory `out`; returns the graph's file. One row in a pass:

    input_ids int64 [1,1], the token behind the state; hidden_states [1,A,T] of the position before it, or the own
    state [1,B,D] of the last pass, A + B = 1 -> probabilities [1,1,V], state [1,1,D]. The weights token_ids and belief
    are for whoever reads these.

    Raises: OSError.
    """
    with GraphBuilder(out) as graph:
        _Writer(graph, weights, name).write()
        graph.save("recurrent")
    return out / GRAPH_NAME


class _Writer:
    def __init__(self, graph: GraphBuilder, weights: RecurrentWeights, name: WeightsName) -> None:
        self._graph, self._weights, self._format = graph, weights, FORMATS[name]

    def write(self) -> None:
        graph, config = self._graph, self._weights.config
        ids = graph.input("input_ids", TensorProto.INT64, [1, 1])
        taps = graph.input("hidden_states", graph.element, [1, "committed_rows", config.tapped_size])
        own = graph.input("own", graph.element, [1, "drafted_rows", config.state_size])
        graph.output("probabilities", graph.element, [1, 1, config.vocab_size])
        graph.output("state", graph.element, [1, 1, config.state_size])
        token = self._linear("token", self._format.embed(graph, "embedding", ids, self._rows("embedding")))
        parts = [self._linear(name, self._norm(f"{name}_norm", x)) for name, x in (("taps", taps), ("own", own))]
        before = graph.node("Concat", parts, "before", axis=1)
        x, state = self._add_and_norm("ffn_norm", token, before, "state_before")
        activated = graph.node("QuickGelu", [self._linear("up", x)], "silu", domain=MICROSOFT, alpha=1.0)
        x, _ = self._add_and_norm("output_norm", self._linear("down", activated), state, "state")
        logits = self._linear("output", self._linear("projection", x))
        graph.node("Softmax", [logits], "shares", ["probabilities"], axis=-1)
        graph.weight("token_ids", [self._weights.token_ids], [config.vocab_size], TensorProto.INT64)
        graph.weight("belief", [self._weights.belief], [len(self._weights.belief)], TensorProto.FLOAT)

    def _rows(self, name: str) -> Rows:
        values = np.ascontiguousarray(self._weights.tensors[name], np.float32)
        return Rows(name, GGMLQuantizationType.F32, values.view(np.uint8), values.shape[1])

    def _linear(self, name: str, x: str) -> str:
        return self._format.linear(self._graph, name, x, [self._rows(name)])

    def _gain(self, name: str) -> str:
        values = self._weights.tensors[name]
        return self._graph.floats(name, [values], [len(values)])

    def _norm(self, name: str, x: str) -> str:
        inputs = [x, self._gain(name)]
        return self._graph.node("SimplifiedLayerNormalization", inputs, f"{name}.output", axis=-1, epsilon=EPSILON)

    def _add_and_norm(self, name: str, x: str, residual: str, total: str) -> tuple[str, str]:
        """Returns the normed sum, and the sum itself, called `total`."""
        outputs = [f"{name}.output", "", "", total]
        inputs = [x, residual, self._gain(name)]
        self._graph.node("SkipSimplifiedLayerNormalization", inputs, name, outputs, MICROSOFT, epsilon=EPSILON)
        return outputs[0], total
