"""What `doctor` says of GPU and power."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Any

from edgespec.runtime.cuda import free_memory, inspect_cuda
from edgespec.runtime.power import find_jetson, power_condition, rails


def hardware_facts() -> dict[str, Any]:
    """For `--json`: `cuda` as `runtime.cuda.Cuda`, with the bytes that are free; `power` with rails in watts."""
    cuda, jetson = inspect_cuda(), find_jetson()
    memory = None if cuda.gpu is None or cuda.obstacle else free_memory()
    watts: dict[str, float] = {}
    for rail in rails():
        with suppress(OSError, ValueError):
            watts[rail.name] = round(rail.watts(), 3)
    return {
        "cuda": {**asdict(cuda), "free_bytes": memory[0] if memory else None},
        "power": {"condition": power_condition(), "jetson": asdict(jetson) if jetson else None, "rails": watts},
    }


def hardware_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The same as lines: what they are about, and what is said."""
    cuda, power, rows = facts["cuda"], facts["power"], list[tuple[str, str]]()
    if gpu := cuda["gpu"]:
        memory = f"{gpu['memory'] / 1e9:.1f} GB" + (" shared with the processor" if gpu["shares_memory"] else "")
        free = "" if cuda["free_bytes"] is None else f", {cuda['free_bytes'] / 1e9:.1f} GB free"
        rows.append(("gpu", f"{gpu['name']}, compute capability {_version(gpu['compute'])}, {memory}{free}"))
        parts = [
            f"driver {cuda['driver'] or 'of unknown version'} (CUDA {_version(cuda['supports'])})",
            f"ONNX Runtime for CUDA {_version(cuda['built_for'])}"
            if cuda["built_for"]
            else "ONNX Runtime without CUDA",
            f"cuDNN {cuda['cudnn']}" if cuda["cudnn"] else "no cuDNN",
        ]
        rows.append(("cuda", ", ".join(parts)))
    if cuda["obstacle"]:
        remedy = f"; to change that: {cuda['remedy']}" if cuda["remedy"] else ""
        rows.append(("" if gpu else "cuda", f"cannot be used: {cuda['obstacle']}{remedy}"))
    if jetson := power["jetson"]:
        linux = f", Jetson Linux {jetson['linux']}" if jetson["linux"] else ""
        rows.append(("jetson", f"{jetson['model']}{linux}"))
    if power["condition"]:
        rows.append(("power", power["condition"]))
    if power["rails"]:
        rows.append(("rails", ", ".join(f"{name} {watts:.2f} W" for name, watts in power["rails"].items())))
    return rows


def _version(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))
