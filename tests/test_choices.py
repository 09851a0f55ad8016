"""What the picker says of each model, asked of bundles that were converted for real."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from homes import fill_home

from edgespec import choices, opening
from edgespec.bundle import Store
from edgespec.choices import Choice, draft_choices, fits_beside, model_choices, predict_here
from edgespec.decoding.controller import Controller
from edgespec.decoding.drafters.draft_model import DraftModelDrafter
from edgespec.engine import open_chat
from edgespec.errors import GenerationError, OutOfMemoryError
from edgespec.opening import Resources, open_model
from edgespec.pairing import Prediction
from edgespec.runtime.room import needs_of
from edgespec.shapes import Shape


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("EDGESPEC_HOME", str(home))
    return Store(home / "models")


def test_what_is_here_comes_first_and_the_catalog_behind_it(store: Store) -> None:
    found = {choice.name: choice for choice in model_choices(store)}
    assert list(found)[:4] == ["other", "short", "skip", "tiny"]
    assert found["tiny"].here
    assert found["tiny"].size == store.open("tiny").manifest.size
    assert found["tiny"].memory > found["tiny"].size
    assert not found["smollm2-135m"].here
    assert found["smollm2-135m"].draft == "smollm2-135m-table"


def test_memory_is_what_opening_counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = store.open("tiny")
    counted = needs_of(bundle.graph, bundle.manifest.size, "cpu").total(bundle.context_length)

    def tiny(free: int | None) -> Choice:
        for module in (choices, opening):
            monkeypatch.setattr(module, "available_memory", lambda _device: free)
        return next(choice for choice in model_choices(store) if choice.name == "tiny")

    assert tiny(counted).memory == counted
    assert tiny(counted).obstacle is None
    assert tiny(None).obstacle is None  # nobody says what is free
    assert str(tiny(counted - 1).obstacle).startswith("it needs 0.1 GB of memory and 0.1 GB are free")
    with pytest.raises(OutOfMemoryError):
        open_model(bundle, Resources())


def test_a_draft_that_does_not_fit_says_why(store: Store) -> None:
    found = {choice.name: choice for choice in draft_choices("tiny", store)}
    assert list(found)[:2] == ["ngram", "none"]
    assert "tiny" not in found
    assert found["skip"].obstacle is None
    assert found["other"].obstacle == "its tokenizer is not that of tiny"
    assert found["short"].about.startswith("drafts only for the first 48 tokens")
    reverse = {choice.name: choice for choice in draft_choices("skip", store)}
    assert reverse["tiny"].obstacle == "it is no smaller than skip, so it cannot make it faster"


def test_a_speedup_is_predicted_from_what_was_measured_and_else_not(store: Store) -> None:
    before = {choice.name: choice.speedup for choice in draft_choices("tiny", store)}
    assert before["skip"] is None
    open_chat("tiny", draft="skip").close()
    after = {choice.name: choice.speedup for choice in draft_choices("tiny", store)}
    assert after["skip"] is not None
    assert after["none"] == 1.0


def test_what_is_damaged_is_shown_with_the_reason(store: Store, tmp_path: Path) -> None:
    broken = store.root / "broken"
    broken.mkdir()
    (broken / "edgespec.json").write_text("{}")
    try:
        found = {choice.name: choice for choice in model_choices(store)}
        assert found["broken"].obstacle
    finally:
        (broken / "edgespec.json").unlink()
        broken.rmdir()


def test_two_models_at_a_time_only_if_both_fit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fits_beside({"model": "tiny", "draft": "skip"})
    monkeypatch.setattr(choices, "memory_of", lambda _bundle: 10**15)
    assert not fits_beside({"model": "tiny"})
    assert fits_beside({"model": "what is not here"})


def test_a_closed_chat_gives_its_models_back(store: Store) -> None:
    chat = open_chat("tiny", draft="skip")
    list(chat.send("hello"))
    assert isinstance(chat.policy, Controller)
    drafter = chat.policy.drafters[-1]
    assert isinstance(drafter, DraftModelDrafter)
    models = [weakref.ref(chat._target), weakref.ref(drafter.model)]
    del drafter
    chat.close()
    gc.collect()
    assert [model() for model in models] == [None, None]
    assert chat.context_length == 256
    chat.clear()
    with pytest.raises(GenerationError, match="was closed"):
        list(chat.send("hello"))


def test_what_is_not_here_can_be_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def predict(target: Shape, draft: Shape | None, available: int, **_: object) -> Prediction:
        asked.append((target.name, draft and draft.name))
        return Prediction(memory=2 * available, available=available)

    monkeypatch.setattr("edgespec.pairing.predict", predict)
    for name, draft in (("qwen3-4b", "qwen3-0.6b"), ("smollm2-135m", "smollm2-135m-table")):
        assert predict_here(Choice(name, draft=draft)).startswith("it does not fit")
    assert asked == [("qwen3-4b", "qwen3-0.6b"), ("smollm2-135m", None)]
