"""The command in a process of its own, with a home that holds a draft made of a tiny model."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import write_tiny_gguf

from edgespec.bundle import Store
from edgespec.pull import pull

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An EDGESPEC_HOME with the bundle `tiny`; tests get copies of it."""
    home = tmp_path_factory.mktemp("home")
    pull(str(write_tiny_gguf(home / "tiny.gguf")), Store(home / "models"), name="tiny", keep_layers=[0])
    return home


@pytest.fixture
def home(tmp_path: Path, tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    shutil.copytree(tiny_home, home)
    monkeypatch.setenv("EDGESPEC_HOME", str(home))
    monkeypatch.delenv("EDGESPEC_DEBUG", raising=False)
    return home


@pytest.fixture
def run(home: Path) -> Run:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgespec", *args]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
        )

    return run
