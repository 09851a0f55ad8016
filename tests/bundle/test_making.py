"""Making a bundle in stages: gone on with after an interruption, refused with advice, kept by force, looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import write_checkpoint_of_gguf
from tiny import write_tiny_gguf

from edgespec.bundle import Checks, Quality, Store
from edgespec.errors import ModelError
from edgespec.graph import Converted
from edgespec.making import Float32, Tools
from edgespec.pull import pull

GOOD, BAD = Quality(0.005, 0.98, 1000), Quality(0.5, 0.6, 1000)
FOUND = Checks(parity=1e-5, memory=12_000_000, pass_ms=(1.0, 1.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("own")
    return write_checkpoint_of_gguf(write_tiny_gguf(directory / "tiny.gguf"), directory / "Tiny")


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgespec.quality.measure", lambda *_: GOOD)


def found(source: Path, files: Path, float32: Float32, made: Converted, progress: object) -> Checks:
    assert (source / "config.json").exists()
    assert (files / "model.onnx").exists()
    assert (float32() / "model.onnx").exists()
    assert made.vocab_size == 304
    return FOUND


def test_what_is_found_out_stands_in_the_manifest(store: Store, folder: Path) -> None:
    tools = Tools(inspect=found, draft="small")
    bundle = pull(str(folder), store, tools=tools)
    assert (bundle.manifest.checks, bundle.manifest.draft) == (FOUND, "small")
    assert store.open("tiny") == bundle
    assert pull(str(folder), store) == bundle


def test_a_bundle_that_was_not_looked_at_is_made_again(store: Store, folder: Path) -> None:
    assert pull(str(folder), store).manifest.checks is None
    assert pull(str(folder), store, tools=Tools(inspect=found)).manifest.checks == FOUND
    assert pull(str(folder), store, tools=Tools(inspect=found, draft="d")).manifest.draft == "d"


def test_finished_stages_are_not_done_again(store: Store, folder: Path) -> None:
    def stop(source: Path, files: Path, float32: Float32, *_: object) -> Checks:
        float32()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(str(folder), store, tools=Tools(inspect=stop))
    assert store.names() == ()
    stages: list[str] = []
    bundle = pull(str(folder), store, tools=Tools(inspect=found), progress=lambda stage, _: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["Reading the model", "Storing the model"]
    assert store.verify("tiny") == bundle
    assert sorted(path.name for path in store.root.iterdir()) == [".lock", ".verified.json", "tiny"]


def test_a_source_that_changed_begins_anew(store: Store, folder: Path, tmp_path: Path) -> None:
    def stop(*_: object) -> Checks:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(str(folder), store, tools=Tools(inspect=stop))
    other = write_checkpoint_of_gguf(write_tiny_gguf(tmp_path / "other.gguf", seed=5), tmp_path / "Tiny")
    stages: list[str] = []
    bundle = pull(str(other), store, progress=lambda stage, _: stages.append(stage))
    assert "Converting the model" in stages
    assert store.verify("tiny") == bundle


def test_force_keeps_what_lost_too_much(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgespec.quality.measure", lambda *_: BAD)
    with pytest.raises(ModelError, match=r"agreement 60\.0%; try a source with more bits per weight"):
        pull(str(folder), store, tools=Tools("int8"))
    assert store.names() == ()
    stages: list[str] = []
    bundle = pull(str(folder), store, tools=Tools("int8", force=True), progress=lambda stage, _: stages.append(stage))
    assert bundle.manifest.quality == BAD
    assert "Converting the model" not in stages


@pytest.mark.parametrize("good", ["int4", "mixed", "int8"])
def test_the_fastest_format_that_is_good_is_taken(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, good: str
) -> None:
    graphs: list[Path] = []

    def measure(files: Path, *_: object) -> Quality:
        graphs.append(files)
        return GOOD if len(graphs) > ["int4", "mixed", "int8"].index(good) else BAD

    monkeypatch.setattr("edgespec.quality.measure", measure)
    assert pull(str(folder), store).manifest.recipe.startswith(good)


@pytest.mark.parametrize(("kl", "format_name"), [(0.009, "kept"), (0.011, "int8")])
def test_a_file_s_four_bits_are_kept_if_that_costs_next_to_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kl: float, format_name: str
) -> None:
    monkeypatch.setattr("edgespec.quality.measure", lambda *_: replace(GOOD, mean_kl=kl))
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    assert pull(str(path), store).manifest.recipe.startswith(format_name)
    with pytest.raises(ModelError, match="in another way"):
        pull(str(path), store, tools=Tools("mixed"))


def test_a_refusal_names_the_format_that_would_do(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def measure(files: Path, *_: object) -> Quality:
        """The larger of two formats is good; neither of the smaller ones is."""
        sizes.append((files / "model.onnx.data").stat().st_size)
        return GOOD if len(sizes) == 3 else BAD

    monkeypatch.setattr("edgespec.quality.measure", measure)
    tools = Tools(weights="int4", inspect=found)
    for _ in range(2):  # the second time from what was noted
        with pytest.raises(ModelError, match=r"60\.0%; --weights int8 would do, with an agreement of 98\.0%"):
            pull(str(folder), store, tools=tools)
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3
    bundle = pull(str(folder), store, tools=Tools(weights="int4", inspect=found, force=True))
    assert bundle.manifest.recipe.startswith("int4")
    with pytest.raises(ModelError, match="in another way"):
        pull(str(folder), store, tools=Tools(weights="mixed", inspect=found))
