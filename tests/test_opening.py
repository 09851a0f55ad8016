"""Memory is counted before anything is loaded; a device that fails is left, and the conversation goes on."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from apart import LOST, Failing, open_apart
from fake_cuda import FakeCuda
from homes import fill_home
from tiny import write_tiny_gguf

from edgespec import opening
from edgespec.bundle import Store, default_store
from edgespec.chat.events import Answer
from edgespec.chat.session import Chat, Settings
from edgespec.engine import Resources, open_chat, open_model
from edgespec.errors import OutOfMemoryError, UsageError
from edgespec.graph import convert_gguf
from edgespec.opening import MAX_DEFAULT_CONTEXT
from edgespec.pull import pull
from edgespec.runtime import room
from edgespec.runtime.device import Device, DeviceKind
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.room import Needs, available_memory, needs_of, same_memory
from edgespec.runtime.session import open_session

LONG = 4096


@pytest.fixture(scope="module")
def full_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As for other tests, and a model with a context that is long enough to be cut."""
    home = fill_home(tmp_path_factory.mktemp("home"))
    gguf = write_tiny_gguf(home / "long.gguf", context_length=LONG)
    pull(str(gguf), Store(home / "models"), name="long", keep_layers=[0, 1])
    return home


@pytest.fixture(autouse=True)
def home(full_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESPEC_HOME", str(full_home))
    return full_home


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how many bytes each kind of memory has, and how many less once a model is loaded."""

    def set_free(taken: int = 0, **memory: int) -> None:
        opened = OnnxCausalLM.open

        def taking(*args: Any, **more: Any) -> OnnxCausalLM:
            memory["cpu"] -= taken
            return opened(*args, **more)

        if taken:
            monkeypatch.setattr(OnnxCausalLM, "open", taking)
        monkeypatch.setattr(opening, "available_memory", memory.get)

    return set_free


def needs(name: str, kind: DeviceKind = "cpu") -> Needs:
    bundle = default_store().open(name)
    return needs_of(bundle.graph, bundle.manifest.size, kind)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_what_is_counted_is_what_is_there() -> None:
    counted, model = needs("long"), open_model(default_store().open("long"), Resources())
    assert counted.weights == default_store().open("long").manifest.size
    assert counted.position * LONG == model.untouched_bytes
    model.forward([1, 2, 3])
    assert counted.position * (LONG - 3) == model.untouched_bytes
    assert counted.total(100) - counted.total(99) == counted.position
    assert counted.positions_within(counted.total(100)) == 100
    assert counted.positions_within(0) == 0


def test_half_precision_takes_half(tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf")
    for profile in ("cpu", "cuda"):
        convert_gguf(gguf, tmp_path / profile, profile=profile)
    whole, half = (needs_of(tmp_path / profile / "model.onnx", 0, "cpu") for profile in ("cpu", "cuda"))
    assert whole.position == 2 * half.position


def test_a_context_that_nobody_asked_for_is_what_memory_holds(free: Callable[..., None]) -> None:
    heard: list[str] = []
    free(cpu=needs("long").total(2000))
    model = open_model(default_store().open("long"), Resources(), heard.append)
    assert model.context_length == 1984
    assert re.fullmatch(
        r"long needs 0.1 GB with a context of 4096 tokens, and 0.1 GB are free, so its context is 1984 tokens", heard[0]
    )


def test_a_context_that_was_asked_for_is_not_cut_in_silence(free: Callable[..., None]) -> None:
    free(cpu=needs("long").total(2000))
    bundle = default_store().open("long")
    with pytest.raises(OutOfMemoryError, match=r"with a context of 3000 tokens.*; use --ctx-size 1984\.$"):
        open_model(bundle, Resources(context_length=3000))
    assert open_model(bundle, Resources(context_length=1984)).context_length == 1984


def test_weights_that_do_not_fit_are_not_loaded(free: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxCausalLM, "open", lambda *_, **__: pytest.fail("it was loaded"))
    free(cpu=needs("tiny").weights)
    with pytest.raises(OutOfMemoryError, match="are free; close other programs, or take a smaller model"):
        open_chat("tiny")


def test_the_draft_goes_first(free: Callable[..., None]) -> None:
    """The target's cache is counted although no position of it is in memory yet."""
    heard: list[str] = []
    target = needs("long")
    free(cpu=target.total(LONG) + needs("skip").total(256) - 1, taken=target.total(0))
    chat = open_chat("long", draft="skip", notice=heard.append)
    assert (chat.draft, chat.context_length) == ("ngram", LONG)
    assert [re.sub(r"\d+\.\d", "N", text) for text in heard] == [
        "skip does not draft, for want of memory: skip needs N GB with a context of 256 tokens, and N GB are free"
    ]
    free(cpu=3 * target.total(LONG))
    assert open_chat("long", draft="skip").draft == "skip"


def test_where_nobody_says_what_is_free_nothing_is_refused(free: Callable[..., None]) -> None:
    free()
    assert open_model(default_store().open("long"), Resources()).context_length == min(LONG, MAX_DEFAULT_CONTEXT)


def test_a_gpu_that_is_too_small_is_left_to_others(free: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(opening, "planned_device", lambda _, choice: Device("cuda", "as a test has it"))
    free(cpu=1 << 30, cuda=100 << 20)
    model = open_model(default_store().open("tiny"), Resources(), heard.append)
    assert (model.device.kind, len(heard)) == ("cpu", 1)
    assert re.fullmatch(r"tiny needs .*GB of the GPU's memory are free, so it runs on the CPU", heard[0])
    with pytest.raises(OutOfMemoryError, match="of the GPU's memory are free; close other programs"):
        open_model(default_store().open("tiny"), Resources(device="cuda"))


def test_memory_that_processor_and_gpu_share_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(free=5 << 30).install(monkeypatch)
    assert available_memory("cuda") == 5 << 30
    assert not same_memory("cpu", "cuda")
    FakeCuda(free=5 << 30, shares_memory=True).install(monkeypatch)
    monkeypatch.setattr(room.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 3 << 30}))
    assert available_memory("cuda") == available_memory("cpu") == 3 << 30
    assert same_memory("cpu", "cuda")


# -- a device that fails in the middle of an answer --------------------------------------------------------------------


SETTINGS = Settings(max_tokens=24)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Failing]:
    """Models run on what they take for a GPU; these are their sessions, which can be told to fail."""
    made: list[Failing] = []

    def opened(graph: Path, *, context_length: int, vocab_size: int, **_: object) -> OnnxCausalLM:
        made.append(Failing(open_session(graph, "cpu"), sys.maxsize, LOST))
        return open_apart(graph, context_length, vocab_size, made[-1], lambda: open_session(graph, "cpu"))

    monkeypatch.setattr(OnnxCausalLM, "open", opened)
    return made


def ask(chat: Chat, text: str) -> Answer:
    *_, answer = chat.send(text)
    assert isinstance(answer, Answer)
    return answer


@pytest.mark.parametrize("draft", ["none", "ngram", "skip"])
def test_nothing_of_an_answer_is_lost(draft: str, sessions: list[Failing]) -> None:
    heard: list[str] = []
    chat = open_chat("tiny", draft=draft, settings=SETTINGS, notice=heard.append)
    assert chat.device == "cuda"
    whole = [ask(chat, text).text for text in ("hello there", "and then")]
    chat.clear()
    first = ask(chat, "hello there").text
    sessions[0].passes = 3
    assert [first, ask(chat, "and then").text] == whole
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 2
    assert len(heard) == 1
    assert heard[0].startswith("tiny: cuda failed (A pass over ")
    assert heard[0].endswith("so it goes on on the CPU")
    assert chat.device == "cpu"


def test_a_chat_that_is_closed_gives_its_memory_back(sessions: list[Failing]) -> None:
    """Whoever says that a model has moved does not hold it."""
    chat = open_chat("tiny", draft="none", settings=SETTINGS)
    target = ref(chat._target)
    gc.disable()
    try:
        chat.close()
        assert target() is None
    finally:
        gc.enable()


def test_exact_mode_is_promised_on_a_gpu_only_where_it_holds(
    sessions: list[Failing], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    assert open_chat("tiny", draft="none", settings=SETTINGS).exact
    monkeypatch.setattr("edgespec.engine.exact_mode_holds", lambda *_: False)
    chat = open_chat("tiny", draft="none", settings=SETTINGS, notice=heard.append)
    assert not chat.exact
    assert heard[0].endswith("so the text may depend on the draft")
    with pytest.raises(UsageError, match="exact mode does not hold for tiny here"):
        open_chat("tiny", draft="none", settings=replace(SETTINGS, exact=True))
