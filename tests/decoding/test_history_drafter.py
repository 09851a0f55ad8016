"""Lookup in earlier answers against hand-written texts and a search that is plainly right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from answers import TARGET, go_on, greedy_text, start
from hypothesis import given
from hypothesis import strategies as st

from edgespec.decoding.drafters import history as module
from edgespec.decoding.drafters.history import BREAK, CONTEXTS, Corpus, HistoryDrafter
from edgespec.decoding.protocols import Draft
from edgespec.decoding.sampling import Sampler, Sampling

GREEDY = Sampler(Sampling())
CAPACITY = 4096


def drafter(*texts: Sequence[int], capacity: int = CAPACITY) -> HistoryDrafter:
    corpus = Corpus(capacity)
    for text in texts:
        corpus.append(text)
    return HistoryDrafter(corpus)


def draft(history: Sequence[int], *texts: Sequence[int], k: int = 4) -> Draft:
    return drafter(*texts).propose(history, k, GREEDY)


@pytest.mark.parametrize(
    ("history", "texts", "tokens"),
    [
        ([1, 2], [[1, 2, 3, 4, 5, 6, 7]], (3, 4, 5, 6)),  # what followed then, as much as asked for
        ([9, 1, 2], [[1, 2, 3]], (3,)),  # a text that ends
        ([1, 2], [[1, 2, 3, 4], [1, 2, 5, 6]], (5, 6)),  # one against one: the latest
        ([1, 2], [[1, 2, 3, 4], [1, 2, 3, 7], [1, 2, 5, 6]], (3, 7)),  # two against one; then the latest of the two
        ([4, 5, 1, 2], [[4, 5, 1, 2, 8], [1, 2, 3], [1, 2, 3]], (8,)),  # but a longer match wins over votes
        ([2], [[1, 2, 3]], ()),  # a single token says too little
        ([1, 2], [[5, 1], [2, 3]], ()),  # no match reaches over the end of a text
        ([1, 2], [[1, 2], [3]], ()),
        ([7, 8], [[1, 2, 3]], ()),
        ([], [[1, 2, 3]], ()),
        ([1, 2], [], ()),
        ([0, 0], [[0, 0, 0, 0]], (0, 0)),  # token 0 is a token like any other
    ],
)
def test_proposals_on_hand_written_texts(history: list[int], texts: list[list[int]], tokens: tuple[int, ...]) -> None:
    assert draft(history, *texts).tokens == tokens


def test_the_evidence_is_how_far_the_places_agree() -> None:
    def evidence(history: Sequence[int], *texts: Sequence[int]) -> int:
        return draft(history, *texts).evidence[0]

    same = [1, 2, 3]
    assert evidence([1, 2], same) == 1
    assert evidence([1, 2], same, same) == evidence([1, 2], same, same, same) == 2
    assert evidence([1, 2], same, same, same, same) == 3
    assert evidence([1, 2], same, same, same, [1, 2, 4]) == 1
    assert evidence([1, 2], [1, 2, 4], [1, 2, 5], same) == 0
    long = [*range(10, 18), 3]
    assert evidence(long[:8], long) == 5
    assert evidence(long[:8], long, long) == 6


def test_those_that_said_otherwise_have_no_say_in_what_follows() -> None:
    found = draft([1, 2], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 9, 9])
    assert (found.tokens, found.evidence) == ((3, 4), (1, 2))


def test_a_draft_grows_as_sure_as_a_longer_match() -> None:
    found = draft([10, 11, 12, 13], [*range(10, 20)], k=6)
    assert found.tokens == (14, 15, 16, 17, 18, 19)
    assert found.evidence == (1, 1, 1, 1, 5, 5)


def test_evidence_has_a_usual_chance() -> None:
    assert len(HistoryDrafter.usual) == 8
    assert list(HistoryDrafter.usual[:4]) == sorted(HistoryDrafter.usual[:4])


Text = st.lists(st.integers(0, 2), min_size=1, max_size=40)


@given(texts=st.lists(Text, max_size=6), history=Text)
def test_places_are_those_that_a_plain_search_finds(texts: list[list[int]], history: list[int]) -> None:
    corpus = Corpus(CAPACITY)
    for text in texts:
        corpus.append(text)
    ids = corpus.ids.tolist()
    match, places = corpus.places(history)
    for n in CONTEXTS:
        right = [i for i in range(len(ids) - 1, n - 1, -1) if len(history) >= n and ids[i - n : i] == history[-n:]]
        if right:
            assert (match, places) == (n, right[:8])
            return
    assert (match, places) == (0, [])


def test_contexts_that_share_a_slot_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLOT_SHIFT", 63)
    for token in range(20, 23):
        assert draft([token, token], [1, 2, 3], *[[t, t, t] for t in range(20, 23)]).tokens == (token,)
    assert draft([1, 3], [1, 2, 3]).tokens == ()


@given(texts=st.lists(Text, min_size=1, max_size=6))
def test_texts_added_together_are_as_texts_added_one_by_one(texts: list[list[int]]) -> None:
    together, apart = Corpus(CAPACITY), Corpus(CAPACITY)
    for text in texts:
        apart.append(text)
    joined = [token for text in texts for token in [*text, BREAK]][:-1]
    together.append(joined)
    assert together.ids.tolist() == apart.ids.tolist()
    for history in texts:
        assert together.places(history) == apart.places(history)


def test_the_older_half_goes_when_it_is_full() -> None:
    old, texts = [1, 2, 3], [[n, n + 1, n + 2] for n in range(10, 100, 3)]
    full = drafter(old, *texts, capacity=64)
    assert len(full.corpus.ids) <= 64
    assert full.propose([1, 2], 4, GREEDY).tokens == ()
    assert full.propose([94, 95], 4, GREEDY).tokens == (96,)
    assert full.corpus.ids[-4:].tolist() == [97, 98, 99, BREAK]


def test_a_text_longer_than_all_there_is_room_for_leaves_its_end() -> None:
    full = drafter([1, 2, 3], range(10, 200), capacity=64)
    assert full.corpus.ids.tolist() == [*range(137, 200), BREAK]
    assert full.propose([150, 151], 2, GREEDY).tokens == (152, 153)


def test_an_answer_given_before_comes_in_few_rounds_and_is_the_same() -> None:
    right = greedy_text(60)
    before = go_on(start(None), max_tokens=60)
    run = go_on(start(drafter(before.history)), k=8, max_tokens=60)
    assert run.text == right
    assert run.stats.rounds <= 60 // 8 + 2


def test_a_corpus_of_nonsense_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    noise = drafter(rng.integers(0, len(TARGET), 500).tolist())
    assert go_on(start(noise), k=8, max_tokens=60).text == greedy_text(60)
