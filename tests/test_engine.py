"""From names to a chat that works, or to an error that says what to do."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from homes import fill_home

from edgespec.bundle import Store, catalog
from edgespec.bundle.manifest import read_manifest
from edgespec.chat.events import Answer
from edgespec.chat.session import Chat, Settings
from edgespec.engine import Resources, open_chat, paired_draft
from edgespec.errors import ChecksumError, EdgespecError, ModelError, UsageError
from edgespec.runtime.device import Device
from edgespec.runtime.model import OnnxCausalLM

SETTINGS = Settings(max_tokens=24)


@pytest.fixture(scope="module")
def full_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def home(full_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESPEC_HOME", str(full_home))
    return full_home


def ask(chat: Chat, text: str = "hello there") -> Answer:
    *_, answer = chat.send(text)
    assert isinstance(answer, Answer)
    return answer


@pytest.mark.parametrize(
    ("draft", "shown"), [(None, "ngram"), ("ngram", "ngram"), ("none", None), ("skip", "skip"), ("tiny", "tiny")]
)
def test_the_draft_is_what_was_asked_for_and_the_text_is_the_targets(draft: str | None, shown: str | None) -> None:
    chat = open_chat("tiny", draft=draft, settings=SETTINGS)
    assert (chat.model, chat.draft, chat.device) == ("tiny", shown, "cpu")
    plain = open_chat("tiny", draft="none", settings=SETTINGS)
    for text in ("hello there", "and then"):
        ours, theirs = ask(chat, text), ask(plain, text)
        assert (ours.text, ours.tokens) == (theirs.text, theirs.tokens)
        assert set(ours.stats.arms) <= {shown, "ngram", "plain"}
        assert set(theirs.stats.arms) == {"plain"}


def test_a_model_may_be_a_directory(home: Path) -> None:
    chat = open_chat(str(home / "models" / "tiny"), draft=str(home / "models" / "skip"), settings=SETTINGS)
    assert (chat.model, chat.draft) == ("tiny", "skip")


def test_the_catalog_pairs_a_model_with_its_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    known = catalog.load_catalog()
    pair = dataclasses.replace(known.pairs[known.default], name="tiny", draft="skip")
    monkeypatch.setattr("edgespec.engine.load_catalog", lambda: catalog.Catalog("tiny", {"tiny": pair}))
    assert open_chat("tiny").draft == "skip"
    assert open_chat(None).model == "tiny"
    assert open_chat("skip").draft == "ngram"


def test_an_exported_pair_is_opened_together_while_both_are_here(
    full_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(full_home, home)
    monkeypatch.setenv("EDGESPEC_HOME", str(home))
    directory = home / "models" / "tiny"
    dataclasses.replace(read_manifest(directory), draft="skip").write(directory)
    assert open_chat("tiny", settings=SETTINGS).draft == "skip"
    shutil.rmtree(home / "models" / "skip")
    assert open_chat("tiny", settings=SETTINGS).draft == "ngram"


def test_a_draft_with_another_tokenizer_is_refused() -> None:
    with pytest.raises(ModelError, match=r"other cannot draft for tiny.*--draft ngram or --draft none"):
        open_chat("tiny", draft="other")


def test_a_draft_with_a_smaller_context_helps_while_it_can() -> None:
    settings = Settings(max_tokens=80)
    chat, plain = (open_chat("tiny", draft=draft, settings=settings) for draft in ("short", "none"))
    answer, theirs = ask(chat), ask(plain)
    assert answer.tokens == theirs.tokens
    assert answer.prompt_tokens + len(answer.tokens) > 48
    assert answer.stats.proposed > 0
    assert answer.stats.plain_rounds > 20
    assert ask(chat, "and then").tokens == ask(plain, "and then").tokens


@pytest.mark.parametrize("size", [-1, 0, 15, 257, 10**9])
def test_a_context_that_cannot_be_had(size: int) -> None:
    with pytest.raises(UsageError, match=rf"a context of {size} tokens cannot be had: tiny takes between 16 and 256"):
        open_chat("tiny", resources=Resources(context_length=size))


@pytest.mark.parametrize(("size", "given"), [(None, 256), (16, 16), (64, 64), (256, 256)])
def test_the_context_is_what_was_asked_for_and_the_models_otherwise(size: int | None, given: int) -> None:
    assert open_chat("tiny", resources=Resources(context_length=size)).context_length == given


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_threads_that_cannot_be(threads: int) -> None:
    with pytest.raises(UsageError, match=f"threads cannot be {threads}"):
        open_chat("tiny", resources=Resources(threads=threads))


@pytest.mark.parametrize(
    ("model", "draft", "error", "says"),
    [
        ("tinny", None, ModelError, "did you mean tiny"),
        ("tiny", "skop", ModelError, "did you mean skip"),
        ("tiny", "", UsageError, "cannot be a model's name"),
        ("./nowhere", None, ModelError, "holds no model"),
        ("a b", None, UsageError, "cannot be a model's name"),
    ],
)
def test_names_that_lead_nowhere(model: str, draft: str | None, error: type[EdgespecError], says: str) -> None:
    with pytest.raises(error, match=says):
        open_chat(model, draft=draft)


@pytest.mark.parametrize("model", [None, "smollm2-135m"])
def test_offline_with_nothing_there(model: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPEC_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="`edgespec pull smollm2-135m` fetches it"):
        open_chat(model, offline=True)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_model_is_not_opened(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(home, tmp_path / "copy")
    monkeypatch.setenv("EDGESPEC_HOME", str(tmp_path / "copy"))
    path = tmp_path / "copy" / "models" / "skip" / "model.onnx.data"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    for model, draft in (("skip", None), ("tiny", "skip")):
        with pytest.raises(ChecksumError, match=r"model\.onnx\.data of skip"):
            open_chat(model, draft=draft)


def test_drafts_may_branch_where_they_are_asked_to() -> None:
    settings = Settings(max_tokens=40, exact=False, draft_branches=3)
    answer = ask(open_chat("tiny", settings=settings))
    stats = answer.stats
    assert len(answer.tokens) == stats.emitted == stats.accepted + stats.corrections + stats.bonus + stats.plain
    assert stats.accepted <= stats.tested <= stats.proposed


def test_branches_are_refused_where_they_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="exact mode takes no draft with branches"):
        Settings(draft_branches=2)
    with pytest.raises(UsageError, match="it must be 1 to 8"):
        Settings(draft_branches=0)
    monkeypatch.setattr(OnnxCausalLM, "takes_trees", False)
    with pytest.raises(UsageError, match="takes no draft with branches"):
        open_chat("tiny", settings=Settings(exact=False, draft_branches=2))


def test_target_and_draft_are_placed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    opened = OnnxCausalLM.open

    def listening(graph: Path, *, device: str, **more: object) -> OnnxCausalLM:
        asked.append(device)
        return opened(graph, device="cpu", **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(OnnxCausalLM, "open", listening)
    monkeypatch.setattr("edgespec.opening.planned_device", lambda *_: Device("cpu", "as a test has it"))
    for resources in (
        Resources(device="cuda", draft_device="cpu"),
        Resources(device="cuda"),
        Resources(device="cpu"),
        Resources(draft_device="cuda"),
    ):
        open_chat("tiny", draft="skip", settings=SETTINGS, resources=resources)
    assert asked == ["cuda", "cpu", "cuda", "auto", "cpu", "cpu", "auto", "cuda"]


def test_for_a_gpu_the_catalogs_draft_is_one_for_a_gpu(full_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = catalog.load_catalog()
    pair = dataclasses.replace(known.pairs[known.default], name="tiny", draft="skip")
    monkeypatch.setattr("edgespec.engine.load_catalog", lambda: catalog.Catalog("tiny", {"tiny": pair}))
    store = Store(full_home / "models")
    bundle = store.open("tiny")
    for_gpu = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, name="tiny-cuda"))
    assert paired_draft(for_gpu, store) == "skip"
    monkeypatch.setattr(Store, "names", lambda _: ["tiny", "skip", "skip-cuda"])
    assert paired_draft(for_gpu, store) == "skip-cuda"
    assert paired_draft(bundle, store) == "skip"
