"""A recurrent head in an ONNX Runtime session, on the processor: the Guide of decoding.drafters.guided."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgespec.decoding.drafters.guided import Belief
from edgespec.decoding.protocols import Readable
from edgespec.errors import GenerationError, ModelError
from edgespec.runtime.embeddings import stored_bytes
from edgespec.runtime.memory import Memory
from edgespec.runtime.onnx_nodes import graph_inputs
from edgespec.runtime.session import first_line, open_session

_NAMES: Final = {"input_ids", "hidden_states", "own", "probabilities", "state"}


class OnnxRecurrentHead:
    """Drives the graph of edgespec.graph.recurrent. Not thread-safe.

    token_ids: the target's token for each of the head's, int64 [vocab].
    """

    def __init__(self, session: ort.InferenceSession, token_ids: NDArray[np.int64], belief: Belief) -> None:
        self._session = session
        self.token_ids, self.belief = token_ids, belief
        sizes = _sizes(session)
        self._memory = memory = Memory()
        self._token = np.zeros((1, 1), np.int64)
        self._shown = np.zeros((1, 1, sizes["hidden_states"]), np.float32)
        self._probabilities = np.zeros((1, 1, sizes["probabilities"]), np.float32)
        # Two states take turns, and each way of going on has a binding of its own: binding takes as long as a pass.
        self._states = [memory.place(np.zeros((1, 1, sizes["state"]), np.float32)) for _ in range(2)]
        self._nothing = memory.place(np.zeros(max(sizes.values()), np.float32))
        self._begin, *self._go_on = (self._bind(state, sizes["state"]) for state in (self._states[0], *self._states))
        memory.send(self._begin, "hidden_states", self._shown, self._shown.shape)
        memory.bind_input(self._begin, "own", self._nothing, np.float32, [1, 0, sizes["own"]])
        for binding, before in zip(self._go_on, reversed(self._states), strict=True):
            memory.bind_input(binding, "own", before, np.float32, [1, 1, sizes["own"]])
            memory.bind_input(binding, "hidden_states", self._nothing, np.float32, [1, 0, sizes["hidden_states"]])
        self._steps = 0

    @classmethod
    def open(cls, graph: Path, *, vocab_size: int) -> OnnxRecurrentHead:
        """Load a head for a target with `vocab_size` tokens.

        Raises: ModelError if `graph` cannot be loaded or is no head for such a target, OutOfMemoryError.
        """
        session = open_session(graph, "cpu")
        ids, belief = stored_bytes(graph, "token_ids", "belief")
        token_ids: NDArray[np.int64] = np.array(ids.view("<i8"))
        sizes = _sizes(session)
        whole = sizes.keys() >= _NAMES and len(belief) == 4 * len(Belief._fields)
        if not whole or len(token_ids) != sizes["probabilities"] or not _are_tokens(token_ids, vocab_size):
            raise ModelError(f"{graph.parent.name} holds no head for this model; get it again.")
        return cls(session, token_ids, Belief(*belief.view("<f4").tolist()))

    def forward(self, token: int, states: Readable | None) -> NDArray[np.float32]:
        """The probabilities of what follows `token`, float32 [vocab], valid until the next call. states: what the
        target made of the position before it; None: the head goes on from its own state of the last call.

        Raises: GenerationError if the pass fails.
        """
        try:
            self._token[0, 0] = token
            binding = self._go_on[self._steps % 2]
            if states is not None:
                binding, self._steps = self._begin, 0
                self._shown[0] = states.read()
            self._memory.run(self._session, binding)
        except Exception as e:  # ONNX Runtime raises classes of its own that share no base but Exception
            raise GenerationError(f"A pass of the head failed: {first_line(e)}") from e
        self._steps += 1
        return self._probabilities[0, 0]

    def _bind(self, state: ort.OrtValue, size: int) -> Any:
        """A binding whose passes write `state`."""
        binding = self._session.io_binding()
        self._memory.send(binding, "input_ids", self._token, self._token.shape)
        self._memory.fetch(binding, "probabilities", self._probabilities, self._probabilities.shape)
        self._memory.bind_output(binding, "state", state, np.float32, [1, 1, size])
        return binding


def _sizes(session: ort.InferenceSession) -> dict[str, int]:
    """The last dimension of everything that goes in and out."""
    return {value.name: int(value.shape[-1]) for value in (*session.get_inputs(), *session.get_outputs())}


def _are_tokens(ids: NDArray[np.int64], vocab_size: int) -> bool:
    return bool(ids.size and 0 <= ids.min() <= ids.max() < vocab_size)


def hidden_size_read(graph: Path) -> int | None:
    """How many floats of hidden states a recurrent head reads. Raises: ModelError if the file is no ONNX model."""
    _, shape = graph_inputs(graph).get("hidden_states", (0, ()))
    return shape[-1] if shape else None
