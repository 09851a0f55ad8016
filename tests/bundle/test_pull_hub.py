"""Pulling a tiny model from a server that speaks the Hub's API: twice, moved, killed, offline, with its draft."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import write_checkpoint_of_gguf
from fake_hub import FakeHub
from tiny import write_tiny_gguf

from edgespec.bundle import Quality, Store
from edgespec.bundle.catalog import Catalog, Pair
from edgespec.bundle.hub import HubReference
from edgespec.errors import ChecksumError, DownloadError, ModelError
from edgespec.pull import pull

REFERENCE = "Some/Tiny:q4/Tiny.gguf"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_gguf(tmp_path_factory.mktemp("own") / "tiny.gguf").read_bytes()


@pytest.fixture
def hub(loopback_hub: FakeHub, gguf: bytes, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    loopback_hub.repositories["Some/Tiny"] = {"q4/Tiny.gguf": gguf, "README.md": b"words"}
    monkeypatch.setattr("edgespec.quality.measure", lambda *_: Quality(0.005, 0.98, 1000))
    return loopback_hub


def left_in(store: Store) -> list[str]:
    return sorted(path.name for path in store.root.iterdir() if not path.name.startswith((".lock", ".verified")))


def test_a_gguf_file_of_a_repository(store: Store, hub: FakeHub) -> None:
    stages: list[str] = []
    bundle = pull(REFERENCE, store, progress=lambda stage, _: stages.append(stage))
    source = bundle.manifest.source
    assert (bundle.name, source.kind, source.reference) == ("tiny", "hub", REFERENCE)
    assert source.revision == hub.commit("Some/Tiny")
    assert bundle.manifest.license == "apache-2.0"
    assert bundle.manifest.pull_command == f"edgespec pull {REFERENCE} --weights kept --name tiny"
    assert stages[0] == "Fetching Some/Tiny, 0.1 MB"
    assert left_in(store) == ["tiny"]
    assert not any(path.is_symlink() for path in store.root.rglob("*"))
    assert store.verify("tiny") == bundle


def test_a_checkpoint(store: Store, hub: FakeHub, tmp_path: Path) -> None:
    folder = write_checkpoint_of_gguf(write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "Tiny")
    hub.repositories["Some/Tiny"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    bundle = pull("Some/Tiny", store)
    assert (bundle.name, bundle.manifest.source.kind) == ("tiny", "hub")
    assert bundle.manifest.source.revision == hub.commit("Some/Tiny")
    assert left_in(store) == ["tiny"]
    assert pull("Some/Tiny", store, keep_layers=[0]).manifest.layers == (0,)


def test_a_checkpoint_of_a_family_that_has_no_graph(store: Store, hub: FakeHub, tmp_path: Path) -> None:
    folder = write_checkpoint_of_gguf(write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "Tiny")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repositories["Some/Mamba"] = {**files, "config.json": b'{"model_type": "mamba"}'}
    with pytest.raises(ModelError, match=r"config\.json of Mamba .* family mamba, .*`python -m export hf`"):
        pull("Some/Mamba", store)
    assert store.names() == ()


def test_again_asks_only_which_commit_it_is(store: Store, hub: FakeHub) -> None:
    first = pull(REFERENCE, store)
    hub.requests.clear()
    assert pull(REFERENCE, store) == first
    assert [path for path, _, _ in hub.requests] == ["/api/models/Some/Tiny/revision/main"]
    hub.requests.clear()
    assert pull(REFERENCE, store, offline=True) == first
    pinned = f"Some/Tiny@{hub.commit('Some/Tiny')}:q4/Tiny.gguf"
    second = pull(pinned, store, name="pinned")
    hub.requests.clear()
    assert pull(pinned, store, name="pinned") == second
    assert hub.requests == []


def test_a_branch_that_moved_is_made_again(store: Store, hub: FakeHub, tmp_path: Path) -> None:
    first = pull(REFERENCE, store)
    hub.repositories["Some/Tiny"]["q4/Tiny.gguf"] = write_tiny_gguf(tmp_path / "new.gguf", seed=1).read_bytes()
    second = pull(REFERENCE, store)
    assert second.manifest.source.revision == hub.commit("Some/Tiny") != first.manifest.source.revision
    assert left_in(store) == ["tiny"]


def test_offline_fetches_nothing(store: Store, hub: FakeHub) -> None:
    with pytest.raises(DownloadError, match="--offline"):
        pull(REFERENCE, store, offline=True)
    assert hub.requests == []


def test_a_name_that_is_taken(store: Store, hub: FakeHub, gguf: bytes, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "own.gguf", seed=3)
    pull(str(tmp_path / "own.gguf"), store, name="tiny")
    with pytest.raises(ModelError, match="--name"):
        pull(REFERENCE, store)


def test_layers_of_a_file_can_be_chosen(store: Store, hub: FakeHub) -> None:
    assert pull(REFERENCE, store, keep_layers=[0]).name == "tiny-layers-0"


def test_a_disk_that_is_too_small_for_it(tiny_disk: Path, hub: FakeHub) -> None:
    hub.repositories["Some/Tiny"]["q4/Tiny.gguf"] = bytes(5_000_000)
    with pytest.raises(DownloadError, match=r"MB free and 15\.0 MB are needed"):
        pull(REFERENCE, Store(tiny_disk / "models"))
    assert hub.ranges() == []


def test_the_wrong_file_is_not_converted(store: Store, hub: FakeHub, gguf: bytes) -> None:
    hub.served["q4/Tiny.gguf"] = gguf[:-1] + bytes([gguf[-1] ^ 1])
    with pytest.raises(ChecksumError, match=r"q4/Tiny\.gguf of Some/Tiny"):
        pull(REFERENCE, store)
    assert store.names() == ()


def test_a_pair_brings_its_draft(store: Store, hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["Some/Small"] = {"small.gguf": write_tiny_gguf(tmp_path / "small.gguf", layers=1).read_bytes()}
    big = Pair("big", "Big", "MIT", "small", 1, 1, "tests", HubReference("Some/Tiny", file="q4/Tiny.gguf"))
    small = Pair("small", "Small", "Apache-2.0", "ngram", 1, 1, "tests", HubReference("Some/Small", file="small.gguf"))
    catalog = Catalog("big", {"big": big, "small": small})
    bundle = pull("big", store, catalog=catalog)
    assert (bundle.name, bundle.manifest.license) == ("big", "MIT")
    assert bundle.manifest.source.revision == hub.commit("Some/Tiny")
    assert left_in(store) == ["big", "small"]


CHILD = """
import sys, time
from pathlib import Path
from edgespec.bundle import Store, hub_download
from edgespec.pull import pull

_, root, reference, stop_at, fraction = sys.argv
hub_download.CHUNK = 10_000

def stop(stage, done):
    if stage.startswith(stop_at) and done >= float(fraction):
        print("here", flush=True)
        time.sleep(600)

pull(reference, Store(Path(root)), progress=stop)
"""


@pytest.mark.parametrize(("stage", "fraction"), [("Fetching", 0.5), ("Converting", 0.5), ("Measuring", 0.5)])
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_gone_on_with(store: Store, hub: FakeHub, stage: str, fraction: float, kill: signal.Signals) -> None:
    command = [sys.executable, "-c", CHILD, str(store.root), REFERENCE, stage, str(fraction)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        child.send_signal(kill)
        child.wait()
    assert store.names() == ()
    hub.requests.clear()
    stages: list[str] = []
    bundle = pull(REFERENCE, store, progress=lambda stage, _: stages.append(stage))
    assert store.verify("tiny") == bundle
    assert left_in(store) == ["tiny"]
    if stage == "Fetching":
        (resumed,) = hub.ranges()
        assert resumed is not None
        assert int(resumed.removeprefix("bytes=").rstrip("-")) > 10_000
    else:
        assert hub.ranges() == []
    assert ("Converting the model" in stages) is (stage != "Measuring")
