"""A head that somebody else trained is pulled for a model that is here, and drafts for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_hub import FakeHub
from heads import CONTEXT, weights, write_head
from tiny import write_tiny_gguf

import edgespec
from edgespec.bundle import Store
from edgespec.chat.events import Answer
from edgespec.chat.session import Chat, Settings
from edgespec.decoding.sampling import Sampling
from edgespec.errors import ModelError, UsageError
from edgespec.heads import pull_head
from edgespec.making import Tools
from edgespec.pull import pull


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("own") / "tiny.gguf", layers=8)


@pytest.fixture
def store(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A home with a tiny model of eight layers."""
    monkeypatch.setenv("EDGESPEC_HOME", str(tmp_path))
    store = Store(tmp_path / "models")
    pull(str(gguf), store, tools=Tools("int8", force=True))
    return store


def answer(chat: Chat) -> Answer:
    *_, last = chat.send("and what is in the other one")
    assert isinstance(last, Answer)
    return last


def test_from_a_folder_and_it_drafts(store: Store, tmp_path: Path) -> None:
    folder = write_head(tmp_path / "my-head", weights(), window=16)
    bundle = pull_head(str(folder), "tiny", store)
    head = bundle.manifest.head
    assert head is not None
    assert (bundle.name, head.target, head.hidden_size, head.window) == ("my-head", "tiny", 192, 16)
    assert head.tokenizer_sha256 == store.open("tiny").tokenizer_sha256
    assert (bundle.context_length, bundle.manifest.license) == (CONTEXT, None)
    assert bundle.manifest.pull_command == f"edgespec pull {folder} --head-of tiny --name my-head"
    assert store.verify("my-head") == bundle
    for sampling in (Sampling(), Sampling(temperature=0.9, seed=5)):
        settings = Settings(sampling, max_tokens=40)
        drafted = edgespec.open_chat("tiny", draft="my-head", settings=settings)
        assert drafted.draft == "my-head"
        found = answer(drafted)
        if sampling.temperature == 0.0:
            assert found.tokens == answer(edgespec.open_chat("tiny", draft="none", settings=settings)).tokens


def test_a_head_is_made_for_the_device_that_its_model_is_made_for(gguf: Path, store: Store, tmp_path: Path) -> None:
    pull(str(gguf), store, tools=Tools("int8", force=True, profile="cuda"))
    bundle = pull_head(str(write_head(tmp_path / "my-head", weights())), "tiny-cuda", store)
    assert (bundle.name, bundle.manifest.half_precision) == ("my-head-cuda", True)
    assert "--profile" not in bundle.manifest.pull_command  # the model says it
    assert store.open("tiny-cuda").manifest.pull_command.endswith("--profile cuda --name tiny-cuda")
    settings = Settings(Sampling(), max_tokens=20)
    plain = answer(edgespec.open_chat("tiny-cuda", draft="none", settings=settings))
    assert answer(edgespec.open_chat("tiny-cuda", draft="my-head-cuda", settings=settings)).tokens == plain.tokens


def test_a_head_that_does_not_fit_into_memory_does_not_draft(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull_head(str(write_head(tmp_path / "my-head", weights())), "tiny", store)
    free = iter([1 << 30, *[1 << 20] * 9])  # when the model is loaded, and when the head is to be
    monkeypatch.setattr("edgespec.opening.available_memory", lambda _device: next(free))
    heard: list[str] = []
    chat = edgespec.open_chat("tiny", draft="my-head", notice=heard.append)
    assert chat.draft == "ngram"
    assert len(heard) == 1
    assert heard[0].startswith("my-head does not draft, for want of memory: my-head needs 0.1 GB with a context of 128")


def test_from_the_hub(store: Store, loopback_hub: FakeHub, tmp_path: Path) -> None:
    folder = write_head(tmp_path / "somewhere", weights(), layout="layers.0")
    loopback_hub.repositories["Some/Head"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    bundle = pull_head("Some/Head", "tiny", store)
    source = bundle.manifest.source
    assert (bundle.name, source.kind, source.revision) == ("head", "hub", loopback_hub.commit("Some/Head"))
    assert bundle.manifest.license == "apache-2.0"
    assert store.names() == ("head", "tiny")


def test_a_head_only_drafts_and_only_for_its_model(
    store: Store, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_head(tmp_path / "my-head", weights())
    pull_head(str(folder), "tiny", store)
    with pytest.raises(ModelError, match="edgespec run tiny --draft my-head"):
        edgespec.open_chat("my-head")
    with pytest.raises(UsageError, match="a draft itself"):
        pull_head(str(folder), "my-head", store, name="other")
    with pytest.raises(ModelError, match="already"):
        pull_head(str(folder), "tiny", store)
    with pytest.raises(UsageError, match="is a model"):
        pull_head(str(gguf), "tiny", store)
    small = write_tiny_gguf(tmp_path / "small.gguf", layers=2)
    pull(str(small), store, tools=Tools("int8", force=True))
    with pytest.raises(ModelError, match="the model shows 0"):
        edgespec.open_chat("small", draft="my-head")
    assert sorted(store.names()) == ["my-head", "small", "tiny"]


def test_a_head_that_was_tampered_with_is_not_loaded(store: Store, tmp_path: Path) -> None:
    pull_head(str(write_head(tmp_path / "my-head", weights())), "tiny", store)
    path = store.root / "my-head" / "edgespec.json"
    manifest = json.loads(path.read_text())
    manifest["head"]["tokenizer_sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="their tokenizers differ"):
        edgespec.open_chat("tiny", draft="my-head")
