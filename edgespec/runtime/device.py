"""Which device a session runs on. ONNX Runtime falls back in silence: ask the driver first, and the session after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgespec.errors import ModelError
from edgespec.runtime.cuda import gpu_obstacle, inspect_cuda

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
    obstacle, remedy = gpu_obstacle(), None
    if obstacle is None and not half_precision:
        obstacle, remedy = "this bundle's graph is float32, made for the CPU", "pull the model with --profile cuda"
    if obstacle is None:
        found = inspect_cuda()
        obstacle, remedy = found.obstacle, found.remedy
    if obstacle is None:
        return Device("cuda", "asked for" if choice == "cuda" else "an NVIDIA GPU is present")
    if choice == "cuda":
        raise cuda_refused(obstacle, remedy)
    return Device("cpu", obstacle)


def cuda_refused(obstacle: str, remedy: str | None = None) -> ModelError:
    """The error for CUDA that was asked for, with what to do about it, if that is known."""
    step = f"To change that: {remedy}. " if remedy else ""
    return ModelError(f"CUDA cannot be used: {obstacle}. {step}Use --device cpu, or run `edgespec doctor`.")


def likely_device(choice: DeviceChoice) -> DeviceKind:
    """Where a graph that is made for it would run, for whoever has to choose one before it is loaded."""
    return "cpu" if choice == "cpu" or gpu_obstacle() else "cuda"
