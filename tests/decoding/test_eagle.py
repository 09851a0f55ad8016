"""A head reads what the target made of committed positions, and its own states only while it drafts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from fakes import TableHead, TableModel, random_table

from edgespec.decoding.drafters.eagle import EagleDrafter
from edgespec.decoding.passes import PREFILL_CHUNK
from edgespec.decoding.protocols import Fixed
from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import Sampler, Sampling

VOCAB = 12
TARGET = random_table(VOCAB, seed=1)
LIKE = TARGET + random_table(VOCAB, seed=2, scale=0.7)
"""What a head believes: often the same."""
ALL = range(VOCAB)
PROMPT = [3, 1, 4, 1, 5]
GREEDY = Sampler(Sampling())


def answer(
    head: TableHead | None, *, prompt: Sequence[int] = PROMPT, sampling: Sampling | None = None, tokens: int = 40
) -> tuple[list[int], list[tuple[int, int]]]:
    """The text, and what was tested and accepted in each round; after each, the head's rows are looked at."""
    target, history = TableModel(TARGET, context_length=512), list(prompt)
    target.forward(prompt[:-1])
    policy = None if head is None else Fixed(EagleDrafter(target, head))
    rounds: list[tuple[int, int]] = []
    sampler = Sampler(sampling or Sampling())
    for done in generate(
        target, history, policy, k=4, sampler=sampler, max_tokens=tokens, ends=lambda _: False, exact=True
    ):
        rounds.append((done.tested, done.accepted))
        if head is not None:
            known = [row for row in head.rows[: head.length] if row != (-1, -1, False)]
            first = head.length - len(known)
            assert known == [(history[i], history[i + 1], True) for i in range(first, head.length)]
    return history[len(prompt) :], rounds


def test_it_proposes_what_the_head_finds_likeliest() -> None:
    target = TableModel(TARGET)
    target.forward(PROMPT[:-1])
    drafter = EagleDrafter(target, TableHead(LIKE, ALL))
    draft = drafter.propose(PROMPT, 3, GREEDY)
    text = list(PROMPT)
    for token in draft.tokens:
        assert token == int(LIKE[text[-2], text[-1]].argmax())
        text.append(token)
    assert len(draft.tokens) == len(draft.evidence) == 3
    assert draft.probs is None


def test_every_pattern_of_acceptance_leaves_the_rows_true() -> None:
    assert answer(TableHead(LIKE, ALL))[0] == answer(None)[0]
    _, rounds = answer(TableHead(LIKE, ALL), sampling=Sampling(temperature=0.9, seed=1), tokens=400)
    assert set(rounds) >= {(1, 0), (2, 1), (3, 2), (4, 3), (4, 4)}


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.8), Sampling(repeat_penalty=1.4)])
def test_tokens_that_it_does_not_know_have_no_chance(sampling: Sampling) -> None:
    target = TableModel(TARGET)
    target.forward(PROMPT[:-1])
    few = (2, 3, 7, 11)
    drafter = EagleDrafter(target, TableHead(LIKE, few))
    for seed in range(20):
        sampler = Sampler(Sampling(temperature=sampling.temperature, repeat_penalty=sampling.repeat_penalty, seed=seed))
        draft = drafter.propose(PROMPT, 4, sampler)
        assert set(draft.tokens) <= set(few)
        if sampling.temperature:
            assert draft.probs is not None
            assert draft.probs.shape == (4, VOCAB)
            assert not np.delete(draft.probs, few, axis=1).any()


def test_a_long_text_is_read_chunk_by_chunk() -> None:
    prompt = np.random.default_rng(0).integers(0, VOCAB, 2 * PREFILL_CHUNK + 40).tolist()
    head = TableHead(LIKE, ALL, context_length=512)
    text, rounds = answer(head, prompt=prompt)
    assert text == answer(None, prompt=prompt)[0]
    assert rounds[:2] == [(0, 0), (0, 0)]
    assert rounds[2][0] > 0


def test_a_window_lets_the_beginning_of_a_text_be_skipped() -> None:
    prompt = np.random.default_rng(0).integers(0, VOCAB, 300).tolist()
    head = TableHead(LIKE, ALL, context_length=512, window=32)
    text, rounds = answer(head, prompt=prompt)
    assert text == answer(None, prompt=prompt)[0]
    assert rounds[0][0] > 0
    assert head.skipped == [(0, len(prompt) - 1 - 32)]


def test_the_lag_is_what_it_reads_besides_the_last_row() -> None:
    target = TableModel(TARGET, context_length=512)
    target.forward(PROMPT[:-1])
    head = TableHead(LIKE, ALL)
    drafter = EagleDrafter(target, head)
    assert drafter.lag(len(PROMPT)) == len(PROMPT) - 2
    drafter.propose(PROMPT, 2, GREEDY)
    assert drafter.lag(len(PROMPT)) == 0
    assert drafter.lag(len(PROMPT) + 3) == 2
    drafter.rewind(3)
    assert head.length == 2
    assert drafter.lag(len(PROMPT)) == len(PROMPT) - 2 - 2


def test_asked_twice_it_says_the_same() -> None:
    target = TableModel(TARGET)
    target.forward(PROMPT[:-1])
    drafter = EagleDrafter(target, TableHead(LIKE, ALL))
    assert drafter.propose(PROMPT, 3, GREEDY) == drafter.propose(PROMPT, 3, GREEDY)


def test_a_context_that_is_full_silences_it() -> None:
    text, rounds = answer(TableHead(LIKE, ALL, context_length=12))
    assert text == answer(None)[0]
    assert rounds[-1] == (0, 0)


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_head_that_fails_is_not_the_end_of_an_answer(fails_at: int) -> None:
    text, _ = answer(TableHead(LIKE, ALL, fails_at={fails_at}))
    assert text == answer(None)[0]


def test_unusable_scores_are_not_proposed() -> None:
    text, rounds = answer(TableHead(np.full_like(TARGET, np.nan), ALL), tokens=5)
    assert text == answer(None, tokens=5)[0]
    assert rounds == [(0, 0)] * 5


def test_nothing_is_known_of_an_empty_text() -> None:
    target = TableModel(TARGET)
    assert EagleDrafter(target, TableHead(LIKE, ALL)).propose([3], 3, GREEDY).tokens == ()
