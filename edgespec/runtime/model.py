"""A language model in an ONNX Runtime session: decoding's CausalLM. Buffers are allocated once, bound by address."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgespec.decoding.protocols import Logits
from edgespec.decoding.tree import tree_bias, tree_positions
from edgespec.errors import ContextFullError, GenerationError, ModelError
from edgespec.runtime.device import Device, DeviceChoice, choose_device
from edgespec.runtime.graph_io import GraphIO, read_graph_io
from edgespec.runtime.kv_cache import SharedCache, make_cache
from edgespec.runtime.session import open_session

_NO_TREE: Final = np.full(1, -1, np.int64), np.zeros((1, 1), np.float32)
"""What the graph takes for positions and bias where there is none."""


class OnnxCausalLM:
    """Drives one graph. Not thread-safe: one thread at a time runs passes.

    vocab_size: the tokenizer's; padding that the graph's vocabulary may have beyond it is cut off the logits.
    """

    def __init__(
        self, session: ort.InferenceSession, io: GraphIO, device: Device, *, context_length: int, vocab_size: int
    ) -> None:
        self._io = io
        self.device = device
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.length = 0
        self._session = session
        self._binding = session.io_binding()
        self._cache = make_cache(self._io, context_length)
        self._mask = np.ones(context_length, np.int64)
        self._positions = np.arange(context_length, dtype=np.int64)
        self._ids = np.zeros(context_length, np.int64)
        self._keep = np.zeros(1, np.int64)
        self._logits: NDArray[np.generic] = np.zeros((0, self._io.vocab_size), self._io.logits_dtype)
        self._states = np.zeros((context_length, io.hidden_size), np.float32)
        self._padding = np.zeros(1, np.int64)
        self._padding_suffices: bool | None = None if io.attention_padding else False
        if io.logits_to_keep:
            self._bind_input("num_logits_to_keep", self._keep, [])
        if io.attention_padding:
            self._bind_input("attention_padding", self._padding, [])
        if io.context_length:
            self._context = np.full(1, context_length, np.int64)
            self._bind_input("context_length", self._context, [])

    @classmethod
    def open(
        cls,
        graph: Path,
        *,
        context_length: int,
        vocab_size: int,
        device: DeviceChoice = "cpu",
        head_size: int | None = None,
    ) -> OnnxCausalLM:
        """Load a graph; `head_size` as in `read_graph_io`. Raises ModelError, OutOfMemoryError."""
        session = open_session(graph, "cpu")
        inputs, defaults = session.get_inputs(), session.get_overridable_initializers()
        io = read_graph_io(inputs, defaults, session.get_outputs(), graph, head_size)
        if io.vocab_size < vocab_size:
            raise ModelError(f"{graph} knows {io.vocab_size} tokens but its tokenizer has {vocab_size}; pull it again.")
        # Only the loaded graph says whether it is made for a GPU, so such a graph is loaded twice.
        chosen = choose_device(device, half_precision=io.cache[0].dtype == np.float16)
        if chosen.kind == "cuda":
            session = open_session(graph, "cuda")
        return cls(session, io, chosen, context_length=context_length, vocab_size=vocab_size)

    def forward(self, ids: Sequence[int], rows: int | None = None) -> Logits:
        n, past = len(ids), self.length
        kept = n if rows is None else rows
        if past + n + self._padding[0] > self.context_length:
            raise ContextFullError(
                f"{past + n} tokens do not fit a context of {self.context_length}; start a new chat."
            )
        computed = kept if self._io.logits_to_keep else n
        self._ids[:n] = ids
        self._keep[0] = kept
        self._bind_input("input_ids", self._ids, [1, n])
        if self._io.attention_mask:
            self._bind_input("attention_mask", self._mask, [1, past + n])
        if self._io.position_ids:
            self._bind_input("position_ids", self._positions[past:], [1, n])
        self._cache.bind(self._binding, past, n)
        if computed > len(self._logits):
            self._logits = np.zeros((computed, self._io.vocab_size), self._io.logits_dtype)
        shape = [1, computed, self._io.vocab_size]
        self._binding.bind_output("logits", "cpu", 0, self._io.logits_dtype, shape, self._logits.ctypes.data)
        if self._io.hidden_size:
            self._bind_states(past, n)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as e:  # ONNX Runtime raises classes of its own that share no base but Exception
            raise GenerationError(f"A pass over {n} tokens failed: {e}") from e
        self.length = past + n
        self._cache.advance(self.length)
        return self._logits[computed - kept : computed, : self.vocab_size].astype(np.float32, copy=False)

    def forward_exact(self, token: int) -> Logits:
        """Where the graph can pad attention alone that is cheaper than a second row of everything, and the same bits
        if no other operator minds how many rows it gets. That depends on the processor: the first call compares."""
        if self._padding_suffices is False:
            return self._beside_itself(token)
        self._padding[0] = 1
        try:
            logits = self.forward([token])
        finally:
            self._padding[0] = 0
        if self._padding_suffices is None:
            alone = logits.copy()
            self.rewind(self.length - 1)
            logits = self._beside_itself(token)
            self._padding_suffices = np.array_equal(alone, logits)
        return logits

    @property
    def takes_trees(self) -> bool:
        return isinstance(self._cache, SharedCache) and self._io.trees

    def forward_tree(self, ids: Sequence[int], parents: Sequence[int]) -> Logits:
        """See decoding.tree.TreeLM. Raises ModelError if the graph does not take trees.

        ValueError at length 0: there, ONNX Runtime 1.31's GroupQueryAttention counts positions for itself.
        """
        if not self.takes_trees:
            raise ModelError("this model's graph does not take draft trees; use --draft-branches 1.")
        if not self.length:
            raise ValueError("a draft tree cannot stand at the beginning of a text")
        self._bind_tree(tree_positions(parents, self.length), tree_bias(parents, self.length))
        try:
            return self.forward(ids, len(ids))
        finally:
            self._bind_tree(*_NO_TREE)

    def gather(self, start: int, positions: Sequence[int]) -> None:
        """See decoding.tree.TreeLM."""
        if isinstance(self._cache, SharedCache) and (moved := list(positions)) != [*range(start, start + len(moved))]:
            self._cache.gather(start, moved)
        self.rewind(start + len(positions))

    def _beside_itself(self, token: int) -> Logits:
        logits = self.forward([token, token])
        self.rewind(self.length - 1)
        return logits[:1]

    def rewind(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to {length}: the cache holds {self.length} positions")
        self.length = length

    def _bind_tree(self, positions: NDArray[np.int64], bias: NDArray[np.float32]) -> None:
        self._tree = positions, bias  # bound by address
        shape = [1, 1, *bias.shape]
        self._binding.bind_input("attention_bias", "cpu", 0, np.float32, shape, bias.ctypes.data)
        self._bind_input("position_ids", positions, [1, len(positions)])

    @property
    def hidden_size(self) -> int:
        """See decoding.drafters.eagle.TappedLM; 0 for a graph without hidden states."""
        return self._io.hidden_size

    def hidden_states(self, start: int, end: int) -> NDArray[np.float32]:
        """See decoding.drafters.eagle.TappedLM."""
        return self._states[start:end]

    def _bind_states(self, past: int, n: int) -> None:
        """Into the place of these positions: a rewind then costs nothing."""
        shape = [1, n, self._io.hidden_size]
        self._binding.bind_output("hidden_states", "cpu", 0, np.float32, shape, self._states[past:].ctypes.data)

    def _bind_input(self, name: str, values: NDArray[np.int64], shape: list[int]) -> None:
        self._binding.bind_input(name, "cpu", 0, np.int64, shape, values.ctypes.data)
