"""Pulling a tiny checkpoint from a folder: whole, again, changed, in part, and what is no checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import write_checkpoint_of_gguf, write_json
from tiny import write_tiny_gguf

from edgespec.bundle import Quality, Store
from edgespec.errors import ModelError
from edgespec.pull import pull


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("edgespec.quality.measure", lambda *_: Quality(0.005, 0.98, 1000))
    return write_checkpoint_of_gguf(write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "Tiny-1.5B")


def test_a_checkpoint_becomes_a_bundle(store: Store, folder: Path) -> None:
    stages: list[str] = []
    bundle = pull(str(folder), store, progress=lambda stage, _: stages.append(stage))
    source = bundle.manifest.source
    assert (bundle.name, source.kind, source.reference) == ("tiny-1.5b", "folder", str(folder))
    assert bundle.manifest.quality == Quality(0.005, 0.98, 1000)
    assert stages[0] == "Reading the model"
    assert store.verify("tiny-1.5b") == bundle
    assert pull(str(folder), store) == bundle


def test_a_file_of_it_that_changed_is_noticed(store: Store, folder: Path) -> None:
    pull(str(folder), store)
    write_json(folder / "generation_config.json", {"eos_token_id": 0})
    with pytest.raises(ModelError, match=r"there is a model tiny-1\.5b already"):
        pull(str(folder), store)
    (folder / "generation_config.json").unlink()
    (folder / "notes.txt").write_text("of no interest")
    assert pull(str(folder), store).name == "tiny-1.5b"


def test_some_layers_of_it_make_a_draft(store: Store, folder: Path) -> None:
    bundle = pull(str(folder), store, keep_layers=[1])
    assert (bundle.name, bundle.manifest.layers, bundle.manifest.quality) == ("tiny-1.5b-layers-1", (1,), None)


def test_a_folder_without_a_checkpoint_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        pull(str(tmp_path / "empty"), store)
    assert store.names() == ()
