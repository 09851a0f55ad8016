"""Which device a session runs on. ONNX Runtime falls back in silence: ask the driver first, and the session after."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Literal

from edgespec.errors import ModelError

DeviceChoice = Literal["auto", "cpu", "cuda"]
DeviceKind = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Device:
    """Where passes run, and why there."""

    kind: DeviceKind
    reason: str


def choose_device(choice: DeviceChoice, *, half_precision: bool) -> Device:
    """The device for a graph: `auto` takes CUDA where a GPU answers and the graph is made for it.

    half_precision: whether the graph's KV cache is float16, which CUDA's GroupQueryAttention requires.
    Raises ModelError if `cuda` was asked for and cannot be had; the text says why.
    """
    if choice == "cpu":
        return Device("cpu", "asked for")
    obstacle = _cuda_obstacle()
    if obstacle is None and not half_precision:
        obstacle = "this bundle's graph is float32, made for the CPU"
    if obstacle is None:
        return Device("cuda", "asked for" if choice == "cuda" else "an NVIDIA GPU is present")
    if choice == "cuda":
        raise ModelError(f"CUDA cannot be used: {obstacle}. Use --device cpu, or run `edgespec doctor`.")
    return Device("cpu", obstacle)


def likely_device(choice: DeviceChoice) -> DeviceKind:
    """Where a graph that is made for it would run, for whoever has to choose one before it is loaded."""
    return "cpu" if choice == "cpu" or _cuda_obstacle() else "cuda"


def _cuda_obstacle() -> str | None:
    """Why CUDA cannot work here, or None. Asks the driver itself: loading providers first would print and stall."""
    if sys.platform == "darwin":
        return "macOS has no CUDA"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    return None
