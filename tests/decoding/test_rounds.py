"""Greedy text is the target's, whatever is proposed and wherever it ends; sampled text depends on the seed alone."""

from __future__ import annotations

import pytest
from answers import CONTEXT, DRAFTERS, OTHER, PROMPT, TARGET, MakeDrafter, go_on, greedy_text, start
from fakes import ChosenDrafter, TableModel, contrarian, erratic, likeliest, oracle
from hypothesis import given
from hypothesis import strategies as st

from edgespec.decoding.drafters.draft_model import DraftModelDrafter
from edgespec.decoding.sampling import Sampling
from edgespec.decoding.stats import Stats

each_drafter = pytest.mark.parametrize("make", DRAFTERS.values(), ids=DRAFTERS.keys())
each_mode = pytest.mark.parametrize("exact", [True, False], ids=["exact", "free"])


@each_mode
@each_drafter
def test_greedy_text_is_the_same_for_every_k(make: MakeDrafter, exact: bool) -> None:
    for k in range(9):
        run = go_on(start(make(), exact=exact), k=k, exact=exact)
        assert run.text == greedy_text(24)
        assert run.reason == "length"


@each_drafter
def test_exact_mode_hides_what_a_lone_row_would_change(make: MakeDrafter) -> None:
    for k in range(9):
        assert go_on(start(make(), noise=3.0), k=k).text == greedy_text(24)


def test_without_exact_mode_a_lone_row_shows() -> None:
    assert go_on(start(None, noise=3.0, exact=False), exact=False).text != greedy_text(24)


@each_drafter
def test_penalties_see_the_history_of_each_row(make: MakeDrafter) -> None:
    sampling = Sampling(repeat_penalty=1.8)
    plain = go_on(start(None), sampling=sampling).text
    assert plain != greedy_text(24)
    for k in range(1, 9):
        assert go_on(start(make()), k=k, sampling=sampling).text == plain


@each_mode
@each_drafter
def test_a_stop_at_every_position(make: MakeDrafter, exact: bool) -> None:
    for position in range(1, 14):
        heard: list[int] = []

        def ends(token: int, heard: list[int] = heard, position: int = position) -> bool:
            heard.append(token)
            return len(heard) == position

        run = go_on(start(make(), exact=exact), k=5, exact=exact, ends=ends)
        assert run.text == heard == greedy_text(position)
        assert run.reason == "stop"


@each_drafter
def test_end_of_text_cuts_tail_and_bonus(make: MakeDrafter) -> None:
    whole = greedy_text(24)
    for end in set(whole):
        for k in range(9):
            run = go_on(start(make()), k=k, ends=lambda token, end=end: token == end)
            assert run.text == whole[: whole.index(end) + 1]


def test_an_end_that_was_proposed_is_accepted_without_bonus() -> None:
    whole = greedy_text(8)
    run = go_on(start(oracle(TARGET)), k=8, ends=lambda token: token == whole[2])
    (only,) = run.rounds
    ended_at = whole.index(whole[2]) + 1
    assert (only.accepted, only.tested, only.extra) == (ended_at, ended_at, None)
    assert len(only.proposed) == 8


@each_mode
@each_drafter
def test_max_tokens_is_kept_at_every_value(make: MakeDrafter, exact: bool) -> None:
    for count in range(14):
        run = go_on(start(make(), exact=exact), k=5, max_tokens=count, exact=exact)
        assert run.text == greedy_text(count)
        assert run.reason == ("length" if count else None)


def test_an_end_at_the_last_token_allowed_is_a_stop() -> None:
    whole = greedy_text(6)
    first = whole.index(whole[-1]) + 1
    assert go_on(start(None), max_tokens=first, ends=lambda token: token == whole[-1]).reason == "stop"


@each_mode
@each_drafter
def test_the_context_fills_up_at_every_position(make: MakeDrafter, exact: bool) -> None:
    for room in range(12):
        run = go_on(start(make(), context=len(PROMPT) + room, exact=exact), k=5, exact=exact)
        assert run.text == greedy_text(room)
        assert run.reason == ("length" if room else None)


@each_mode
@each_drafter
def test_a_history_of_one_token(make: MakeDrafter, exact: bool) -> None:
    run = go_on(start(make(), prompt=[2], exact=exact), exact=exact)
    assert run.text == greedy_text(24, prompt=[2])


CHOOSERS: dict[str, MakeDrafter] = {
    **{name: DRAFTERS[name] for name in ("none", "silent", "oracle", "contrarian", "erratic", "ngram")},
    "argmax of a draft model": lambda: ChosenDrafter(lambda text: likeliest(OTHER, text)),
}


@pytest.mark.parametrize("make", CHOOSERS.values(), ids=CHOOSERS.keys())
def test_sampled_text_depends_on_the_seed_alone_when_drafts_are_chosen(make: MakeDrafter) -> None:
    for seed in range(5):
        sampling = Sampling(temperature=0.9, top_p=0.95, seed=seed)
        plain = go_on(start(None), sampling=sampling).text
        for k in range(1, 9):
            assert go_on(start(make()), k=k, sampling=sampling).text == plain


def test_seeds_differ_and_no_seed_is_a_new_one() -> None:
    texts = {tuple(go_on(start(None), sampling=Sampling(temperature=1.5, seed=s)).text) for s in range(20)}
    assert len(texts) == 20
    unseeded = {tuple(go_on(start(None), sampling=Sampling(temperature=1.5)).text) for _ in range(5)}
    assert len(unseeded) == 5


def test_every_kind_of_round_is_counted_as_what_it_was() -> None:
    right = go_on(start(oracle(TARGET)), k=3, max_tokens=8).stats
    assert (right.rounds, right.proposed, right.tested, right.accepted, right.bonus) == (2, 6, 6, 6, 2)
    assert right.acceptance == 1.0
    assert right.tokens_per_round == 4.0

    wrong = go_on(start(contrarian(TARGET)), k=3, max_tokens=4).stats
    # The draft shrinks to what is left: 3, 2, 1, and a plain round.
    assert (wrong.proposed, wrong.tested, wrong.accepted, wrong.corrections, wrong.plain) == (6, 3, 0, 3, 1)
    assert dict(wrong.arms) == {"contrarian": 3, "plain": 1}
    assert Stats().acceptance is Stats().tokens_per_round is None


def test_each_proposal_is_one_round() -> None:
    drafter = erratic(TARGET, seed=8)
    run = go_on(start(drafter), k=4)
    assert [p for p, _ in drafter.proposals if p] == [r.proposed for r in run.rounds if r.proposed]


@given(
    seed=st.integers(0, 50),
    k=st.integers(0, 8),
    count=st.integers(0, 30),
    end=st.integers(0, 6),
    temperature=st.sampled_from([0.0, 0.8]),
    name=st.sampled_from(sorted(DRAFTERS)),
)
def test_counters_add_up(seed: int, k: int, count: int, end: int, temperature: float, name: str) -> None:
    drafter = erratic(TARGET, seed) if name == "erratic" else DRAFTERS[name]()
    run = go_on(
        start(drafter),
        k=k,
        max_tokens=count,
        sampling=Sampling(temperature=temperature, seed=seed),
        ends=lambda token: token == end,
    )
    for r in run.rounds:
        assert 0 <= r.accepted <= r.tested <= len(r.proposed) <= k
        assert r.tokens[: r.accepted] == r.proposed[: r.accepted]
        assert len(r.tokens) == r.accepted + (r.extra is not None)
        assert r.overhead_ms >= 0
    s = run.stats
    assert s.emitted == len(run.text) == s.accepted + s.corrections + s.bonus + s.plain
    assert s.plain == s.plain_rounds == s.arms["plain"]
    assert s.rounds == len(run.rounds) == sum(s.arms.values())
    assert sum(p.tested for p in s.per_position) == s.tested
    assert sum(p.accepted for p in s.per_position) == s.accepted
    assert all(a.accepted >= b.tested for a, b in zip(s.per_position, s.per_position[1:], strict=False))


def test_context_and_draft_context_shrink_the_draft() -> None:
    small = DraftModelDrafter(TableModel(TARGET, context_length=len(PROMPT) + 2))
    run = go_on(start(small, context=CONTEXT), k=4)
    assert [len(r.proposed) for r in run.rounds[:3]] == [3, 0, 0]
    assert run.text == greedy_text(24)
