"""Draft trees: lossless by enumeration, the cache whole behind every way through them, and the branches of a draft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest
from answers import CONTEXT, PROMPT, TARGET, greedy_text
from branching import BranchingSampler, World, branching_race, distribution
from fakes import ChosenDrafter, TableModel, random_table

from edgespec.decoding import verify as verify_module
from edgespec.decoding.drafters.draft_model import DraftModelDrafter
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.passes import prefill
from edgespec.decoding.protocols import Draft, Fixed
from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.decoding.stats import Round, Stats
from edgespec.decoding.tree import Branching, tree_bias, tree_positions

VOCAB, END = 4, 3
TABLE = random_table(VOCAB, seed=1)
GREEDY = Sampler(Sampling())

Joint = dict[tuple[int, ...], float]

TREES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "two branches": ((1, 2), (-1, -1)),
    "every token": ((0, 1, 2, 3), (-1, -1, -1, -1)),
    "a chain and a branch": ((1, 2, 3), (-1, 0, -1)),
    "branches on branches": ((1, 2, 0, 3, 1, 2), (-1, -1, 0, 0, 1, 1)),
    "a branch off a chain, late": ((2, 1, 3, 0), (-1, 0, 0, -1)),
    "a chain": ((1, 2), (-1, 0)),
}


class Trees:
    """Proposes the same tree whenever there is room for it."""

    name = "trees"

    def __init__(self, tokens: tuple[int, ...], parents: tuple[int, ...]) -> None:
        self._draft = Draft(tokens, parents=parents)

    def propose(self, history: Sequence[int], k: int, sampler: Sampler) -> Draft:
        return self._draft if len(self._draft.tokens) <= k else Draft()

    def observe(self, done: Round) -> None:
        """Nothing to learn."""

    def rewind(self, length: int) -> None:
        """Nothing is kept."""


def emitted(settings: Sampling, tree: tuple[tuple[int, ...], tuple[int, ...]], end: int | None) -> Joint:
    """The joint distribution of the first three tokens. A tree may be larger than what is left of an answer, so the
    answer is longer and its tail is cut off."""

    def run(world: World) -> tuple[int, ...]:
        target, history = TableModel(TABLE), [2, 1, 2, 1]
        target.forward(history[:-1])
        answer = generate(
            target,
            history,
            Trees(*tree),
            k=8,
            sampler=BranchingSampler(settings, world),
            max_tokens=16,
            ends=lambda token: token == end,
            exact=False,
        )
        for _ in answer:
            if len(history) >= 7:
                break
        answer.close()
        assert target.cached == history[:-1]
        return tuple(history[4:7])

    return distribution(run)


def expected(settings: Sampling, end: int | None) -> Joint:
    sampler, joint = Sampler(settings), Joint()

    def extend(text: list[int], probability: float) -> None:
        if len(text) == 7 or (len(text) > 4 and text[-1] == end):
            joint[tuple(text[4:])] = probability
            return
        for token, p in enumerate(sampler.probabilities(TABLE[text[-2], text[-1]], text)):
            if p > 0:
                extend([*text, token], probability * float(p))

    extend([2, 1, 2, 1], 1.0)
    return joint


def distance(a: Joint, b: Joint) -> float:
    return max(abs(a.get(x, 0.0) - b.get(x, 0.0)) for x in a.keys() | b.keys())


@pytest.fixture
def every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "race", branching_race)


@pytest.mark.usefixtures("every_way")
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES.keys())
def test_joint_distribution_is_the_targets(tree: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    for t, p, r, end in product((1.0, 0.6), (1.0, 0.8), (1.0, 1.7), (None, END)):
        settings = Sampling(temperature=t, top_p=p, repeat_penalty=r)
        joint = emitted(settings, tree, end)
        assert sum(joint.values()) == pytest.approx(1.0, abs=1e-9)
        assert distance(joint, expected(settings, end)) < 1e-9, settings


def blind(ids: Sequence[int], parents: Sequence[int]) -> Sequence[int]:
    """Every row believes that it follows the one before it."""
    return range(-1, len(ids) - 1)


def late(ids: Sequence[int], parents: Sequence[int]) -> Sequence[int]:
    """Every row believes that it follows the first."""
    return [-1, *[0] * (len(ids) - 1)]


@pytest.mark.usefixtures("every_way")
@pytest.mark.parametrize("wrong", [blind, late])
def test_rows_that_look_elsewhere_are_seen(
    wrong: Callable[..., Sequence[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = TableModel.forward_tree
    monkeypatch.setattr(TableModel, "forward_tree", lambda self, ids, parents: right(self, ids, wrong(ids, parents)))
    settings = Sampling(temperature=0.8)
    assert distance(emitted(settings, TREES["branches on branches"], None), expected(settings, None)) > 1e-3


def decode(policy: Trees | Branching, *, sampling: Sampling | None = None, count: int = 40, stop: int = 99) -> Stats:
    """A whole answer to PROMPT; what must hold between two rounds is checked."""
    target, history, stats = TableModel(TARGET, context_length=CONTEXT), list[int](PROMPT), Stats()
    for _ in prefill(target, history):
        pass
    settings = sampling or Sampling()
    ends: Callable[[int], bool] = lambda token: False  # noqa: E731
    answer = generate(target, history, policy, k=8, sampler=Sampler(settings), max_tokens=count, ends=ends, exact=False)
    for done in answer:
        stats.add(done)
        assert target.cached == history[:-1]
        assert done.accepted <= done.tested <= len(done.proposed)
        assert len(done.tokens) == done.accepted + (done.extra is not None)
        if stats.rounds == stop:
            break
    answer.close()
    assert target.cached == history[:-1]
    assert stats.emitted == stats.accepted + stats.corrections + stats.bonus + stats.plain
    if settings.temperature == 0.0:
        assert history[len(PROMPT) :] == greedy_text(len(history) - len(PROMPT))
    return stats


@pytest.mark.parametrize("seed", range(20))
def test_greedy_text_is_the_targets_whatever_the_tree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parents = [-1]
    while len(parents) < 7:
        parents.append(int(rng.integers(-1, len(parents))))
    tokens = [0] * 7
    for parent in range(-1, 7):
        children = [i for i, p in enumerate(parents) if p == parent]
        for child, token in zip(children, rng.permutation(6)[: len(children)], strict=True):
            tokens[child] = int(token)
    decode(Trees(tuple(tokens), tuple(parents)))
    decode(Trees(tuple(tokens), tuple(parents)), sampling=Sampling(temperature=1.0, seed=seed))
    decode(Trees(tuple(tokens), tuple(parents)), stop=1 + seed % 5)


def test_a_seeded_text_does_not_depend_on_the_tree() -> None:
    def text(policy: Trees | None) -> list[int]:
        target, history = TableModel(TARGET, context_length=CONTEXT), list[int](PROMPT)
        target.forward(history[:-1])
        sampler = Sampler(Sampling(temperature=1.0, seed=7))
        for _ in generate(
            target, history, policy, k=8, sampler=sampler, max_tokens=50, ends=lambda _: False, exact=False
        ):
            pass
        return history

    assert text(None) == text(Trees((1, 2, 3, 4), (-1, -1, 0, 1))) == text(Trees((0, 1, 2, 3, 4, 5), (-1,) * 6))


def test_a_level_of_all_tokens_is_always_accepted() -> None:
    stats = decode(Trees((0, 1, 2, 3, 4, 5), (-1,) * 6), count=40)
    assert stats.acceptance == 1.0
    assert stats.corrections == 0


def test_exact_mode_takes_no_trees() -> None:
    """Rows of a tree pass have other bits than those of a plain one."""
    target, history = TableModel(TARGET), list[int](PROMPT)
    target.forward(history[:-1])
    answer = generate(
        target, history, Trees((1, 2), (-1, -1)), k=4, sampler=GREEDY, max_tokens=9, ends=lambda _: False, exact=True
    )
    with pytest.raises(ValueError, match="exact"):
        next(answer)
    assert target.cached == list(PROMPT[:-1])


def test_positions_and_bias_of_a_tree() -> None:
    parents = (-1, 0, 1, 0, 3)
    assert tree_positions(parents, 10).tolist() == [10, 11, 12, 11, 12]
    seen = (tree_bias(parents, 2) == 0.0).astype(int).tolist()
    assert seen == [
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 0],
        [1, 1, 1, 0, 0, 1, 1],
    ]
    assert set(tree_bias(parents, 2).ravel().tolist()) == {0.0, -np.inf}


# Branches beside what another policy chose.


def branched(history: Sequence[int], chain: Sequence[int], k: int = 8, branches: int = 2) -> Draft:
    said = iter(chain)
    inner = Fixed(ChosenDrafter(lambda _: next(said), lambda _history, _k: len(chain)))
    return Branching(inner, branches).propose(history, k, GREEDY)


@pytest.mark.parametrize(
    ("history", "chain", "tokens", "parents"),
    [
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1], (4, 1, 3), (-1, 0, -1)),  # what followed the place before
        ([1, 2, 3, 9, 2, 5, 1, 2], [5], (5, 3), (-1, -1)),
        ([7, 2, 6, 1, 2, 3, 1, 2, 4, 1, 2], [4], (4, 3, 6), (-1, -1, -1)),  # the longer match first
        ([1, 2, 3, 1, 2], [3], (3,), None),  # nothing else followed
        ([1, 2, 3, 1, 2, 4, 1, 2], [], (), None),  # nothing is added to a plain round
    ],
)
def test_branches_on_hand_written_histories(
    history: list[int], chain: list[int], tokens: tuple[int, ...], parents: tuple[int, ...] | None
) -> None:
    found = branched(history, chain)
    assert (found.tokens, found.parents) == (tokens, parents)


def test_branches_take_no_more_than_the_room_that_there_is() -> None:
    history = [1, 2, 3, 1, 2, 5, 1, 2, 4, 1, 2]
    assert branched(history, [4, 1], k=2).parents is None
    assert branched(history, [4, 1], k=3).tokens == (4, 1, 5)
    assert branched(history, [4, 1], branches=1).tokens == (4, 1, 5)
    assert branched(history, [4, 1], branches=9).tokens == (4, 1, 5, 3)


def test_a_sampled_draft_stays_as_it_is() -> None:
    inner = DraftModelDrafter(TableModel(TARGET, context_length=CONTEXT))
    draft = Branching(Fixed(inner), 2).propose([1, 2, 3, 1, 2, 4, 1, 2], 4, Sampler(Sampling(temperature=1.0, seed=1)))
    assert draft.probs is not None
    assert draft.parents is None


def test_the_other_policy_hears_of_its_own_proposals_only() -> None:
    class Ears(Fixed):
        heard: tuple[int, int] | None = None

        def observe(self, done: Round) -> None:
            self.heard = done.tested, done.accepted

    def heard(tokens: tuple[int, ...], tested: int, accepted: int) -> tuple[int, int] | None:
        ears = Ears(ChosenDrafter(lambda text: 4 if len(text) == 8 else 1, lambda _history, _k: 2))
        policy = Branching(ears, 2)
        assert policy.propose([1, 2, 3, 1, 2, 4, 1, 2], 8, GREEDY).tokens == (4, 1, 3)
        policy.observe(Round(tokens, (4, 1, 3), tested, accepted, "correction", "chosen", 0, 0, 0))
        return ears.heard

    assert heard((4, 1, 9), 2, 2) == (2, 2)
    assert heard((4, 9), 2, 1) == (2, 1)
    assert heard((9,), 1, 0) == (1, 0)
    assert heard((3, 9), 1, 1) == (1, 0)  # the branch was right, not the chain


def test_with_branches_an_answer_takes_no_more_rounds_and_is_the_same() -> None:
    chain = decode(Branching(Fixed(NgramDrafter()), 0), count=200)
    tree = decode(Branching(Fixed(NgramDrafter()), 2), count=200)
    assert tree.rounds <= chain.rounds
    assert tree.emitted == chain.emitted == 200
