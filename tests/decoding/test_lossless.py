"""The theorem: whatever is proposed, the emitted tokens have the target's own joint distribution. By enumeration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, product

import numpy as np
import pytest
from branching import BranchingSampler, World, branching_draw, branching_race, distribution
from fakes import COSTS, ChosenDrafter, TableGuide, TableHead, TableModel, likeliest, policy, random_table
from wrong_rules import Row, without_residual

from edgespec.decoding import rounds
from edgespec.decoding import verify as verify_module
from edgespec.decoding.controller import Controller
from edgespec.decoding.drafters import draft_model
from edgespec.decoding.drafters.draft_model import DraftModelDrafter
from edgespec.decoding.drafters.eagle import EagleDrafter
from edgespec.decoding.drafters.guided import Belief, GuidedDrafter
from edgespec.decoding.drafters.history import Corpus, HistoryDrafter
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.drafters.ngram_table import NgramTableDrafter, context_keys, fill
from edgespec.decoding.protocols import Draft, Drafter, Logits, Worth, always
from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import Probabilities, Sampler, Sampling
from edgespec.decoding.verify import Verdict

VOCAB = 4
TOKENS = 3
PROMPT = [2, 1, 2, 1]
TARGET = random_table(VOCAB, seed=1)
OTHER = random_table(VOCAB, seed=2)
END = 3

Joint = dict[tuple[int, ...], float]
MakeDrafter = Callable[[TableModel], Drafter | Controller | None]

SETTINGS = [
    Sampling(temperature=t, top_k=k, top_p=p, min_p=m, repeat_penalty=r)
    for t, k, p, m, r in product((1.0, 0.6), (0, 2), (1.0, 0.8), (0.0, 0.3), (1.0, 1.7))
]


def hostile() -> ChosenDrafter:
    """Proposes what the target finds least likely, often a token that the transforms have ruled out."""
    return ChosenDrafter(lambda text: int(TARGET[text[-2], text[-1]].argmin()))


def history() -> HistoryDrafter:
    """Proposes what another text says, which is right by chance."""
    corpus = Corpus(256)
    corpus.append(np.random.default_rng(4).integers(0, VOCAB, 200).tolist())
    return HistoryDrafter(corpus)


def table() -> NgramTableDrafter:
    """Says something behind every token."""
    keys = context_keys(np.arange(VOCAB), 1)
    return NgramTableDrafter(fill(keys, np.array([1, 3, 0, 2]), np.array([1, 9, 5, 11]), 3), VOCAB)


def guided(target: TableModel) -> Controller:
    """Lookup and a table, weighed against a head that knows half of the tokens and thinks otherwise of each."""
    guide = TableGuide(OTHER, (0, 3), Belief(0.9, 0.4, 0.5, 0.9, 1.3, -0.3))
    drafter = GuidedDrafter([NgramDrafter(), table()], guide, target, "ngram")
    return Controller([drafter], COSTS, exact=True, name="c")


EARLIER = history()

DRAFTERS: dict[str, MakeDrafter] = {
    "none": lambda _: None,
    "ngram": lambda _: NgramDrafter(),
    "history": lambda _: EARLIER,
    "table": lambda _: table(),
    "guided lookup": guided,
    "sampled": lambda _: DraftModelDrafter(TableModel(OTHER)),
    "chosen": lambda _: ChosenDrafter(lambda text: likeliest(OTHER, text)),
    "hostile": lambda _: hostile(),
    "controller": lambda _: Controller(
        [NgramDrafter(), DraftModelDrafter(TableModel(OTHER))], COSTS, exact=True, name="controller"
    ),
    "a head": lambda target: EagleDrafter(target, TableHead(OTHER, (0, 2, 3))),
    "a head behind a controller": lambda target: Controller(
        [NgramDrafter(), EagleDrafter(target, TableHead(OTHER, (0, 2, 3), window=2))], COSTS, exact=True, name="c"
    ),
    "the target itself": lambda _: DraftModelDrafter(TableModel(TARGET)),
    "a context that fills up": lambda _: DraftModelDrafter(TableModel(OTHER, context_length=len(PROMPT))),
}


@pytest.fixture(autouse=True)
def every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "race", branching_race)
    monkeypatch.setattr(draft_model, "draw", branching_draw)


def emitted(settings: Sampling, make: MakeDrafter, *, exact: bool = True, end: int | None = None) -> Joint:
    """The joint distribution of what `generate` emits behind PROMPT."""

    def run(world: World) -> tuple[int, ...]:
        target, history = TableModel(TARGET), list(PROMPT)
        target.forward(PROMPT[:-1])
        sampler = BranchingSampler(settings, world)
        answer = generate(
            target,
            history,
            policy(make(target)),
            k=TOKENS - 1,
            sampler=sampler,
            max_tokens=TOKENS,
            ends=lambda token: token == end,
            exact=exact,
            clock=count().__next__,
        )
        for _ in answer:
            pass
        return tuple(history[len(PROMPT) :])

    return distribution(run)


def expected(settings: Sampling, end: int | None = None) -> Joint:
    """The chain rule: one token after the other from the target."""
    sampler = Sampler(settings)
    joint: Joint = {}

    def extend(text: Sequence[int], probability: float) -> None:
        new = tuple(text[len(PROMPT) :])
        if len(new) == TOKENS or (new and new[-1] == end):
            joint[new] = probability
            return
        for token, p in enumerate(sampler.probabilities(TARGET[text[-2], text[-1]], text)):
            if p > 0:
                extend([*text, token], probability * float(p))

    extend(PROMPT, 1.0)
    return joint


def distance(a: Joint, b: Joint) -> float:
    """The largest difference of any outcome's probability."""
    return max(abs(a.get(x, 0.0) - b.get(x, 0.0)) for x in a.keys() | b.keys())


@pytest.mark.parametrize("make", DRAFTERS.values(), ids=DRAFTERS.keys())
def test_joint_distribution_is_the_targets_for_every_combination_of_transforms(make: MakeDrafter) -> None:
    for settings in SETTINGS:
        joint = emitted(settings, make)
        assert sum(joint.values()) == pytest.approx(1.0, abs=1e-9)
        assert distance(joint, expected(settings)) < 1e-9, settings


@pytest.mark.parametrize("make", DRAFTERS.values(), ids=DRAFTERS.keys())
def test_joint_distribution_is_the_targets_where_the_text_can_end(make: MakeDrafter) -> None:
    for settings in (Sampling(temperature=1.0), Sampling(temperature=0.7, top_p=0.9, repeat_penalty=1.3)):
        for exact in (True, False):
            assert distance(emitted(settings, make, exact=exact, end=END), expected(settings, END)) < 1e-9


def test_the_joint_distribution_of_one_token_is_that_of_the_first_row() -> None:
    """The reference itself, against arithmetic that is in no way ours."""
    settings = Sampling(temperature=0.5)
    first: dict[int, float] = dict.fromkeys(range(VOCAB), 0.0)
    for tokens, p in expected(settings).items():
        first[tokens[0]] += p
    scores = TARGET[PROMPT[-2], PROMPT[-1]].astype(np.float64) / 0.5
    softmax = np.exp(scores) / np.exp(scores).sum()
    assert list(first.values()) == pytest.approx(softmax.tolist(), abs=1e-6)


# What follows shows that these tests see a wrong rule.


def always_accepting(right: Row) -> Row:
    return lambda logits, recent, position, sampler, proposed, q: (
        right(logits, recent, position, sampler, None, None) if proposed is None else proposed
    )


def forgetting_the_draft(right: Row) -> Row:
    """Penalties that do not see the proposals before a row."""
    return lambda logits, recent, position, sampler, proposed, q: right(
        logits, recent[: len(PROMPT)], position, sampler, proposed, q
    )


def one_random_number(right: Row) -> Row:
    """The number that rejected a proposal draws its replacement too."""

    class Sampler2(Sampler):
        def __init__(self, inner: Sampler) -> None:
            super().__init__(inner.settings)
            self.inner = inner

        def uniforms(self, position: int) -> tuple[float, float, float]:
            draft, accept, _ = self.inner.uniforms(position)
            return draft, accept, accept

    return lambda logits, recent, position, sampler, proposed, q: right(
        logits, recent, position, Sampler2(sampler), proposed, q
    )


@pytest.mark.parametrize("wrong", [without_residual, always_accepting, forgetting_the_draft, one_random_number])
def test_a_wrong_rule_is_seen(wrong: Callable[[Row], Row], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Sampling(temperature=0.8, repeat_penalty=1.7)
    monkeypatch.setattr(verify_module, "_row", wrong(verify_module._row))
    assert distance(emitted(settings, DRAFTERS["sampled"]), expected(settings)) > 1e-3


def test_a_bonus_after_a_rejection_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = verify_module.verify

    def eager(
        draft: Draft, logits: Logits, history: Sequence[int], sampler: Sampler, ends: Callable[[int], bool]
    ) -> Verdict:
        verdict = right(draft, logits, history, sampler, ends)
        row = len(verdict.tokens)
        if verdict.extra != "correction" or row > len(draft.tokens):
            return verdict
        text = [*history, *verdict.tokens]
        more = verify_module._row(logits[row], text, len(text), sampler, None, None)
        return replace(verdict, tokens=(*verdict.tokens, more))

    monkeypatch.setattr(rounds, "verify", eager)
    settings = Sampling(temperature=0.8)
    assert distance(emitted(settings, DRAFTERS["sampled"]), expected(settings)) > 1e-3


def test_a_draft_that_lies_about_its_distribution_is_seen() -> None:
    """Softmax for proposals that were the argmax: what the protocol's `probs=None` is there to prevent."""

    class Liar(DraftModelDrafter):
        def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
            tokens: list[int] = []
            rows: list[Probabilities] = []
            for _ in range(k):
                text = [*history, *tokens]
                rows.append(sampler.probabilities(OTHER[text[-2], text[-1]], text))
                tokens.append(int(rows[-1].argmax()))
            return Draft(tuple(tokens), np.stack(rows))

    settings = Sampling(temperature=0.8)
    assert distance(emitted(settings, lambda _: Liar(TableModel(OTHER))), expected(settings)) > 1e-3
