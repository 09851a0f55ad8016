"""A table is made of what its target wrote: by counts that are plainly right, and it drafts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fakes import States
from tiny import write_tiny_gguf

import edgespec
from edgespec.bundle import Store
from edgespec.chat.events import Answer
from edgespec.chat.session import Settings
from edgespec.decoding.drafters.judged import Judge, read_judge
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.drafters.ngram_table import NgramTableDrafter, context_keys, read_table
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.errors import ModelError
from edgespec.making import Tools
from edgespec.pull import pull

torch: Any = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from export import draft_data  # noqa: E402
from export.conversations import ANSWER, USER  # noqa: E402
from export.ngram_table import Text, build_table, count, read_text  # noqa: E402
from export.table import Built, make_table  # noqa: E402

TOKENS = 4 * 32 * 120


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Generator[Store]:
    """A store with a tiny target that goes by its last token, another one that goes by all; and small waves."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESPEC_HOME", str(folder))
        patch.setattr(draft_data, "_SHORT", (32, 120))
        patch.setattr(draft_data, "_LONG", (32, 120))
        store = Store(folder / "models")
        blind = {f"blk.{n}.attn_output.weight": np.zeros((64, 64)) for n in range(8)}
        for name, tensors in {"tiny": blind, "doubtful": {"output_norm.weight": np.full(64, 0.1)}}.items():
            source = write_tiny_gguf(folder / f"{name}.gguf", layers=8, tensors=tensors)
            pull(str(source), store, tools=Tools("int8", force=True))
        yield store


@pytest.fixture(scope="module")
def built(home: Store) -> Built:
    return make("tiny", home)


def make(target: str, store: Store, name: str | None = None, tokens: int = TOKENS) -> Built:
    return make_table(target, store, tokens, name=name, device="cpu", threads=1, progress=lambda *_: None)


def test_a_table_is_made_and_drafts(home: Store, built: Built) -> None:
    assert built.bundle.name == "tiny-table"
    manifest = home.verify("tiny-table").manifest
    assert manifest.table is not None
    assert manifest.table.target == "tiny"
    assert manifest.tokenizer_sha256 == home.open("tiny").tokenizer_sha256
    assert manifest.pull_command == "python -m export table tiny"
    assert built.tokens == TOKENS
    assert 0 < built.entries <= 3 << 17
    assert f"{built.entries:,} contexts" in (built.bundle.directory / "README.md").read_text()
    settings = Settings(max_tokens=60)
    answers: list[Answer] = []
    for draft in ("none", "tiny-table"):
        *_, last = edgespec.open_chat("tiny", draft=draft, settings=settings).send("and what is in the other one")
        assert isinstance(last, Answer)
        answers.append(last)
    plain, drafted = answers
    assert drafted.tokens == plain.tokens  # exact mode
    assert drafted.stats.accepted > 0
    with pytest.raises(ModelError, match="edgespec run tiny --draft tiny-table"):
        edgespec.open_chat("tiny-table")
    again = make("tiny", home, "again")
    for file in ("table.npy", "judge.npz"):
        assert again.bundle.manifest.files[file] == built.bundle.manifest.files[file]


def test_who_says_nothing_that_could_be_foreseen_gets_none(home: Store) -> None:
    with pytest.raises(ModelError, match="no table was made"):
        make("doubtful", home)
    assert "doubtful-table" not in home.names()


def test_what_it_says_is_right_as_often_as_it_claims(built: Built) -> None:
    """The share on text that was held out, counted anew with the drafter itself."""
    drafter = NgramTableDrafter(read_table(built.bundle.graph), 304)
    text = read_text(sorted((built.work / "waves").iterdir())[-1])
    hits: list[bool] = []
    for row, place in zip(*np.nonzero(text.answers), strict=True):
        start = place - text.depth[row, place]
        draft = drafter.propose(text.tokens[row, start : place + 1].tolist(), 1, Sampler(Sampling()))
        hits.append(draft.tokens == (text.likely[row, place, 0],))
    assert np.mean(hits) == pytest.approx(built.hit_rate, abs=1e-9)
    assert built.hit_rate > 0.05


@dataclass
class Said:
    """A target that said so much with these hidden states."""

    states: np.ndarray[Any, np.dtype[np.float32]]

    @property
    def hidden_size(self) -> int:
        return self.states.shape[1]

    @property
    def length(self) -> int:
        return len(self.states)

    def hidden_states(self, start: int, end: int) -> States:
        return self.states[start:end].view(States)


def test_its_judge_is_as_good_as_it_claims(built: Built) -> None:
    """What proposals cost on text that was held out, counted anew with drafters and judge as they will be."""
    waves = sorted((built.work / "waves").iterdir())
    unseen = NgramTableDrafter(build_table(waves[:2], 19)[0], 304)
    text = read_text(waves[-1])
    taps = load_file(waves[-1])["taps"].float().numpy()
    assert built.bundle.judge is not None
    weights, sampler = read_judge(built.bundle.judge), Sampler(Sampling())
    before: list[float] = []
    after: list[float] = []
    for row, place in zip(*np.nonzero(text.answers), strict=True):
        start = place - text.depth[row, place]
        history = text.tokens[row, start : place + 1].tolist()
        for drafter in (NgramDrafter(), unseen) if len(history) > 1 else ():
            draft = drafter.propose(history, 1, sampler)
            if draft.tokens:
                usual = drafter.usual[draft.evidence[0]]
                chance = Judge(weights, Said(taps[row, start:place])).chance(history, draft.tokens[0], usual)
                assert chance is not None
                right = draft.tokens[0] == text.likely[row, place, 0]
                before.append(-np.log(usual if right else 1.0 - usual))
                after.append(-np.log(chance if right else 1.0 - chance))
    assert built.judge is not None
    assert (built.judge.before, built.judge.after) == pytest.approx((np.mean(before), np.mean(after)), rel=1e-3)
    assert built.judge.after < built.judge.before


def test_from_little_text_it_is_made_without_one(home: Store) -> None:
    small = make("tiny", home, "small", TOKENS // 2)
    assert small.judge is small.bundle.judge is None
    assert "judge" not in (small.bundle.directory / "README.md").read_text().lower()


def test_contexts_are_counted_where_answers_go_on_and_within_a_conversation() -> None:
    random = np.random.default_rng(1)
    tokens, starts = random.integers(0, 4, (2, 30)), np.zeros((2, 30), np.int64)
    starts[1, 17:] = 17  # another conversation
    roles = np.where(np.arange(30) % 10 < 6, ANSWER, USER) * np.ones((2, 1), np.int64)
    answers = np.zeros((2, 30), np.bool_)
    answers[:, :-1] = (roles[:, 1:] == ANSWER) & (starts[:, 1:] == starts[:, :-1])
    likely = np.argsort(random.random((2, 30, 4)), axis=-1)
    shares = random.dirichlet([0.5] * 4, (2, 30)).astype(np.float32)
    text = Text(tokens, answers, np.arange(30) - starts, likely, shares)
    expected: dict[tuple[int, ...], list[np.ndarray[Any, Any]]] = defaultdict(list)
    for row in range(2):
        for place in range(30):
            if answers[row, place] and place - 1 >= starts[row, place]:
                mass = np.zeros(4)
                mass[likely[row, place]] = shares[row, place]
                expected[tuple(tokens[row, place - 1 : place + 1].tolist())].append(mass)
    shorter = count([text], 1, None, 0)
    found = count([text], 2, shorter, 1)
    assert len(found.keys) == len(expected)
    for context, masses in expected.items():
        (at,), (there,) = found.find(context_keys(np.array(context), 2))
        mean = np.mean(masses, axis=0)
        assert there
        assert found.counts[at] == len(masses)
        assert found.tokens[at] == mean.argmax()
        assert found.shares[at] == pytest.approx(mean.max(), rel=1e-5)
        assert found.shorter is not None
        assert shorter.keys[found.shorter[at]] == context_keys(np.array(context[1:]), 1)[0]
