"""An EAGLE-3 head in an ONNX Runtime session: the drafter's Head. The embeddings are the target's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgespec.decoding.passes import PREFILL_CHUNK
from edgespec.errors import EdgespecError, GenerationError, ModelError
from edgespec.runtime.device import Device, DeviceChoice
from edgespec.runtime.embeddings import EmbeddingTable, stored_bytes
from edgespec.runtime.graph_io import CacheTensor
from edgespec.runtime.kv_cache import SharedCache
from edgespec.runtime.loading import open_on
from edgespec.runtime.memory import Memory, Traffic
from edgespec.runtime.model import Reopen
from edgespec.runtime.session import first_line, open_session
from edgespec.runtime.states import StateRows

_INPUTS: Final = ("embeds", "hidden_states", "features", "attention_mask", "past_key_values.0.key")
_OUTPUTS: Final = ("logits", "states", "present.0.key")


@dataclass(frozen=True, slots=True)
class HeadIO:
    """What the graph of a head takes and gives. Counts of floats: of the target's embedding, of its hidden states, of
    the head's own, of the logits. dtype: of all of them."""

    embedding: int
    tapped: int
    own: int
    vocab: int
    dtype: np.dtype[Any]
    cache: tuple[CacheTensor, ...]


def read_head_io(session: ort.InferenceSession, graph: Path) -> HeadIO:
    """Describe a loaded graph. Raises: ModelError if it is no head."""
    values = {value.name: value for value in (*session.get_inputs(), *session.get_outputs())}
    if not values.keys() >= {*_INPUTS, *_OUTPUTS}:
        raise ModelError(f"{graph} is no head that can draft here; pull it again.")
    embedding, tapped, own, vocab = (int(values[name].shape[-1]) for name in (*_INPUTS[:3], "logits"))
    dtype = np.dtype(np.float16 if values["embeds"].type == "tensor(float16)" else np.float32)
    _, heads, _, size = values["past_key_values.0.key"].shape
    names = [(f"past_key_values.0.{kind}", f"present.0.{kind}") for kind in ("key", "value")]
    cache = tuple(CacheTensor(past, present, int(heads), int(size), dtype) for past, present in names)
    return HeadIO(embedding, tapped, own, vocab, dtype, cache)


class OnnxHead:
    """Drives the graph of edgespec.graph.eagle; see decoding.drafters.eagle.Head. Not thread-safe.

    embeddings: the target's. token_ids: the target's token for each of the head's, int64 [vocab]. window: how many rows
    a row attends to. memory: where its cache and its own states are; the target's it reads where they are, if that is
    there. reopen: makes a session for the host, for when a device fails: the pass fails, the head begins anew there,
    and `on_move` hears why.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        io: HeadIO,
        device: Device,
        *,
        embeddings: EmbeddingTable,
        token_ids: NDArray[np.int64],
        context_length: int,
        window: int | None = None,
        memory: Memory | None = None,
        reopen: Reopen | None = None,
    ) -> None:
        self._io, self._embeddings, self._reopen = io, embeddings, reopen
        self.token_ids, self.context_length, self.window = token_ids, context_length, window
        self.on_move: Callable[[str], None] = lambda _reason: None
        self._logits = np.zeros((1, 1, io.vocab), io.dtype)
        self._place(session, device, memory or Memory(device.kind))

    @classmethod
    def open(
        cls,
        graph: Path,
        target: Path,
        *,
        hidden_size: int,
        context_length: int,
        window: int | None = None,
        device: DeviceChoice = "cpu",
    ) -> OnnxHead:
        """Load a head. target: the target's graph, whose embeddings are used. hidden_size: floats of its hidden states.

        Raises: ModelError if `graph` cannot be loaded or is no head for this target, OutOfMemoryError.
        """
        session, chosen = open_on(graph, device)
        io = read_head_io(session, graph)
        if io.tapped != hidden_size:
            raise ModelError(
                f"{graph.parent.name} reads {io.tapped} floats of each hidden state and the model shows {hidden_size}; "
                "use the head of this very model."
            )
        token_ids: NDArray[np.int64] = np.array(stored_bytes(graph, "token_ids")[0].view("<i8"))
        if len(token_ids) != io.vocab:
            raise ModelError(f"{graph} does not name its tokens; pull it again.")
        return cls(
            session,
            io,
            chosen,
            embeddings=EmbeddingTable(target, io.embedding),
            token_ids=token_ids,
            context_length=context_length,
            window=window,
            reopen=partial(open_session, graph, "cpu") if chosen.kind != "cpu" else None,
        )

    def _place(self, session: ort.InferenceSession, device: Device, memory: Memory) -> None:
        """Compute with this session, from the first row on."""
        io = self._io
        self.device, self._memory, self._session, self.length = device, memory, session, 0
        self._binding = session.io_binding()
        SharedCache(io.cache, self.context_length, memory).bind(self._binding, 0, 0)
        self._mask = memory.place(np.ones(self.context_length, np.int64))
        self._nothing = memory.place(np.zeros(max(io.tapped, io.own), io.dtype))
        self._reserve(PREFILL_CHUNK)

    def _reserve(self, rows: int) -> None:
        """Two buffers for the head's own states take turns: a pass reads a row of one and writes the other."""
        self._capacity = rows
        self._own = [self._memory.place(np.zeros(rows * self._io.own, self._io.dtype)) for _ in range(2)]
        self._last_row = 0

    @property
    def traffic(self) -> Traffic:
        """What crossed the bus, but for hidden states that the target had to fetch."""
        return self._memory.traffic

    def forward(self, ids: Sequence[int], states: StateRows | None) -> NDArray[np.float32]:
        n, total = len(ids), self.length + len(ids)
        if n > self._capacity:
            self._reserve(n)
        try:
            alive = self._bind(ids, states, total)
            self._memory.run(self._session, self._binding)
            del alive
        except GenerationError:
            raise  # of the target, which has moved or will
        except Exception as e:  # ONNX Runtime raises classes of its own that share no base but Exception
            raise self._failed(n, e) from e
        self.length, self._last_row = total, n - 1
        self._own.reverse()
        return self._logits[0, 0].astype(np.float32, copy=False)

    def _bind(self, ids: Sequence[int], states: StateRows | None, total: int) -> list[Any]:
        """Returns what has to live until the pass is over."""
        n, io, memory, binding = len(ids), self._io, self._memory, self._binding
        embeds = self._embeddings.rows(ids).astype(io.dtype, copy=False)
        memory.send(binding, "embeds", embeds, [1, n, io.embedding])
        memory.bind_input(binding, "attention_mask", self._mask, np.int64, [1, total])
        alive: list[Any] = [embeds]
        if states is None:
            memory.bind_input(binding, "hidden_states", self._nothing, io.dtype, [1, 0, io.tapped])
            skip = self._last_row * io.own * io.dtype.itemsize
            memory.bind_input(binding, "features", self._own[0], io.dtype, [1, 1, io.own], skip)
        else:
            alive.append(states.bind(binding, "hidden_states", memory, io.dtype))
            memory.bind_input(binding, "features", self._nothing, io.dtype, [1, 0, io.own])
        memory.bind_output(binding, "states", self._own[1], io.dtype, [1, n, io.own])
        memory.fetch(binding, "logits", self._logits, self._logits.shape)
        return alive

    def _failed(self, rows: int, cause: Exception) -> GenerationError:
        error = GenerationError(f"A pass of the head over {rows} tokens failed: {first_line(cause)}")
        if self._reopen is not None:
            reopen, self._reopen = self._reopen, None
            reason = f"{self.device.kind} failed ({error})"
            with suppress(EdgespecError):  # without memory for that, it is as silent as any head that fails
                self._place(reopen(), Device("cpu", reason), Memory())
                self.on_move(reason)
        return error

    def rewind(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to {length}: the cache holds {self.length} rows")
        self.length = length

    def skip(self, length: int) -> None:
        if not self.length <= length <= self.context_length:
            raise ValueError(f"cannot skip to {length}: the cache holds {self.length} rows")
        self.length = length
