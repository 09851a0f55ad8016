"""What a hidden state says of a proposal: counted again plainly, of the right token, and only where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import TableModel, random_table
from numpy.typing import NDArray

from edgespec.decoding.drafters.judged import USUAL, Judge, JudgedDrafter, JudgeWeights, read_judge
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.errors import ModelError

VOCAB, SIZE, STATES = 12, 5, 2
GREEDY = Sampler(Sampling())
TEXT = [4, 7, 9, 4, 7]


def weights(seed: int = 0) -> JudgeWeights:
    random = np.random.default_rng(seed)
    last, proposals = random.integers(-127, 128, (2, VOCAB, SIZE)).astype(np.int8)
    states, scale = random.normal(0, 0.003, (SIZE, STATES)), random.uniform(0, 1e-4, SIZE)
    return JudgeWeights(
        states.astype(np.float32), np.full(SIZE, 0.002, np.float32), last, scale.astype("f4"), proposals
    )


def target(text: Sequence[int]) -> TableModel:
    model = TableModel(random_table(VOCAB, seed=3))
    model.forward(text[:-1])
    return model


def expected(w: JudgeWeights, text: Sequence[int], proposal: int, usual: float) -> float:
    """By the definition: the state of the token before the last, the last token, and what is proposed."""
    state = np.array([len(text) - 2, text[-2]])
    query = w.states @ state + w.bias + w.last[text[-1]] * w.scale
    return float(1 / (1 + (1 - usual) / usual * np.exp(-(query * w.proposals[proposal]).sum())))


@pytest.mark.parametrize("usual", [0.05, 0.5, 0.9])
def test_a_chance_is_what_the_state_adds_to_what_is_usual(usual: float) -> None:
    judge = Judge(weights(), target(TEXT))
    found = [judge.chance(TEXT, proposal, usual) or 0.0 for proposal in range(VOCAB)]
    assert found == pytest.approx([expected(weights(), TEXT, proposal, usual) for proposal in range(VOCAB)], rel=1e-4)
    assert max(found) > 1.2 * min(found)


def test_only_the_first_proposal_is_judged_and_by_the_class_of_its_chance() -> None:
    plain, judge = NgramDrafter(), Judge(weights(), target(TEXT))
    expected_draft = plain.propose(TEXT, 3, GREEDY)
    drafter = JudgedDrafter(NgramDrafter(), judge)
    draft = drafter.propose(TEXT, 3, GREEDY)
    assert draft.tokens == expected_draft.tokens == (9, 4, 7)
    assert draft.evidence[1:] == expected_draft.evidence[1:]
    chance = expected(weights(), TEXT, 9, plain.usual[expected_draft.evidence[0]])
    assert draft.evidence[0] == len(plain.usual) + int(chance * len(USUAL))
    assert drafter.usual == (*plain.usual, *USUAL)
    assert (drafter.name, drafter.upfront, drafter.lag(9)) == ("ngram", True, 0)
    assert JudgedDrafter(NgramDrafter(), judge).propose([1, 2, 3], 3, GREEDY).tokens == ()


def test_another_text_of_the_same_length_is_judged_anew() -> None:
    model = target(TEXT)
    drafter = JudgedDrafter(NgramDrafter(), Judge(weights(), model))
    before = drafter.propose(TEXT, 1, GREEDY)
    other = [5, 8, 9, 8, 7, 5, 8]
    for text in (other, TEXT):
        drafter.rewind(0)
        model.rewind(0)
        model.forward(text[:-1])
        found = drafter.propose(text, 1, GREEDY)
        assert found == JudgedDrafter(NgramDrafter(), Judge(weights(), model)).propose(text, 1, GREEDY)
    assert found == before


def test_where_no_state_is_known_the_evidence_stays() -> None:
    plain = NgramDrafter().propose(TEXT, 2, GREEDY)
    model = target(TEXT)
    model.rewind(2)
    assert JudgedDrafter(NgramDrafter(), Judge(weights(), model)).propose(TEXT, 2, GREEDY) == plain
    spoilt = replace(weights(), bias=np.full(SIZE, np.nan, np.float32))
    assert JudgedDrafter(NgramDrafter(), Judge(spoilt, target(TEXT))).propose(TEXT, 2, GREEDY) == plain
    assert Judge(weights(), target([3, 3])).chance([3], 3, 0.5) is None


@pytest.mark.parametrize("loudness", [1e6, -1e6])
def test_whatever_it_says_is_a_class(loudness: float) -> None:
    loud = replace(weights(), bias=np.full(SIZE, loudness, np.float32), proposals=np.ones((VOCAB, SIZE), np.int8))
    draft = JudgedDrafter(NgramDrafter(), Judge(loud, target(TEXT))).propose(TEXT, 1, GREEDY)
    assert draft.evidence[0] - len(NgramDrafter().usual) == (len(USUAL) - 1 if loudness > 0 else 0)


def test_weights_are_kept_and_what_are_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "judge.npz"
    weights().save(path)
    read = read_judge(path)
    for name in JudgeWeights.__slots__:
        np.testing.assert_array_equal(getattr(read, name), getattr(weights(), name))
    assert read.fits(3, VOCAB)
    assert read.fits(STATES, VOCAB)
    np.savez(tmp_path / "other.npz", states=np.zeros(3))
    (tmp_path / "text.npz").write_text("no array")
    for other in ("other.npz", "text.npz", "missing.npz"):
        with pytest.raises(ModelError, match=f"{other} cannot be read as weights that judge"):
            read_judge(tmp_path / other)


@pytest.mark.parametrize(
    "wrong",
    [
        {"states": np.zeros((SIZE, STATES), np.float64)},
        {"states": np.zeros((SIZE, 0), np.float32)},
        {"states": np.zeros((0, STATES), np.float32)},
        {"states": np.zeros(STATES, np.float32)},
        {"bias": np.zeros(SIZE + 1, np.float32)},
        {"scale": np.zeros(SIZE, np.float16)},
        {"last": np.zeros((VOCAB - 1, SIZE), np.int8)},
        {"proposals": np.zeros((VOCAB, SIZE), np.float32)},
    ],
)
def test_weights_of_another_shape_fit_no_model(wrong: dict[str, NDArray[np.float32]]) -> None:
    assert not replace(weights(), **wrong).fits(STATES, VOCAB)
    assert not weights().fits(STATES - 1, VOCAB)
    assert not weights().fits(STATES, VOCAB + 1)
