"""A tiny model, converted once per format, and what runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_tiny_gguf

from edgespec.graph import convert_gguf


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("source") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_float32(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("float32")
    convert_gguf(tiny_gguf, out, weights="float32")
    return out


@pytest.fixture(scope="session")
def tiny_int8(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8")
    convert_gguf(tiny_gguf, out)
    return out
