"""ONNX Runtime sessions that share one thread pool."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import onnxruntime as ort
import psutil

from edgespec.errors import ModelError, OutOfMemoryError, UsageError
from edgespec.runtime.device import DeviceKind

_MADV_PAGEOUT = 21
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


def open_session(graph: Path, device: DeviceKind) -> ort.InferenceSession:
    """Load a graph. Raises ModelError if it cannot be loaded or would not run on `device`, OutOfMemoryError."""
    use_threads(None)
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 4  # errors are raised, and told in a sentence
    providers = ["CPUExecutionProvider"]
    if device == "cuda":
        ort.preload_dlls()
        providers.insert(0, "CUDAExecutionProvider")
    try:
        session = ort.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except MemoryError as e:
        raise OutOfMemoryError(
            f"{graph.parent.name} does not fit into memory; close programs or take a smaller model."
        ) from e
    except Exception as e:  # ONNX Runtime raises classes of its own that share no base but Exception
        raise ModelError(f"ONNX Runtime cannot load {graph}: {_first_line(e)}") from e
    _let_go_of_mapped(graph.parent)
    if session.get_providers()[0] != providers[0]:
        raise ModelError(
            f"CUDA cannot be used: ONNX Runtime fell back to {session.get_providers()[0]}. "
            "Use --device cpu, or run `edgespec doctor`."
        )
    return session


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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
