"""What every test folder shares: the default model, the fakes on the path, and how Hypothesis runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from fake_hub import FakeHub, serving
from hypothesis import settings

from edgespec.bundle import Bundle, default_store, hub_download
from edgespec.conversations.recorder import Recorder
from edgespec.pull import parse_layers, pull

# What runs in the background may have been told to ignore these, and so would every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

os.environ["EDGESPEC_HISTORY"] = "0"  # what a test says is nobody's to keep, and must not change the next one's drafts
os.environ["XDG_CONFIG_HOME"] = os.devnull  # whoever runs the tests may have settled on something

# No deadline: these machines are shared. Derandomized: what passes today passes tomorrow.
settings.register_profile("edgespec", deadline=None, derandomize=True)
settings.load_profile("edgespec")

SKIPPING = "0-5,14-16,24-29"
"""The layers of the layer-skip draft: cheap enough to be quick, wrong often enough to be tested."""


@pytest.fixture(scope="session")
def default_bundle() -> Bundle:
    """The default model, where the program itself keeps it: the first run of the tests fetches it."""
    store = default_store()
    return store.get("smollm2-135m") if "smollm2-135m" in store.names() else pull("smollm2-135m", store)


@pytest.fixture(scope="session")
def skip_bundle(default_bundle: Bundle) -> Bundle:
    """Some of the default model's own layers, as a draft for it."""
    return pull(default_bundle.name, default_store(), keep_layers=parse_layers(SKIPPING))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where conversations are kept; not there yet."""
    return tmp_path / "conversations"


@pytest.fixture
def recorder(directory: Path) -> Recorder:
    """Keeps them, and has nothing to complain of."""
    return Recorder(directory, pytest.fail)


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
