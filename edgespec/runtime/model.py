"""A language model in an ONNX Runtime session: decoding's CausalLM. Buffers are allocated once, bound by address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgespec.decoding.passes import PREFILL_CHUNK
from edgespec.decoding.protocols import Logits
from edgespec.decoding.remote import Rows
from edgespec.decoding.tree import tree_bias, tree_positions
from edgespec.errors import ContextFullError, GenerationError, ModelError
from edgespec.runtime.device import Device, DeviceChoice, DeviceKind
from edgespec.runtime.graph_io import GraphIO, read_graph_io
from edgespec.runtime.kv_cache import SharedCache, make_cache
from edgespec.runtime.loading import open_on
from edgespec.runtime.memory import Memory, Traffic
from edgespec.runtime.session import first_line, open_session
from edgespec.runtime.states import HiddenStates, StateRows
from edgespec.runtime.tail import Tail, TailRows

_NO_TREE: Final = np.full(1, -1, np.int64), np.zeros((1, 1), np.float32)
"""What the graph takes for positions and bias where there is none."""

Reopen = Callable[[], ort.InferenceSession]


class OnnxCausalLM:
    """Drives one graph. Not thread-safe: one thread at a time runs passes.

    vocab_size: the tokenizer's; padding that the graph's vocabulary may have beyond it is cut off the logits. memory:
    where the cache and the logits are. reopen: makes a session for the host, for when a device fails: the cache is then
    computed again there, the pass too, and `on_move` hears why; without it the pass fails.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        io: GraphIO,
        device: Device,
        *,
        context_length: int,
        vocab_size: int,
        memory: Memory | None = None,
        reopen: Reopen | None = None,
    ) -> None:
        self._io = io
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.length = 0
        self.on_move: Callable[[str], None] = lambda _reason: None
        self._reopen = reopen
        self._ids = np.zeros(context_length, np.int64)
        self._keep = np.zeros(1, np.int64)
        self._padding = np.zeros(1, np.int64)
        self._context = np.full(1, context_length, np.int64)
        self._place(session, device, memory or Memory(device.kind))

    def _place(self, session: ort.InferenceSession, device: Device, memory: Memory) -> None:
        """Compute with this session, with an empty cache."""
        io = self._io
        self.device, self._memory, self._session = device, memory, session
        self._binding = session.io_binding()
        self._cache = make_cache(io, self.context_length, memory)
        self._mask = memory.place(np.ones(self.context_length, np.int64))
        self._positions = memory.place(np.arange(self.context_length, dtype=np.int64))
        # What lies at one address on the host is bound as a value: asking NumPy for an address behind a pass, which
        # has emptied the processor's caches, takes as long as binding does.
        self._ids_value = None if memory.apart else memory.place(self._ids)
        self._logits: NDArray[np.generic] = np.zeros((0, io.vocab_size), io.logits_dtype)
        self._logits_value: ort.OrtValue | None = None
        self._rows_bound = 0
        self._states = (
            HiddenStates(memory, self.context_length, io.hidden_size, io.hidden_dtype) if io.hidden_size else None
        )
        self._tail = Tail(memory, io.vocab_size, self.vocab_size, io.logits_dtype) if memory.apart else None
        self._padding_suffices: bool | None = None if io.attention_padding else False
        for name, value, taken in (
            ("context_length", self._context, io.context_length),
            ("num_logits_to_keep", self._keep, io.logits_to_keep),
            ("attention_padding", self._padding, io.attention_padding),
        ):
            if taken:  # by address: the host reads what is there when the graph runs
                self._bind_input(name, value, [])

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
        session, chosen = open_on(graph, device)
        inputs, defaults = session.get_inputs(), session.get_overridable_initializers()
        io = read_graph_io(inputs, defaults, session.get_outputs(), graph, head_size)
        if io.vocab_size < vocab_size:
            raise ModelError(f"{graph} knows {io.vocab_size} tokens but its tokenizer has {vocab_size}; pull it again.")
        reopen = partial(open_session, graph, "cpu") if chosen.kind != "cpu" else None
        return cls(session, io, chosen, context_length=context_length, vocab_size=vocab_size, reopen=reopen)

    @property
    def traffic(self) -> Traffic:
        """What crossed the bus; nothing is counted where there is none."""
        return self._memory.traffic

    @property
    def untouched_bytes(self) -> int:
        """How much its cache may yet take: on the host memory is given out as positions fill."""
        if self._memory.device != "cpu":
            return 0
        position = sum(t.kv_heads * t.head_size * t.dtype.itemsize for t in self._io.cache)
        return position * (self.context_length - self.length) * (1 if self._io.mode == "shared" else 2)

    def forward(self, ids: Sequence[int], rows: int | None = None) -> Logits:
        found = self._pass(ids, len(ids) if rows is None else rows)
        return found.all() if isinstance(found, TailRows) else found

    def forward_rows(self, ids: Sequence[int], rows: int, lone: bool) -> Rows:
        """See decoding.remote.RemoteLM."""
        if not self._memory.apart:
            return self.forward_exact(ids[0]) if lone else self.forward(ids, rows)
        if not lone:
            return self._pass(ids, rows)
        found = self._pass([ids[0], ids[0]], 2)
        self.rewind(self.length - 1)
        return found

    def _pass(self, ids: Sequence[int], kept: int) -> TailRows | Logits:
        """The last `kept` rows of a pass over `ids`; on the host, should the device fail."""
        if self.length + len(ids) + self._padding[0] > self.context_length:
            raise ContextFullError(
                f"{self.length + len(ids)} tokens do not fit a context of {self.context_length}; start a new chat."
            )
        try:
            return self._run(ids, kept)
        except GenerationError as error:
            if self._reopen is None:
                raise
            self._move_to_host(self._reopen, error)
            return self._run(ids, kept)

    def _run(self, ids: Sequence[int], kept: int) -> TailRows | Logits:
        n, past = len(ids), self.length
        computed = kept if self._io.logits_to_keep else n
        try:
            self._bind(ids, kept)
            self._bind_logits(computed)
            self._memory.run(self._session, self._binding)
        except Exception as e:  # ONNX Runtime raises classes of its own that share no base but Exception
            raise GenerationError(f"A pass over {n} tokens failed: {first_line(e)}") from e
        self.length = past + n
        self._cache.advance(self.length)
        if self._tail is None:
            return self._logits[computed - kept : computed, : self.vocab_size].astype(np.float32, copy=False)
        return TailRows(self._tail, computed - kept, computed, partial(self._redo, past, n, kept))

    def _bind(self, ids: Sequence[int], kept: int) -> None:
        n, past, io = len(ids), self.length, self._io
        self._ids[past : past + n] = ids
        if self._ids_value is None:
            self._bind_input("input_ids", self._ids[past:], [1, n])
        else:
            skip = past * self._ids.itemsize
            self._memory.bind_input(self._binding, "input_ids", self._ids_value, np.int64, [1, n], skip)
        if io.attention_mask:
            self._memory.bind_input(self._binding, "attention_mask", self._mask, np.int64, [1, past + n])
        if io.position_ids:
            skip = past * self._ids.itemsize
            self._memory.bind_input(self._binding, "position_ids", self._positions, np.int64, [1, n], skip)
        if io.logits_to_keep and self._keep[0] != kept:
            self._keep[0] = kept
            if self._memory.apart:
                self._bind_input("num_logits_to_keep", self._keep, [])
        if self._states is not None:
            self._states.bind(self._binding, past, n)
        self._cache.bind(self._binding, past, n)

    def _bind_logits(self, rows: int) -> None:
        if self._tail is not None:
            self._tail.bind(self._binding, rows)
            return
        if self._logits_value is None or rows > len(self._logits):
            self._logits = np.zeros((rows, self._io.vocab_size), self._io.logits_dtype)
            self._logits_value = self._memory.place(self._logits)
        elif rows == self._rows_bound:
            return
        shape = [1, rows, self._io.vocab_size]
        self._memory.bind_output(self._binding, "logits", self._logits_value, self._io.logits_dtype, shape)
        self._rows_bound = rows

    def _move_to_host(self, reopen: Reopen, cause: GenerationError) -> None:
        """Compute on the host from now on, with the positions that the cache held. Raises: as `open_session`;
        GenerationError, before anything has changed or with an empty cache."""
        device: DeviceKind = self.device.kind
        reason = f"{device} failed ({cause})"
        length, self._reopen = self.length, None
        self._place(reopen(), Device("cpu", reason), Memory())
        self.length = 0
        ids = self._ids[:length].tolist()
        while self.length < length:  # no pass of a lone row, so that the cache is good for exact mode
            end = min(self.length + PREFILL_CHUNK, length)
            if end - self.length == 1:
                self._beside_itself(ids[self.length])
            else:
                self._run(ids[self.length : end], 1)
        self.on_move(reason)

    def _redo(self, past: int, n: int, kept: int, cause: GenerationError) -> Logits:
        """Compute the last pass again on the host: it ran, but its logits cannot be read."""
        if self._reopen is None:
            raise cause
        length, ids = self.length, self._ids[past : past + n].tolist()
        self.length = past
        self._move_to_host(self._reopen, cause)
        logits = self._run(ids, kept)
        assert not isinstance(logits, TailRows)  # the host's memory is not apart
        self.rewind(length)
        return logits

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
        return isinstance(self._cache, SharedCache) and self._io.trees and not self._memory.apart

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
            if self._states is not None:
                self._states.gather(start, moved)
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
        """See decoding.protocols.Tapped; 0 for a graph without hidden states."""
        return self._io.hidden_size

    def hidden_states(self, start: int, end: int) -> StateRows:
        """See decoding.protocols.Tapped. Raises: ModelError for a graph without hidden states."""
        if self._states is None:
            raise ModelError("this model's graph shows no hidden states, so no head can draft for it; pull it again.")
        return StateRows(self._states, start, end)

    def _bind_input(self, name: str, values: NDArray[np.int64], shape: list[int]) -> None:
        self._memory.send(self._binding, name, values, shape)
