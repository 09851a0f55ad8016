"""A store in a temporary directory, and small bundles in it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from sample_bundles import FILES, describe

from edgespec.bundle import Bundle, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


@pytest.fixture
def make_bundle(store: Store) -> Callable[..., Bundle]:
    """Make a bundle of `files` in the store."""

    def make(name: str = "tiny", files: dict[str, bytes] = FILES) -> Bundle:
        with store.staging() as staging:
            for file, content in files.items():
                (staging.files / file).write_bytes(content)
            return staging.commit(describe(name, staging.files, tuple(files)))

    return make


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Generator[Path]:
    """A real file system of four megabytes."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    path = tmp_path / "disk"
    path.mkdir()
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    if mount is None or umount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield path
    subprocess.run([umount, "-l", str(path)], check=True)  # a test that failed may still hold a file
