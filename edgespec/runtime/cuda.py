"""What NVIDIA's driver and ONNX Runtime say of CUDA on this machine: GPUs, versions, memory, and what is missing.

The driver is asked itself (CUDA Driver API), because loading a provider that cannot work prints, and stalls.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_COMPUTE_MAJOR, _COMPUTE_MINOR, _INTEGRATED = 75, 76, 18
"""Of CUdevice_attribute."""
_OLDEST_COMPUTE: Final = {13: (7, 5)}
"""The oldest GPUs that the libraries of a major version of CUDA run on."""
_MODULE_VERSION: Final = Path("/sys/module/nvidia/version")
INSTALL: Final = "pip install 'onnxruntime-gpu[cuda,cudnn]'"

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first GPU. compute: its compute capability. memory: bytes in all. shares_memory: whether that is the
    processor's own memory, as on a Jetson."""

    name: str
    compute: Version
    memory: int
    shares_memory: bool


@dataclass(frozen=True, slots=True)
class Cuda:
    """What there is. driver: the kernel module's version, where it says so. supports: the newest CUDA that the driver
    can run. built_for: the CUDA that ONNX Runtime needs, None if it is a build without. cudnn: the version, if it is
    there. missing: shared libraries that ONNX Runtime needs and that cannot be loaded. obstacle: why CUDA cannot be
    used, None if nothing is known against it; remedy: what to do about that."""

    gpu: Gpu | None = None
    driver: str | None = None
    supports: Version | None = None
    built_for: Version | None = None
    cudnn: str | None = None
    missing: tuple[str, ...] = ()
    obstacle: str | None = None
    remedy: str | None = None


def gpu_obstacle() -> str | None:
    """Why no GPU can be had, or None. Quick: it loads nothing but the driver."""
    found = _open_driver()
    return found if isinstance(found, str) else None


def inspect_cuda() -> Cuda:
    """All that is known of CUDA here. Loads ONNX Runtime and the libraries of CUDA if there is a GPU."""
    driver = _open_driver()
    if isinstance(driver, str):
        remedy = None if sys.platform == "darwin" else "install NVIDIA's driver, then see that `nvidia-smi` lists a GPU"
        return Cuda(driver=_module_version(), obstacle=driver, remedy=remedy)
    gpu, supports, built_for = _first_gpu(driver), _supported(driver), _built_for()
    missing = load_libraries(built_for) if built_for else ()
    obstacle, remedy = _obstacle(gpu, supports, built_for, missing)
    cudnn = _cudnn_version() if built_for else None
    return Cuda(gpu, _module_version(), supports, built_for, cudnn, missing, obstacle, remedy)


def free_memory() -> tuple[int, int] | None:
    """Bytes of the first GPU that are free, and bytes in all; None where the driver does not say.

    Makes the GPU's primary context, which ONNX Runtime then uses, so that the context is no longer counted as free.
    """
    driver = _open_driver()
    if isinstance(driver, str):
        return None
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) != 0 or driver.cuCtxPushCurrent_v2(context) != 0:
        return None
    try:
        if driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) != 0:
            return None
    finally:
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    return free.value, total.value


def shares_memory() -> bool:
    """Whether the first GPU computes in the processor's memory."""
    driver = _open_driver()
    return not isinstance(driver, str) and _first_gpu(driver).shares_memory


def load_libraries(built_for: Version) -> tuple[str, ...]:
    """Load the libraries of CUDA that ONNX Runtime's provider links to, from NVIDIA's packages or the system; the names
    of those that are missing."""
    import onnxruntime as ort

    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        ort.preload_dlls()
    if sys.platform != "linux":
        return ()
    names = (*(f"lib{name}.so.{built_for[0]}" for name in ("cudart", "cublasLt", "cublas")), "libcurand.so.10")
    return tuple(name for name in names if not _loads(name))


def _open_driver() -> Any | str:
    """The driver's library, initialized, or why there is none."""
    if sys.platform == "darwin":
        return "macOS has no CUDA"
    try:
        driver: Any = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    return driver


def _first_gpu(driver: Any) -> Gpu:
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    driver.cuDeviceGetName(name, len(name), 0)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), 0)
    major, minor, shares = (_attribute(driver, n) for n in (_COMPUTE_MAJOR, _COMPUTE_MINOR, _INTEGRATED))
    return Gpu(name.value.decode("utf-8", "replace"), (major, minor), memory.value, bool(shares))


def _attribute(driver: Any, number: int) -> int:
    value = ctypes.c_int(0)
    driver.cuDeviceGetAttribute(ctypes.byref(value), number, 0)
    return value.value


def _supported(driver: Any) -> Version:
    version = ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000, version.value % 1000 // 10


def _built_for() -> Version | None:
    import onnxruntime as ort
    from onnxruntime.capi import build_and_package_info

    text: str = getattr(build_and_package_info, "cuda_version", "") or ""
    match = re.match(r"(\d+)\.(\d+)", text)
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return None
    return (int(match[1]), int(match[2])) if match else None


def _obstacle(
    gpu: Gpu, supports: Version, built_for: Version | None, missing: tuple[str, ...]
) -> tuple[str | None, str | None]:
    """Why CUDA cannot be used, and what to do about it."""
    if built_for is None:
        remedy = f"pip uninstall onnxruntime onnxruntime-gpu, then {INSTALL}"
        return "the installed ONNX Runtime was built without CUDA", remedy
    if supports[0] < built_for[0]:
        text = f"the driver runs CUDA up to {_dotted(supports)} and ONNX Runtime needs {_dotted(built_for)}"
        return text, f"update NVIDIA's driver to one for CUDA {built_for[0]}"
    oldest = _OLDEST_COMPUTE.get(built_for[0], (0, 0))
    if gpu.compute < oldest:
        text = f"{gpu.name} has compute capability {_dotted(gpu.compute)} and CUDA {built_for[0]} needs"
        return f"{text} {_dotted(oldest)}", None
    if missing:
        return f"{', '.join(missing)} cannot be loaded", INSTALL
    return None, None


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _loads(library: str) -> bool:
    with contextlib.suppress(OSError):
        ctypes.CDLL(library)
        return True
    return False


def _cudnn_version() -> str | None:
    with contextlib.suppress(OSError, AttributeError):
        number = int(ctypes.CDLL("libcudnn.so.9").cudnnGetVersion())  # 9.3.0 is 90300
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return None


def _module_version() -> str | None:
    with contextlib.suppress(OSError):
        return _MODULE_VERSION.read_text(encoding="ascii", errors="replace").strip()
    return None
