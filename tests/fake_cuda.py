"""A CUDA driver and its libraries that answer as they are told to, in the place of ctypes.CDLL."""

from __future__ import annotations

import sys
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest

from edgespec.runtime import cuda


class FakeCuda:
    """One GPU or none. init: what cuInit returns. supports: as cuDriverGetVersion says it. missing: the libraries that
    cannot be loaded."""

    def __init__(
        self,
        *,
        devices: int = 1,
        init: int = 0,
        supports: int = 13010,
        compute: tuple[int, int] = (8, 9),
        shares_memory: bool = False,
        free: int = 6 << 30,
        total: int = 8 << 30,
        missing: Collection[str] = (),
    ) -> None:
        self._devices, self._init, self._supports = devices, init, supports
        self._attributes = {75: compute[0], 76: compute[1], 18: int(shares_memory)}
        self.free, self._total, self._missing = free, total, missing

    def __call__(self, name: str) -> Any:
        if name in self._missing:
            raise OSError(f"{name}: cannot open shared object file")
        return self if "cuda.so" in name else SimpleNamespace(cudnnGetVersion=lambda: 90300)

    def install(self, monkeypatch: pytest.MonkeyPatch, built_for: str = "13.0") -> FakeCuda:
        """Answer for this machine, with an ONNX Runtime for that CUDA, none for ""."""
        monkeypatch.setattr("ctypes.CDLL", self)
        monkeypatch.setattr("onnxruntime.preload_dlls", lambda: sys.stdout.write("what is missing"))
        providers = ["CUDAExecutionProvider"] if built_for else []
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [*providers, "CPUExecutionProvider"])
        monkeypatch.setattr("onnxruntime.capi.build_and_package_info.cuda_version", built_for, raising=False)
        monkeypatch.setattr(cuda, "_module_version", lambda: "580.65.06")
        return self

    def cuInit(self, _flags: int) -> int:  # noqa: N802
        return self._init

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self._devices
        return 0

    def cuDeviceGetName(self, name: Any, _length: int, _device: int) -> int:  # noqa: N802
        name.value = b"NVIDIA Test"
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, _device: int) -> int:  # noqa: N802
        memory._obj.value = self._total
        return 0

    def cuDeviceGetAttribute(self, value: Any, number: int, _device: int) -> int:  # noqa: N802
        value._obj.value = self._attributes[number]
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self._supports
        return 0

    def cuDevicePrimaryCtxRetain(self, _context: Any, _device: int) -> int:  # noqa: N802
        return 0

    def cuCtxPushCurrent_v2(self, _context: Any) -> int:  # noqa: N802
        return 0

    def cuCtxPopCurrent_v2(self, _context: Any) -> int:  # noqa: N802
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:  # noqa: N802
        free._obj.value, total._obj.value = self.free, self._total
        return 0
