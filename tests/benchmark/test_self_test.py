"""The self-test: it says yes where speculation is lossless, and NO where a rule is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from homes import fill_home
from numpy.typing import NDArray
from wrong_rules import Row, without_residual

from edgespec.benchmark import Prompt, read_prompts, self_test, two_sample
from edgespec.benchmark.self_test import ALARM, SelfTest
from edgespec.bundle import Bundle
from edgespec.chat.session import Chat, Settings
from edgespec.decoding import rounds
from edgespec.decoding import verify as verify_module
from edgespec.decoding.passes import forward
from edgespec.decoding.protocols import CausalLM, Logits
from edgespec.decoding.sampling import Probabilities, Sampler, Sampling
from edgespec.engine import Resources, open_chat
from edgespec.errors import UsageError

PROMPTS = [Prompt("1", "qa", ("hello there hello", "and")), Prompt("2", "qa", ("the cat and the dog and the cat",))]
SAMPLING = Sampling(top_k=6)
"""The tiny model's weights are noise, so nearly every token would be rare."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def chat(home: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    monkeypatch.setenv("EDGESPEC_HOME", str(home))
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 1999)
    monkeypatch.setattr(self_test, "ANSWERS", 64)
    return open_chat("tiny", draft="skip", settings=Settings(sampling=SAMPLING))


def examine(chat: Chat, seed: int = 0) -> SelfTest:
    return self_test.self_test(chat, PROMPTS, seed=seed, progress=lambda done: None)


def test_a_lossless_pair(chat: Chat) -> None:
    policy, settings, done = chat.policy, chat.settings, []
    found = self_test.self_test(chat, PROMPTS, seed=0, progress=done.append)
    assert found.lossless
    assert found.limit == pytest.approx(ALARM / 5)
    greedy = {(test.way, test.k) for test in found.same_bytes}
    assert greedy == {(way, k) for way in ("ngram", "skip", "two of seven wrong") for k in (1, 2, 4, 8)} | {
        ("controller", 8)
    }
    assert [test.way for test in found.same_distribution][:2] == ["ngram", "skip"]
    assert len(found.same_distribution) == 5
    for test in (*found.same_bytes, *found.same_distribution):
        if test.way not in ("ngram", "controller"):
            assert 0 < test.accepted < test.proposed, "a draft that is never wrong, or never right, proves little"
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert (chat.policy, chat.settings) == (policy, settings)


def test_the_seed_decides(chat: Chat) -> None:
    first, again, other = examine(chat, 4), examine(chat, 4), examine(chat, 5)
    assert first.same_distribution == again.same_distribution != other.same_distribution


def too_trusting(right: Row) -> Row:
    """A chosen proposal is kept if the target finds it likely enough."""

    def row(
        logits: NDArray[np.float32],
        recent: Sequence[int],
        position: int,
        sampler: Sampler,
        proposed: int | None,
        q: Probabilities | None,
    ) -> int:
        if sampler.greedy or proposed is None or q is not None:
            return right(logits, recent, position, sampler, proposed, q)
        likely = sampler.probabilities(logits, recent)[proposed] > 0.2
        return proposed if likely else right(logits, recent, position, sampler, proposed, q)

    return row


@pytest.mark.parametrize(
    ("wrong", "seen_by"), [(without_residual, "drawn, half of p"), (too_trusting, "chosen, likeliest")]
)
def test_a_wrong_rule_is_seen(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Row], Row], seen_by: str
) -> None:
    monkeypatch.setattr(self_test, "ANSWERS", 256)
    monkeypatch.setattr(verify_module, "_row", wrong(verify_module._row))
    found = examine(chat)
    assert not found.lossless
    assert all(test.prompt is None for test in found.same_bytes), "at temperature 0 the rule is right"
    p = {test.way: test.p for test in found.same_distribution}
    assert p[seen_by] < found.limit


def test_logits_that_depend_on_the_draft_are_seen(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where exact mode does not hold: what a long pass computes is a little off."""

    def sloppy(model: CausalLM, ids: Sequence[int], rows: int, exact: bool) -> Logits:
        logits = forward(model, ids, rows, exact)
        assert isinstance(logits, np.ndarray)
        return logits + np.float32(0.5) * (np.arange(logits.shape[1]) % 2 == 1) if rows > 2 else logits

    monkeypatch.setattr(rounds, "forward", sloppy)
    found = examine(chat)
    assert not found.lossless
    failed = {(test.way, test.k): test.prompt for test in found.same_bytes if test.prompt is not None}
    assert failed[("two of seven wrong", 4)] == "1"
    assert all(k > 1 for _, k in failed)


def test_without_exact_mode_bytes_are_not_compared(chat: Chat) -> None:
    chat.use(chat.policy, Settings(sampling=SAMPLING, exact=False))
    found = examine(chat)
    assert found.same_bytes == ()
    assert found.lossless


def test_drafts_with_branches_are_tested_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPEC_HOME", str(home))
    monkeypatch.setattr(self_test, "ANSWERS", 64)
    chat = open_chat("tiny", draft="ngram", settings=Settings(sampling=SAMPLING, exact=False, draft_branches=4))
    found = examine(chat)
    assert [test.way for test in found.same_distribution][-1] == "branches"
    assert found.lossless


def test_without_a_draft_there_is_nothing_to_test(chat: Chat) -> None:
    chat.use(None, chat.settings)
    with pytest.raises(UsageError, match="leave out --draft none"):
        examine(chat)


def test_a_context_that_is_too_short_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPEC_HOME", str(home))
    chat = open_chat("short", draft="ngram", settings=Settings(system="word " * 20))
    with pytest.raises(UsageError, match="raise --ctx-size"):
        examine(chat)


@pytest.mark.slow
def test_the_default_model_with_layers_of_its_own(default_bundle: Bundle, skip_bundle: Bundle) -> None:
    """A real pair: a sampled draft that is seldom right, so that nearly every token is a correction."""
    settings, resources = Settings(), Resources(context_length=512)
    chat = open_chat(default_bundle.name, draft=skip_bundle.name, settings=settings, resources=resources, offline=True)
    found = self_test.self_test(chat, read_prompts(), seed=0, progress=lambda done: None)
    assert found.lossless, found
