"""A table is made of what its target wrote: by counts that are plainly right, and it drafts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import States
from tiny import write_tiny_gguf

import edgespec
from edgespec.bundle import Store
from edgespec.chat.events import Answer
from edgespec.chat.session import Settings
from edgespec.decoding.drafters.ngram_table import NgramTableDrafter, context_keys, read_table
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.errors import ModelError
from edgespec.making import Tools
from edgespec.pull import pull
from edgespec.runtime.recurrent import OnnxRecurrentHead

torch: Any = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from export import draft_data  # noqa: E402
from export.conversations import ANSWER, USER  # noqa: E402
from export.guide import Recipe, TrainedGuide, train_guide  # noqa: E402
from export.ngram_table import Text, count, read_text  # noqa: E402
from export.table import Built, make_table  # noqa: E402
from export.torch_llama import TorchLlama  # noqa: E402

TOKENS = 4 * 32 * 120
RECIPE = Recipe(embedding_size=32, state_size=64, ffn_size=64, rank=32, words=256, batch=32, epochs=8, rate=3e-3)


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
    return make_table(
        target, store, tokens, name=name, device="cpu", threads=1, recipe=RECIPE, progress=lambda *_: None
    )


def waves(built: Built) -> list[Path]:
    return sorted((built.work / "waves").iterdir())


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
    for file in ("table.npy", "model.onnx", "model.onnx.data"):
        assert again.bundle.manifest.files[file] == built.bundle.manifest.files[file]


def test_who_says_nothing_that_could_be_foreseen_gets_none(home: Store) -> None:
    with pytest.raises(ModelError, match="no table was made"):
        make("doubtful", home)
    assert "doubtful-table" not in home.names()


def test_what_it_says_is_right_as_often_as_it_claims(built: Built) -> None:
    """The share on text that was held out, counted anew with the drafter itself."""
    drafter = NgramTableDrafter(read_table(built.bundle.graph), 304)
    text = read_text(waves(built)[-1])
    hits: list[bool] = []
    for row, place in zip(*np.nonzero(text.answers), strict=True):
        start = place - text.depth[row, place]
        draft = drafter.propose(text.tokens[row, start : place + 1].tolist(), 1, Sampler(Sampling()))
        hits.append(draft.tokens == (text.likely[row, place, 0],))
    assert np.mean(hits) == pytest.approx(built.hit_rate, abs=1e-9)
    assert built.hit_rate > 0.05


def test_its_head_is_as_good_as_it_claims(built: Built) -> None:
    """How often it names the target's own choice on text that was held out, counted anew in its session."""
    guide = built.guide
    assert built.bundle.guide is not None
    wave = {name: tensor.numpy() for name, tensor in load_file(waves(built)[-1]).items() if name != "taps"}
    taps = load_file(waves(built)[-1])["taps"].float().numpy()
    head = OnnxRecurrentHead.open(built.bundle.guide, vocab_size=304)
    hits: list[list[bool]] = [[], [], []]
    for row, place in zip(*np.nonzero(wave["roles"] == ANSWER), strict=True):
        start = wave["starts"][row, place]
        for i in range(3 if start + 2 <= place < wave["tokens"].shape[1] - 3 else 0):
            if wave["roles"][row, place + i] != ANSWER or wave["starts"][row, place + i] != start:
                break
            states = taps[row, place - 2 : place - 1].view(States) if i == 0 else None
            named = head.token_ids[head.forward(int(wave["tokens"][row, place + i - 1]), states).argmax()]
            hits[i].append(bool(named == wave["top_ids"][row, place + i - 1, 0]))
            if not hits[i][-1] or wave["tokens"][row, place + i] != named:
                break
    assert guide.acceptance == pytest.approx([np.mean(found) for found in hits], abs=0.02)  # int8, not bfloat16
    assert guide.acceptance[0] > 0.3
    assert guide.after < guide.before


def test_its_training_goes_on_where_it_was_interrupted(home: Store, built: Built, tmp_path: Path) -> None:
    """Begun anew behind a wave that was trained on, it ends with the same weights."""
    model, slots = TorchLlama(home.root.parent / "tiny.gguf"), read_table(built.bundle.graph)

    def train(kept: Path, progress: Callable[[float], None]) -> TrainedGuide:
        return train_guide(model, waves(built), slots, {1}, RECIPE, kept, progress)

    def interrupt(done: float) -> None:
        if done > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "interrupted.pt", interrupt)
    heard: list[float] = []
    resumed, whole = train(tmp_path / "interrupted.pt", heard.append), train(tmp_path / "whole.pt", lambda _: None)
    assert heard[0] > 0.3
    for name, tensor in whole.weights.tensors.items():
        np.testing.assert_array_equal(resumed.weights.tensors[name], tensor)


def test_from_too_little_text_none_is_made(home: Store) -> None:
    with pytest.raises(ModelError, match=r"1,000 tokens are too few .* --tokens"):
        make("tiny", home, "small", 1000)
    assert "small" not in home.names()


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
