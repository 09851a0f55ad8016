"""Where a session's tensors are: in the host's memory, or on a device, across a bus whose traffic is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from edgespec.errors import ModelError, OutOfMemoryError
from edgespec.runtime.device import DeviceKind
from edgespec.runtime.session import first_line, says_out_of_memory


@dataclass(slots=True)
class Traffic:
    """Bytes that crossed the bus since the last `reset`, and the largest single copy to the host."""

    to_device: int = 0
    to_host: int = 0
    largest: int = 0

    def sent(self, size: int) -> None:
        self.to_device += size

    def fetched(self, size: int) -> None:
        self.to_host += size
        self.largest = max(self.largest, size)

    def reset(self) -> None:
        self.to_device = self.to_host = self.largest = 0


class Memory:
    """The memory of `device`. apart: whether the host reads it only by copies; so it is unless the device is the
    host, and tests treat the host's own so."""

    def __init__(self, device: DeviceKind = "cpu", *, apart: bool | None = None) -> None:
        self.device: DeviceKind = device
        self.apart = device != "cpu" if apart is None else apart
        self.traffic = Traffic()

    def place(self, array: NDArray[Any]) -> ort.OrtValue:
        """`array` there: itself in the host's memory, a copy elsewhere. Raises: OutOfMemoryError, ModelError."""
        try:
            return ort.OrtValue.ortvalue_from_numpy(array, self.device, 0)
        except Exception as e:  # ONNX Runtime raises classes of its own that share no base but Exception
            if says_out_of_memory(e):
                size = f"{array.nbytes / 1e6:.1f} MB more"
                raise OutOfMemoryError(f"the GPU has no room for {size}; use --device cpu, or a smaller model.") from e
            raise ModelError(f"the GPU takes no data ({first_line(e)}); use --device cpu.") from e

    def bind_input(
        self, binding: Any, name: str, value: ort.OrtValue, dtype: DTypeLike, shape: Sequence[int], skip: int = 0
    ) -> None:
        """Make `binding` read a tensor of that shape from `value`, `skip` bytes into it."""
        binding.bind_input(name, self.device, 0, dtype, list(shape), value.data_ptr() + skip)

    def bind_output(
        self, binding: Any, name: str, value: ort.OrtValue, dtype: DTypeLike, shape: Sequence[int], skip: int = 0
    ) -> None:
        """Make `binding` write a tensor of that shape into `value`, `skip` bytes into it."""
        binding.bind_output(name, self.device, 0, dtype, list(shape), value.data_ptr() + skip)

    def send(self, binding: Any, name: str, array: NDArray[Any], shape: Sequence[int]) -> None:
        """Bind an input that the host holds. A session that reads it on a device copies it now, so it is bound anew
        whenever it has changed."""
        self.traffic.sent(array.itemsize * prod(shape))
        binding.bind_input(name, "cpu", 0, array.dtype, list(shape), array.ctypes.data)

    def fetch(self, binding: Any, name: str, array: NDArray[Any], shape: Sequence[int]) -> None:
        """Bind an output that the host is to hold: it is copied there whenever the session has run."""
        self.fetch_again(array)
        binding.bind_output(name, "cpu", 0, array.dtype, list(shape), array.ctypes.data)

    def fetch_again(self, array: NDArray[Any]) -> None:
        """Count a copy into an array that is bound already."""
        self.traffic.fetched(array.nbytes)

    def run(self, session: Any, binding: Any) -> None:
        """Run `session` on what is bound. What `send` copies is only queued until then, on a stream that is not the
        session's (onnxruntime#15438), and what the session leaves may be read by another one."""
        if self.apart:
            binding.synchronize_inputs()
        session.run_with_iobinding(binding)
        if self.apart:
            binding.synchronize_outputs()
