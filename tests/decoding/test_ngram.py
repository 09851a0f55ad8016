"""The n-gram drafter against hand-written histories and a search that is plainly right."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from answers import go_on, greedy_text, start
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgespec.decoding.drafters.ngram import MAX_MATCH, NgramDrafter
from edgespec.decoding.sampling import Sampler, Sampling

GREEDY = Sampler(Sampling())


def proposed(history: Sequence[int], k: int = 4) -> tuple[int, ...]:
    """What is proposed whatever its chance."""
    return NgramDrafter().propose(history, k, GREEDY).tokens


@pytest.mark.parametrize(
    ("history", "draft"),
    [
        ([1, 2, 3, 4, 5, 6, 1, 2], (3, 4, 5, 6)),  # what followed the last time
        ([1, 2, 3, 9, 1, 2, 4, 9, 8, 1, 2], (4, 9, 8, 1)),  # the most recent place wins
        ([7, 1, 2, 3, 9, 8, 1, 2, 4, 9, 7, 1, 2], (3, 9, 8, 1)),  # but a longer match wins over it
        ([1, 2, 1, 2], (1, 2, 1, 2)),  # the match runs into the end: so does the repetition
        ([5, 5, 5], (5, 5, 5, 5)),
        ([1, 2, 3, 1, 2, 3, 1], (2, 3, 1, 2)),
        ([1, 2, 3, 4], ()),  # nothing stood before
        ([4, 2, 3, 4], (2, 3, 4, 2)),
        ([1], ()),
        ([1, 1], (1, 1, 1, 1)),
        ([1, 1, 1], (1, 1, 1, 1)),
        ([*range(100), 50, 51], (52, 53, 54, 55)),
        ([0, 0, 9, 0, 0], (9, 0, 0, 9)),  # token 0 is a token like any other
    ],
)
def test_proposals_on_hand_written_histories(history: list[int], draft: tuple[int, ...]) -> None:
    assert proposed(history) == draft


def test_a_draft_is_as_long_as_asked_for() -> None:
    for k in range(9):
        assert proposed([1, 2, 3, 1, 2], k) == (3, 1, 2, 3, 1, 2, 3, 1)[:k]


def test_proposals_are_chosen_not_sampled() -> None:
    assert NgramDrafter().propose([1, 2, 3, 1, 2, 3], 4, GREEDY).probs is None


def evidence(history: Sequence[int], k: int = 3) -> list[tuple[int, str]]:
    """For each proposal, how many tokens agree before it, and what other places say."""
    found = NgramDrafter().propose(history, k, GREEDY).evidence
    return [(e // 3 + 1, ("disagree", "alone", "agree")[e % 3]) for e in found]


def test_the_evidence_is_how_far_back_the_match_agrees() -> None:
    for n in range(1, MAX_MATCH + 2):
        history = [*range(9, 9 + n), 0, 1, 2, *range(9, 9 + n)]
        assert evidence(history) == [(min(n + i, MAX_MATCH), "alone") for i in range(3)]


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ([1, 2, 7, 5, 6, 1, 2, 7, 5, 8, 1, 2], ["agree", "agree", "disagree"]),  # until they part
        ([1, 2, 7, 5, 6, 1, 2, 7, 9, 6, 1, 2], ["agree", "disagree", "alone"]),  # and then they are not asked any more
        ([1, 2, 4, 1, 2, 3, 1, 2], ["disagree", "alone", "alone"]),
        ([3, 2, 7, 0, 4, 1, 2, 7, 0, 5, 1, 2], ["agree", "agree", "disagree"]),  # one with a shorter match
        ([3, 2, 8, 0, 4, 1, 2, 7, 0, 5, 1, 2], ["disagree", "alone", "alone"]),
    ],
)
def test_the_evidence_is_whether_other_places_go_on_alike(history: list[int], said: list[str]) -> None:
    assert [what for _, what in evidence(history)] == said


def test_a_rewound_history_that_goes_on_otherwise_is_forgotten() -> None:
    drafter = NgramDrafter()
    assert drafter.propose([1, 2, 3, 4, 1, 2], 2, GREEDY).tokens == (3, 4)
    drafter.rewind(2)
    assert drafter.propose([1, 2, 5, 6, 1, 2], 2, GREEDY).tokens == (5, 6)


def test_repetitive_text_needs_fewer_rounds_and_is_the_same() -> None:
    run = go_on(start(NgramDrafter()), k=8, max_tokens=100)
    assert run.text == greedy_text(100)
    assert run.stats.rounds < 40  # a table of two tokens ends in a cycle


class Token(int):
    """Counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Token.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_a_text_that_repeats_itself_costs_no_more_the_longer_it_gets() -> None:
    drafter, history = NgramDrafter(), [Token(7)] * 4000
    drafter.propose(history, 3, GREEDY)
    Token.compared = 0
    assert drafter.propose(history, 3, GREEDY).tokens == (7, 7, 7)
    assert Token.compared < 100


def plain_search(history: Sequence[int], k: int) -> tuple[int, ...]:
    """Try the longest suffix first, and the most recent place first."""
    n = len(history)
    for size in range(min(MAX_MATCH, n - 1), 0, -1):
        for end in range(n - 1, size - 1, -1):
            if history[end - size : end] == history[n - size :]:
                text = list(history)
                for i in range(k):
                    text.append(text[end + i])
                return tuple(text[n:])
    return ()


class AgainstPlainSearch(RuleBasedStateMachine):
    """Text grows, is rewound, and grows otherwise, as in a conversation."""

    def __init__(self) -> None:
        super().__init__()
        self.history = [1]
        self.drafter = NgramDrafter()

    @rule(tokens=st.lists(st.integers(0, 2), max_size=6))
    def grow(self, tokens: list[int]) -> None:
        self.history += tokens

    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        length = data.draw(st.integers(1, len(self.history)))
        del self.history[length:]
        self.drafter.rewind(length)

    @rule(k=st.integers(1, 8))
    def propose(self, k: int) -> None:
        tokens = self.drafter.propose(self.history, k, GREEDY).tokens
        assert tokens == plain_search(self.history, k)

    @invariant()
    def the_last_word_is_right(self) -> None:
        assert self.drafter.propose(self.history, 3, GREEDY).tokens == plain_search(self.history, 3)


TestAgainstPlainSearch = AgainstPlainSearch.TestCase
