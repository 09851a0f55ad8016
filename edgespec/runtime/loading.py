"""From a graph's file to a session on the device that suits it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnxruntime as ort

from edgespec.errors import EdgespecError, ModelError
from edgespec.runtime.cuda import gpu_obstacle
from edgespec.runtime.device import Device, DeviceChoice, choose_device
from edgespec.runtime.onnx_nodes import graph_inputs
from edgespec.runtime.session import open_session

_FLOAT16: Final = 10
"""Of TensorProto.DataType."""


def open_on(graph: Path, choice: DeviceChoice) -> tuple[ort.InferenceSession, Device]:
    """Load a graph where `choice` wants it; `auto` takes the processor where CUDA cannot run this graph.

    Raises: ModelError, OutOfMemoryError.
    """
    device = planned_device(graph, choice)
    if device.kind == "cpu":
        return open_session(graph, "cpu"), device
    try:
        return open_session(graph, device.kind), device
    except EdgespecError as error:
        if choice != "auto":
            raise
        return open_session(graph, "cpu"), Device("cpu", str(error))


def planned_device(graph: Path, choice: DeviceChoice) -> Device:
    """Where a graph is to be loaded. Raises: ModelError if CUDA was asked for and cannot be had."""
    matters = choice != "cpu" and gpu_obstacle() is None
    return choose_device(choice, half_precision=matters and _is_half_precision(graph))


def _is_half_precision(graph: Path) -> bool:
    """Whether its KV cache is float16, read from the file; a file that is none is left to whoever loads it."""
    try:
        inputs = graph_inputs(graph)
    except ModelError:
        return False
    return any(name.startswith("past_key_values.") and element == _FLOAT16 for name, (element, _) in inputs.items())
