"""ONNX Runtime sessions that share one thread pool."""

from __future__ import annotations

import ctypes
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort
import psutil

from edgespec.errors import EdgespecError, ModelError, OutOfMemoryError, UsageError
from edgespec.runtime.cuda import inspect_cuda
from edgespec.runtime.device import DeviceKind, cuda_refused

_MADV_PAGEOUT = 21
_HEAVY: Final = {
    *("MatMul", "MatMulNBits", "MatMulInteger", "FusedMatMul", "Gemm", "DynamicQuantizeMatMul", "GroupQueryAttention"),
    *("MultiHeadAttention", "Attention", "Softmax", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"),
    *("ReduceMax", "ReduceMin", "TopK", "IsNaN"),
}
"""Operators that must not be left to the processor: they would carry a model's whole width over the bus."""
_libc: ctypes.CDLL | None = ctypes.CDLL(None) if sys.platform == "linux" else None
_pool_threads: int | None = None


def runtime_version() -> str:
    return ort.__version__


def default_threads() -> int:
    """Physical cores that this process may use: a second hardware thread of a core adds nothing to int8 kernels."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def use_threads(threads: int | None, usual: int | None = None) -> int:
    """Size the process's one thread pool, which target and draft share; returns its size. Where nobody asked for
    `threads` and the pool is still to be made, it gets the `usual` ones, or one per core.

    Two pools would fight: the idle one spins on the cores that the other needs, which doubles a round.
    ONNX Runtime sizes the pool once per process: a later call with another number is a UsageError.
    """
    global _pool_threads
    if threads is not None and not 1 <= threads <= 256:
        raise UsageError(f"threads cannot be {threads}; it must be between 1 and 256.")
    if _pool_threads is None:
        _pool_threads = threads or usual or default_threads()
        ort.set_global_thread_pool_sizes(_pool_threads, 1)
    elif threads not in (None, _pool_threads):
        raise UsageError(f"this process already runs with {_pool_threads} threads; start another one for {threads}.")
    return _pool_threads


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """Ways of computing on CUDA that pay on some GPUs only. fpa_intb_gemm: CUTLASS kernels for quantized weights
    (float16, int4 or int8 in blocks of 32 without zero points, row counts of weights a multiple of 64)."""

    fpa_intb_gemm: bool = False


USUAL: Final = CudaOptions()


def open_session(graph: Path, device: DeviceKind, cuda: CudaOptions = USUAL) -> ort.InferenceSession:
    """Load a graph. Raises ModelError if it cannot be loaded or would not run on `device`, OutOfMemoryError."""
    try:
        session = _open(graph, device, cuda)
    except MemoryError as e:
        raise _does_not_fit(graph) from e
    except EdgespecError:
        raise
    except Exception as e:  # ONNX Runtime raises classes of its own that share no base but Exception
        if device == "cuda" and says_out_of_memory(e):
            raise _does_not_fit(graph) from e
        raise ModelError(f"ONNX Runtime cannot load {graph}: {first_line(e)}") from e
    _let_go_of_mapped(graph.parent)
    return session


def open_small_session(model: bytes, device: DeviceKind) -> ort.InferenceSession:
    """A session for a serialized graph of ours. Raises ModelError if it would not run on `device`, OutOfMemoryError."""
    try:
        return _open(model, device, USUAL)
    except EdgespecError:
        raise
    except Exception as e:  # as in `open_session`
        if says_out_of_memory(e):
            raise OutOfMemoryError(f"the {device} has no room for a graph; use --device cpu.") from e
        raise ModelError(f"ONNX Runtime cannot load a graph for {device}: {first_line(e)}") from e


def _open(model: Path | bytes, device: DeviceKind, cuda: CudaOptions) -> ort.InferenceSession:
    use_threads(None)
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 4  # errors are raised, and told in a sentence
    if device == "cpu":
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    _prepare_cuda(options, cuda)
    # The arena grows by what is asked for, not to the next power of two: what was counted is then what is taken.
    provider = "CUDAExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"}
    session = ort.InferenceSession(model, options, providers=[provider, "CPUExecutionProvider"], enable_fallback=0)
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise cuda_refused(f"ONNX Runtime fell back to {session.get_providers()[0]}")
    _require_on_gpu(session)
    return session


def _prepare_cuda(options: Any, cuda: CudaOptions) -> None:
    found = inspect_cuda()  # also loads the libraries that the provider links to
    if found.obstacle is not None:
        raise cuda_refused(found.obstacle, found.remedy)
    ort.set_default_logger_severity(4)  # what fails in CUDA would be written across the screen as well
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if cuda.fpa_intb_gemm:
        options.add_session_config_entry("ep.cuda.fpa_intb_gemm", "1")


def nodes_on_processor(session: ort.InferenceSession) -> Counter[str]:
    """How many nodes of each operator a session for CUDA left to the processor."""
    assigned = session.get_provider_graph_assignment_info()
    return Counter(
        node.op_type for part in assigned if part.ep_name == "CPUExecutionProvider" for node in part.get_nodes()
    )


def _require_on_gpu(session: ort.InferenceSession) -> None:
    """What counts lengths and shapes belongs on the processor; what reads weights or the cache does not."""
    if left := {op: n for op, n in nodes_on_processor(session).items() if op in _HEAVY}:
        what = ", ".join(f"{op} ({n} nodes)" for op, n in sorted(left.items()))
        raise cuda_refused(f"ONNX Runtime leaves {what} of this graph to the processor", "pull it with --profile cuda")


def _does_not_fit(graph: Path) -> OutOfMemoryError:
    return OutOfMemoryError(f"{graph.parent.name} does not fit into memory; close programs or take a smaller model.")


def says_out_of_memory(error: Exception) -> bool:
    """Whether ONNX Runtime, or CUDA through it, failed for want of memory."""
    text = str(error).lower()
    return "out of memory" in text or "failed to allocate memory" in text


def _let_go_of_mapped(directory: Path) -> None:
    """Tell Linux that the mapped weight files need not stay resident: ONNX Runtime has packed what it computes with,
    and reads a few rows of the embedding per pass. Whatever is touched again comes back from the file."""
    if _libc is None:
        return
    inside = f"{directory.resolve()}{os.sep}"
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            addresses, *_, file = line.rstrip("\n").split(maxsplit=5)
            if file.startswith(inside):
                start, end = (int(address, 16) for address in addresses.split("-"))
                _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_PAGEOUT)


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its name; of CUDA's, without where in ONNX Runtime it was met."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].partition(" ; GPU=")[0]
