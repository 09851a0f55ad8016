"""Models on what they take for a GPU, the host's own memory in truth, and sessions whose device is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from edgespec.runtime.device import Device
from edgespec.runtime.embeddings import EmbeddingTable, stored_bytes
from edgespec.runtime.graph_io import read_graph_io
from edgespec.runtime.head import OnnxHead, read_head_io
from edgespec.runtime.memory import Memory
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.session import open_session

GPU = Device("cuda", "as a test has it")
LOST = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; expr=cudaStreamSynchronize(stream_);\nmore"
FULL = "Failed to allocate memory for requested buffer of size 402653184"


class Failing:
    """A session whose device is lost after so many passes, with what ONNX Runtime raises then."""

    def __init__(self, session: ort.InferenceSession, passes: int, message: str) -> None:
        self._session, self.passes, self._message = session, passes, message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any) -> None:
        if self.passes == 0:
            raise RuntimeException(self._message)
        self.passes -= 1
        self._session.run_with_iobinding(binding)


def open_apart(
    graph: Path,
    context_length: int,
    vocab_size: int,
    session: Any = None,
    reopen: Callable[[], ort.InferenceSession] | None = None,
) -> OnnxCausalLM:
    session = session or open_session(graph, "cpu")
    io = read_graph_io(session.get_inputs(), session.get_overridable_initializers(), session.get_outputs(), graph)
    return OnnxCausalLM(
        session,
        io,
        GPU,
        context_length=context_length,
        vocab_size=vocab_size,
        memory=Memory("cpu", apart=True),
        reopen=reopen,
    )


def open_head_apart(
    graph: Path,
    target: Path,
    context_length: int,
    session: Any = None,
    reopen: Callable[[], ort.InferenceSession] | None = None,
) -> OnnxHead:
    session = session or open_session(graph, "cpu")
    io = read_head_io(session, graph)
    return OnnxHead(
        session,
        io,
        GPU,
        embeddings=EmbeddingTable(target, io.embedding),
        token_ids=np.array(stored_bytes(graph, "token_ids")[0].view("<i8")),
        context_length=context_length,
        memory=Memory("cpu", apart=True),
        reopen=reopen,
    )
