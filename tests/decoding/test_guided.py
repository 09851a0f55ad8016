"""Lookup guided by a head: at each place the likelier of what both say, by arithmetic that is done again here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from fakes import ChosenDrafter, Table, TableGuide, TableModel, random_table

from edgespec.decoding.drafters.guided import USUAL, Belief, GuidedDrafter
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.protocols import Draft, Drafter, Fixed
from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import LANES, Sampler, Sampling

VOCAB, KNOWN = 12, (0, 2, 3, 5, 7, 8, 9, 11)
CHANCES = len(USUAL) // 6
GREEDY = Sampler(Sampling())
TABLE = random_table(VOCAB, seed=3, scale=0.6)
SURE = random_table(VOCAB, seed=3, scale=4.0)
BELIEF = Belief(0.9, 0.4, 0.5, 0.9, 1.3, -0.3)
TEXT = [4, 7, 9, 4, 7]


class Says(ChosenDrafter):
    """Says `token` everywhere, right so often."""

    def __init__(self, token: int, usual: float) -> None:
        super().__init__(lambda _: token)
        self.usual = (usual,)


def target(text: Sequence[int]) -> TableModel:
    model = TableModel(random_table(VOCAB, seed=5))
    if len(text) > 1:
        model.forward(text[:-1])
    return model


def guided(lookups: Sequence[Drafter], guide: TableGuide | None = None, text: Sequence[int] = TEXT) -> Draft:
    guide = guide or TableGuide(TABLE, KNOWN, BELIEF)
    return GuidedDrafter(lookups, guide, target(text), "guided").propose(text, 3, GREEDY)


def shares(text: Sequence[int], table: Table = TABLE) -> dict[int, float]:
    """What the head thinks of each token that it knows."""
    exponents = {token: math.exp(table[text[-2], text[-1], token]) for token in KNOWN}
    return {token: value / sum(exponents.values()) for token, value in exponents.items()}


def believed(token: int, usual: float, text: Sequence[int]) -> float:
    """By the definition."""
    evidence, found = math.log(usual / (1 - usual)), shares(text)
    odds = BELIEF.unknown_evidence * evidence + BELIEF.unknown_bias
    if token in found:
        odds = BELIEF.evidence * evidence + BELIEF.head * math.log(found[token] / (1 - found[token])) + BELIEF.bias
        odds += BELIEF.likeliest * (found[token] == max(found.values()))
    return 1 / (1 + math.exp(-odds))


def class_of(chance: float, named: bool) -> int:
    return CHANCES * named + int(chance * CHANCES)


def test_alone_the_head_names_its_likeliest_token_again_and_again() -> None:
    guide = TableGuide(SURE, KNOWN, BELIEF)
    draft = guided([], guide)
    text, evidence = list(TEXT), list[int]()
    for _ in range(3):
        found = shares(text, SURE)
        text.append(max(found, key=found.__getitem__))
        evidence.append(class_of(max(found.values()), named=True))
    assert draft == Draft(tuple(text[5:]), evidence=tuple(evidence))
    assert guide.calls == [(4, 7, True), (7, text[5], False), (text[5], text[6], False)]


@pytest.mark.parametrize("usual", [0.1, 0.4, 0.55])
def test_what_is_looked_up_is_proposed_if_the_head_finds_it_likelier(usual: float) -> None:
    named = max(shares(TEXT), key=shares(TEXT).__getitem__)
    won: list[bool] = []
    for token in range(VOCAB):
        draft = guided([Says(token, usual)])
        looked_up = token, class_of(believed(token, usual, TEXT), named=False)
        other = named, class_of(shares(TEXT)[named], named=True)
        better = token == named or USUAL[looked_up[1]] >= USUAL[other[1]]
        assert (draft.tokens[0], draft.evidence[0]) == (looked_up if better else other)
        won.append(draft.tokens[0] == token)
    assert won[named]
    assert usual != 0.1 or not all(won)
    assert usual != 0.4 or sum(won) > 1


def test_lookups_that_were_not_followed_are_asked_anew() -> None:
    agrees, differs = Says(5, 0.6), Says(1, 0.2)
    draft = guided([agrees, differs])
    assert draft.tokens == (5, 5)  # so much likelier does the head find that
    assert agrees.proposals == [((5, 5, 5), 3)]
    assert differs.proposals == [((1, 1, 1), 3), ((1, 1), 2)]


def test_what_is_sure_needs_no_head_and_so_does_what_follows() -> None:
    guide = TableGuide(TABLE, KNOWN, BELIEF)
    draft = guided([Says(1, 0.9)], guide)
    assert guide.calls == []
    assert draft == Draft((1, 1, 1), evidence=(class_of(0.9, named=False),) * 3)


def test_a_lookup_forgets_the_draft() -> None:
    lookup = NgramDrafter()
    model, guide = target(TEXT), TableGuide(TABLE, KNOWN, BELIEF)
    drafter = GuidedDrafter([lookup], guide, model, "guided")
    first = drafter.propose(TEXT, 3, GREEDY)
    assert drafter.propose(TEXT, 3, GREEDY) == first
    assert lookup.propose(TEXT, 3, GREEDY) == NgramDrafter().propose(TEXT, 3, GREEDY)
    assert (drafter.name, drafter.upfront, drafter.lag(9)) == ("guided", True, 0)


def test_where_the_head_knows_nothing_lookups_go_by_themselves() -> None:
    alone = Draft((1, 1, 1), evidence=(class_of(0.6, named=False),) * 3)
    lookup = [Says(1, 0.6), Says(2, 0.2)]
    spoilt = TableGuide(np.full_like(TABLE, np.nan), KNOWN, BELIEF)
    assert guided(lookup, spoilt) == guided(lookup, TableGuide(TABLE, KNOWN, BELIEF, fails_at=(0,))) == alone
    assert guided(lookup, text=[7]) == alone
    model = target(TEXT)
    model.rewind(2)
    guide = TableGuide(TABLE, KNOWN, BELIEF)
    assert GuidedDrafter(lookup, guide, model, "guided").propose(TEXT, 3, GREEDY) == alone
    assert guide.calls == []
    assert GuidedDrafter([], guide, model, "guided").propose(TEXT, 3, GREEDY) == Draft()


def test_the_head_is_not_asked_where_the_draft_is_doubtful_already() -> None:
    calls = 0
    for k in range(1, 9):
        guide = TableGuide(SURE, KNOWN, BELIEF)
        text, survival, calls = list(TEXT), 1.0, 0
        while calls < k and survival > 0.38:
            named = max(shares(text, SURE), key=shares(text, SURE).__getitem__)
            survival *= USUAL[class_of(shares(text, SURE)[named], named=True)]
            text.append(named)
            calls += 1
        draft = GuidedDrafter([], guide, target(TEXT), "guided").propose(TEXT, k, GREEDY)
        assert draft.tokens == tuple(text[len(TEXT) :])
        assert len(guide.calls) == calls
    assert 1 < calls < 8


def test_nobody_is_asked_where_it_is_hopeless() -> None:
    lookup = Says(1, 0.6)
    found = GuidedDrafter([lookup], TableGuide(TABLE, KNOWN, BELIEF, fails_at=(0,)), target(TEXT), "guided")
    chance, draft = USUAL[class_of(0.6, named=False)], found.propose(TEXT, 9, GREEDY)
    assert chance ** (len(draft.tokens) - 1) > 0.3 >= chance ** len(draft.tokens)


# -- with the numbers that will draw ---------------------------------------------------------------------------------

DRAWN, FORESEEN = 2 * CHANCES, 4 * CHANCES


def test_who_may_not_know_what_will_be_drawn_with_proposes_the_same_for_every_seed() -> None:
    drafts = {
        GuidedDrafter([Says(1, 0.4)], TableGuide(TABLE, KNOWN, BELIEF), target(TEXT), "guided").propose(
            TEXT, 3, Sampler(Sampling(temperature=t, seed=seed))
        )
        for seed, t in enumerate((0.3, 0.7, 1.0, 1.0))
    }
    (draft,) = drafts
    greedy = guided([Says(1, 0.4)])
    assert draft.tokens == greedy.tokens[: len(draft.tokens)]
    assert draft.evidence[0] == greedy.evidence[0] + DRAWN
    assert USUAL[draft.evidence[0]] < USUAL[greedy.evidence[0]]


def race_times(sampler: Sampler, text: Sequence[int]) -> dict[int, float]:
    return {token: float(sampler.exponentials(len(text))[token % LANES]) for token in range(VOCAB)}


@pytest.mark.parametrize("temperature", [0.4, 1.0])
def test_who_knows_what_will_be_drawn_with_runs_the_race(temperature: float) -> None:
    """By the definition: what is looked up is as likely as it is believed, the rest is as the head says."""
    seen: set[tuple[bool, bool]] = set()
    for n in range(60):
        text, token = [*TEXT, *range(n % VOCAB), 9, n % 7], n % 5
        sampler = Sampler(Sampling(temperature=temperature, seed=n))
        times, guide = race_times(sampler, text), TableGuide(TABLE, KNOWN, BELIEF)
        drafter = GuidedDrafter([Says(token, 0.4)], guide, target(text), "guided", foresees=True)
        draft = drafter.propose(text, 1, sampler)
        if not guide.calls:  # it was sure of what was looked up
            assert draft.tokens == (token,)
            continue
        heads = {t: p ** (1 / temperature) for t, p in shares(text).items() if t != token and p >= 0.01}
        chance = believed(token, 0.4, text)
        odds = (chance / (1 - chance)) ** (1 / temperature)
        p = {t: weight / sum(heads.values()) / (1 + odds) for t, weight in heads.items()} | {token: odds / (1 + odds)}
        first, second = sorted(p, key=lambda t: p[t] / times[t])[-1:-3:-1]
        assert draft.tokens == (first,)
        lead = min(math.log(p[first] / times[first] * times[second] / p[second]), 5)
        won = math.exp(-times[first] * (1 - p[first]) / p[first])
        odds = 0.2 * lead + 0.2 * math.log(p[first] / (1 - p[first])) + 0.2 * math.log(won / (1 - won))
        odds -= 0.4 if first == token else 1.1
        assert draft.evidence == (FORESEEN + class_of(1 / (1 + math.exp(-odds)), named=first != token),)
        seen.add((first == token, p[first] == max(p.values())))
    assert seen >= {(True, True), (False, False)}


def test_alone_what_is_looked_up_is_as_likely_as_its_time_is_short() -> None:
    usual, found = 0.4, list[tuple[float, int]]()
    for n in range(40):
        text, sampler = [*TEXT, *range(n)], Sampler(Sampling(temperature=0.7, seed=5))
        drafter = GuidedDrafter(
            [Says(1, usual)], TableGuide(TABLE, KNOWN, BELIEF, fails_at=(0,)), target(TEXT), "guided", foresees=True
        )
        time = race_times(sampler, text)[1]
        won = math.exp(-time * (1 - usual) / usual)
        odds = 0.5 * math.log(won / (1 - won)) + 0.45 * math.log(usual / (1 - usual)) + 0.3 * math.log(time) - 0.2
        (evidence,) = drafter.propose(text, 1, sampler).evidence
        assert evidence == FORESEEN + class_of(1 / (1 + math.exp(-odds)), named=False)
        found.append((time, evidence))
    classes = [evidence for _, evidence in sorted(found)]
    assert classes == sorted(classes, reverse=True)
    assert len(set(classes)) > 4


def test_where_the_head_is_right_all_that_is_drawn_was_proposed() -> None:
    everything = tuple(range(VOCAB))
    proposed = accepted = 0
    for seed, temperature in enumerate((0.5, 0.8, 1.0, 1.0, 1.0, 1.0)):
        table = random_table(VOCAB, seed=5, scale=1.0)
        model, history = TableModel(table), list(TEXT)
        model.forward(TEXT[:-1])
        drafter = GuidedDrafter([], TableGuide(table, everything, BELIEF), model, "guided", foresees=True)
        sampler = Sampler(Sampling(temperature=temperature, seed=seed))
        for done in generate(
            model, history, Fixed(drafter), k=3, sampler=sampler, max_tokens=60, ends=lambda _: False, exact=False
        ):
            proposed += len(done.proposed)
            accepted += done.accepted
    assert proposed > 150
    assert accepted > 0.98 * proposed  # of tokens under a hundredth the head is not asked


def test_sampled_text_depends_on_the_seed_alone() -> None:
    for seed in range(8):
        texts: set[tuple[int, ...]] = set()
        for k in (0, 1, 4):
            model, history = target(TEXT), list(TEXT)
            drafter = GuidedDrafter([NgramDrafter()], TableGuide(TABLE, KNOWN, BELIEF), model, "guided", foresees=True)
            sampler = Sampler(Sampling(temperature=0.9, seed=seed))
            answer = generate(
                model, history, Fixed(drafter), k=k, sampler=sampler, max_tokens=24, ends=lambda _: False, exact=False
            )
            assert sum(len(done.proposed) for done in answer) > 0 or not k
            texts.add(tuple(history))
        assert len(texts) == 1
