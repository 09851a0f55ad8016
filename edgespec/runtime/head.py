"""An EAGLE-3 head in an ONNX Runtime session: the drafter's Head. The embeddings are the target's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.passes import PREFILL_CHUNK
from edgespec.errors import GenerationError, ModelError
from edgespec.runtime.graph_io import CacheTensor
from edgespec.runtime.kv_cache import SharedCache
from edgespec.runtime.memory import Memory
from edgespec.runtime.onnx_nodes import stored_tensors
from edgespec.runtime.session import open_session

Floats = NDArray[np.float32]

_BLOCK: Final = 32
_ZERO_POINT: Final = np.float32(128)
_INPUTS: Final = ("embeds", "hidden_states", "features", "attention_mask", "past_key_values.0.key")
_OUTPUTS: Final = ("logits", "states", "present.0.key")


class EmbeddingTable:
    """The embeddings of one of our own graphs, mapped: int8 in blocks of 32, where byte b of a block with scale s is
    (b - 128) * s (see graph.quantize)."""

    def __init__(self, graph: Path, width: int) -> None:
        """width: floats of an embedding. Raises: ModelError if the graph keeps them in another way."""
        weights, scales = _stored(graph, "embedding.weight", "embedding.scales")
        scale = len(scales) * _BLOCK // max(len(weights), 1)  # bytes of one: float32, or float16 for CUDA
        if (
            width % _BLOCK
            or len(weights) % width
            or scale not in (2, 4)
            or len(weights) * scale != len(scales) * _BLOCK
        ):
            raise ModelError(f"{graph} has no embeddings that a head could share; pull the model again.")
        self._bytes = weights.reshape(-1, width // _BLOCK, _BLOCK)
        self._scales = scales.view(f"<f{scale}").reshape(-1, width // _BLOCK, 1)

    def rows(self, ids: Sequence[int]) -> Floats:
        """float32 [len(ids), width]."""
        at = list(ids)
        scales = self._scales[at].astype(np.float32, copy=False)
        return ((self._bytes[at].astype(np.float32) - _ZERO_POINT) * scales).reshape(len(at), -1)


class OnnxHead:
    """Drives the graph of edgespec.graph.eagle; see decoding.drafters.eagle.Head. Not thread-safe.

    target: the target's graph, whose embeddings are used. hidden_size: floats of its hidden states. window: how many
    rows a row attends to.
    """

    def __init__(
        self, graph: Path, target: Path, *, hidden_size: int, context_length: int, window: int | None = None
    ) -> None:
        """Raises: ModelError if `graph` cannot be loaded or is no head for this target, OutOfMemoryError."""
        self._session = session = open_session(graph, "cpu")
        shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
        if not shapes.keys() >= {*_INPUTS, *_OUTPUTS}:
            raise ModelError(f"{graph} is no head that can draft here; pull it again.")
        width, tapped, own = (int(shapes[name][-1]) for name in _INPUTS[:3])
        if tapped != hidden_size:
            raise ModelError(
                f"{graph.parent.name} reads {tapped} floats of each hidden state and the model shows {hidden_size}; "
                "use the head of this very model."
            )
        self._embeddings = EmbeddingTable(target, width)
        self.context_length, self.window, self.length = context_length, window, 0
        self.token_ids: NDArray[np.int64] = np.array(_stored(graph, "token_ids")[0].view("<i8"))
        heads, size = int(shapes["past_key_values.0.key"][1]), int(shapes["past_key_values.0.key"][3])
        names = [(f"past_key_values.0.{kind}", f"present.0.{kind}") for kind in ("key", "value")]
        cache = [CacheTensor(past, present, heads, size, np.dtype(np.float32)) for past, present in names]
        self._binding = session.io_binding()
        SharedCache(cache, context_length, Memory()).bind(self._binding, 0, 0)
        self._mask = np.ones(context_length, np.int64)
        self._logits = np.zeros(int(shapes["logits"][-1]), np.float32)
        self._states = np.zeros((PREFILL_CHUNK, own), np.float32)
        self._feature, self._nothing = np.zeros((1, own), np.float32), np.zeros((1, tapped), np.float32)
        self._binding.bind_output("logits", "cpu", 0, np.float32, [1, 1, self._logits.size], self._logits.ctypes.data)
        if len(self.token_ids) != self._logits.size:
            raise ModelError(f"{graph} does not name its tokens; pull it again.")

    def forward(self, ids: Sequence[int], states: Floats | None) -> Floats:
        n, total = len(ids), self.length + len(ids)
        embeds = self._embeddings.rows(ids)
        if n > len(self._states):
            self._states = np.zeros((n, self._states.shape[1]), np.float32)
        if states is None:
            self._bind("hidden_states", self._nothing, 0)
            self._bind("features", self._feature, 1)
        else:
            self._bind("hidden_states", states, n)
            self._bind("features", self._feature, 0)
        self._bind("embeds", embeds, n)
        self._binding.bind_input("attention_mask", "cpu", 0, np.int64, [1, total], self._mask.ctypes.data)
        shape = [1, n, self._states.shape[1]]
        self._binding.bind_output("states", "cpu", 0, np.float32, shape, self._states.ctypes.data)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as e:  # ONNX Runtime raises classes of its own that share no base but Exception
            raise GenerationError(f"A pass of the head over {n} tokens failed: {e}") from e
        self.length = total
        self._feature[:] = self._states[n - 1]
        return self._logits

    def rewind(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to {length}: the cache holds {self.length} rows")
        self.length = length

    def skip(self, length: int) -> None:
        if not self.length <= length <= self.context_length:
            raise ValueError(f"cannot skip to {length}: the cache holds {self.length} rows")
        self.length = length

    def _bind(self, name: str, values: Floats, rows: int) -> None:
        """Bound by address: `values` must live until the pass is over."""
        shape = [1, rows, values.shape[-1]]
        self._binding.bind_input(name, "cpu", 0, np.float32, shape, values.ctypes.data)


def _stored(graph: Path, *names: str) -> list[NDArray[np.uint8]]:
    """The bytes of each of these weights, mapped; none of one that is not in a file of its own."""
    found = stored_tensors(graph, *names)
    places = [found.get(name, ("", 0, 0)) for name in names]
    return [
        np.memmap(graph.parent / file, np.uint8, "r", start, (size,)) if size else np.zeros(0, np.uint8)
        for file, start, size in places
    ]
