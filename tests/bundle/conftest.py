"""A store in a temporary directory, and small bundles in it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from fake_hub import FakeHub, serving
from sample_bundles import FILES, describe

from edgespec.bundle import Bundle, Store, hub_download


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
def loopback_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[FakeHub]:
    """The Hub, for this process and its children: a server on this machine, and nobody logged in."""
    with serving(FakeHub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("NO_PROXY", "*")
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setattr(hub_download, "CHUNK", 10_000)
        # Attempts on a connection that broke off are a second apart.
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
        yield hub


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
    subprocess.run([umount, str(path)], check=True)
