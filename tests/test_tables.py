"""A table of what a model says: it drafts for that model, alone or in front of another draft."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from homes import fill_home
from recurrent import random_head
from tiny import write_tiny_gguf

from edgespec.bundle import Bundle, Manifest, Source, Store, TableRecord
from edgespec.bundle.bundle import record_files
from edgespec.chat.events import Answer
from edgespec.chat.session import Chat, Settings
from edgespec.choices import draft_choices, model_choices
from edgespec.decoding.controller import Controller
from edgespec.decoding.drafters.guided import GuidedDrafter
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.drafters.ngram_table import context_keys, fill
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.engine import open_chat
from edgespec.errors import ChecksumError, ModelError
from edgespec.graph.recurrent import RecurrentWeights, write_recurrent
from edgespec.making import Tools
from edgespec.pull import pull

VOCAB = 304


@pytest.fixture(scope="module")
def full_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = fill_home(tmp_path_factory.mktemp("home"))
    tapped = write_tiny_gguf(home / "tapped.gguf", layers=8)
    pull(str(tapped), Store(home / "models"), name="tapped", tools=Tools("int8", force=True))
    return home


@pytest.fixture
def store(full_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    home = tmp_path / "home"
    shutil.copytree(full_home, home)
    monkeypatch.setenv("EDGESPEC_HOME", str(home))
    return Store(home / "models")


def keep_table(store: Store, target: Bundle, name: str, head: RecurrentWeights | None = None) -> Bundle:
    """A table that says, behind each token, what the target says behind it alone."""
    chat = open_chat(str(target.directory), draft="none", settings=Settings(max_tokens=200))
    *_, answer = chat.send("hello there")
    assert isinstance(answer, Answer)
    said = dict(zip(answer.tokens, answer.tokens[1:], strict=False))
    keys = context_keys(np.array(list(said))[:, None], 1)[:, 0]
    slots = fill(keys, np.array(list(said.values())), np.full(len(said), 11), 10)
    with store.staging() as staging:
        np.save(staging.files / "table.npy", slots)
        if head is not None:
            write_recurrent(head, staging.files)
        files = sorted(path.name for path in staging.files.iterdir())
        return staging.commit(
            Manifest(
                name=name,
                source=Source("training", target.name, None, hashlib.sha256(slots.tobytes()).hexdigest()),
                license=None,
                architecture="n-gram table",
                files=record_files(staging.files, files),
                graph="table.npy",
                context_length=256,
                vocab_size=VOCAB,
                eos_ids=(),
                layers=(),
                recipe="by hand",
                quality=None,
                table=TableRecord(target.name, target.tokenizer_sha256),
            )
        )


def ask(chat: Chat) -> Answer:
    *_, last = chat.send("hello there")
    assert isinstance(last, Answer)
    return last


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, seed=3)])
def test_it_drafts_and_the_text_is_the_targets(store: Store, sampling: Sampling) -> None:
    keep_table(store, store.open("tiny"), "tiny-table")
    settings = Settings(sampling, max_tokens=60)
    chat = open_chat("tiny", draft="tiny-table", settings=settings)
    answer = ask(chat)
    assert chat.draft == "tiny-table"
    assert answer.stats.arms["tiny-table"] > 0
    assert answer.stats.accepted > 0 or sampling.temperature
    if not sampling.temperature:
        assert answer.tokens == ask(open_chat("tiny", draft="none", settings=settings)).tokens


def test_its_head_guides_lookup_if_it_is_of_such_a_model_and_the_text_is_the_targets(store: Store) -> None:
    target = store.open("tapped")
    plain = ask(open_chat("tapped", draft="none", settings=Settings(max_tokens=60))).tokens
    for name, head in {"its": random_head(64 * 3, VOCAB), "a stranger's": random_head(64 * 2, VOCAB)}.items():
        keep_table(store, target, "table", head)
        chat = open_chat("tapped", draft="table", settings=Settings(max_tokens=60))
        assert ask(chat).tokens == plain
        store.remove("table")
        assert isinstance(chat.policy, Controller)
        drafters = chat.policy.drafters
        if name == "its":
            (drafter,) = drafters
            assert isinstance(drafter, GuidedDrafter)
            assert (drafter.name, drafter.foresees) == ("table", True)
            drafter.rewind(0)
            (evidence,) = drafter.propose([*plain[:12], 300], 1, Sampler(Sampling())).evidence
            assert evidence >= len(drafter.usual) // 6  # the head names it: nobody has seen that token
        else:
            assert isinstance(drafters[0], NgramDrafter)
            assert len(drafters) == 2


def test_in_front_of_a_draft_that_draws_it_does_not_look_at_what_will_draw(store: Store) -> None:
    keep_table(store, store.open("tapped"), "table", random_head(64 * 3, VOCAB))
    chat = open_chat("tapped", draft="skip", settings=Settings(max_tokens=1))
    assert isinstance(chat.policy, Controller)
    guided, model = chat.policy.drafters
    assert isinstance(guided, GuidedDrafter)
    assert not guided.foresees
    assert model.name == "skip"


def test_it_stands_in_front_of_other_drafts_and_not_of_plain_lookup(store: Store) -> None:
    keep_table(store, store.open("tiny"), "tiny-table")
    keep_table(store, store.open("other"), "other-table")
    names: dict[str, list[str]] = {}
    for draft in ("skip", "ngram"):
        policy = open_chat("tiny", draft=draft).policy
        assert isinstance(policy, Controller)
        names[draft] = [drafter.name for drafter in policy.drafters]
    assert names == {"skip": ["ngram", "tiny-table", "skip"], "ngram": ["ngram"]}


def test_it_is_for_models_with_its_tokens_and_only_drafts(store: Store) -> None:
    keep_table(store, store.open("tiny"), "tiny-table")
    with pytest.raises(ModelError, match="tiny-table cannot draft for other: their tokenizers differ"):
        open_chat("other", draft="tiny-table")
    assert open_chat("short", draft="tiny-table").draft == "tiny-table"
    with pytest.raises(ModelError, match="edgespec run tiny --draft tiny-table"):
        open_chat("tiny-table")
    assert "tiny-table" not in [choice.name for choice in model_choices(store)]
    about = {name: {c.name: c for c in draft_choices(name, store)}["tiny-table"] for name in ("tiny", "other")}
    assert about["tiny"].obstacle is None
    assert about["tiny"].about == "by hand, licence unknown; made to draft for tiny"
    assert about["other"].obstacle == "its tokenizer is not that of other"


def test_a_damaged_one_is_refused_with_the_way_out(store: Store) -> None:
    table = keep_table(store, store.open("tiny"), "tiny-table")
    content = bytearray(table.graph.read_bytes())
    content[200] ^= 1
    table.graph.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"table\.npy of tiny-table.*python -m export table tiny"):
        open_chat("tiny", draft="tiny-table")
