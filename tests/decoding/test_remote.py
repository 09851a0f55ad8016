"""What is fetched of a row suffices: no sampler can tell it from the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgespec.decoding.protocols import Draft
from edgespec.decoding.remote import scores_of
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.decoding.verify import verify
from edgespec.errors import GenerationError

VOCAB = 400


class Counted:
    """Rows that are elsewhere. fetched: floats that came from there."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._rows = np.where(np.isnan(rows), np.float32(np.inf), rows)
        self.vocab_size = rows.shape[1]
        self.fetched = 0

    def best(self, row: int) -> tuple[int, float]:
        self.fetched += 1
        token = int(self._rows[row].argmax())
        return token, float(self._rows[row, token])

    def top(self, row: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        self.fetched += count
        order = np.argsort(-self._rows[row] + np.random.default_rng(7).normal(0, 1e-12, VOCAB))[:count]
        return order, self._rows[row, order]

    def whole(self, row: int) -> NDArray[np.float32]:
        self.fetched += self.vocab_size
        return self._rows[row]


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0]),
    top_k=st.sampled_from([0, 1, 5, 40, VOCAB - 1, VOCAB + 5]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    min_p=st.sampled_from([0.0, 0.02, 0.5]),
    repeat_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    seed=st.integers(0, 3),
)


@given(
    sampling=samplings,
    seed=st.integers(0, 50),
    step=st.sampled_from([0.0, 0.25, 2.0]),
    masked=st.integers(0, VOCAB),
    recent=st.lists(st.integers(0, VOCAB - 1), max_size=80),
)
def test_no_sampler_can_tell_it_from_the_whole_row(
    sampling: Sampling, seed: int, step: float, masked: int, recent: list[int]
) -> None:
    """Rounded scores have many equals, as those in half precision do; some tokens are masked."""
    row = np.random.default_rng(seed).normal(0.0, 4.0, VOCAB).astype(np.float32)
    if step:
        row = np.round(row / np.float32(step)) * np.float32(step)
    row[masked:] = -np.inf
    row[0] = 0.0
    sampler = Sampler(sampling)
    fetched = scores_of(Counted(row[None]), 0, sampler, recent)
    assert fetched.dtype == np.float32
    if sampler.greedy:
        assert sampler.argmax(fetched, recent) == sampler.argmax(row, recent)
    else:
        p, q = sampler.probabilities(row, recent), sampler.probabilities(fetched, recent)
        np.testing.assert_array_equal(p > 0, q > 0)
        np.testing.assert_allclose(p, q, rtol=1e-12)


@pytest.mark.parametrize(
    ("sampling", "equals"),
    [(Sampling(repeat_penalty=1.3), 70), (Sampling(0.7, top_k=1), 2), (Sampling(0.7, top_k=5), 6)],
    ids=["greedy", "top-k 1", "top-k 5"],
)
def test_equals_at_the_edge_are_told_apart_by_the_whole_row(sampling: Sampling, equals: int) -> None:
    """Which of them are kept depends on all of them."""
    sampler = Sampler(sampling)
    for seed in range(20):
        row = np.zeros(VOCAB, np.float32)
        row[np.random.default_rng(seed).permutation(VOCAB)[:equals]] = 7.0
        rows = Counted(row[None])
        np.testing.assert_array_equal(scores_of(rows, 0, sampler, []), row)
        assert rows.fetched > VOCAB


@pytest.mark.parametrize(
    ("sampling", "floats"),
    [
        (Sampling(), 1),
        (Sampling(repeat_penalty=1.3), 66),
        (Sampling(temperature=0.7, top_k=20, top_p=0.9), 21),
        (Sampling(temperature=0.7, top_k=20, repeat_penalty=1.3), 85),
        (Sampling(temperature=0.7, min_p=0.1), 128),
        (Sampling(temperature=0.7), VOCAB),
        (Sampling(temperature=0.7, top_p=0.9), VOCAB),
        (Sampling(temperature=0.7, top_k=20, repeat_penalty=0.9), VOCAB),
    ],
    ids=str,
)
def test_what_is_fetched(sampling: Sampling, floats: int) -> None:
    rows = Counted(np.random.default_rng(0).normal(0.0, 5.0, (1, VOCAB)).astype(np.float32))
    verify(Draft(), rows, [1, 2, 3], Sampler(sampling), lambda _: False)
    assert rows.fetched == floats


def test_rows_behind_a_rejection_are_not_fetched() -> None:
    logits = np.zeros((4, VOCAB), np.float32)
    logits[range(4), [5, 6, 7, 8]] = 9.0
    rows, sampler = Counted(logits), Sampler(Sampling(temperature=1.0, top_k=10_000, seed=1))
    verdict = verify(Draft((1, 6, 7)), rows, [3], sampler, lambda _: False)
    assert (verdict.tokens, verdict.tested) == ((5,), 1)
    assert rows.fetched == VOCAB


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, top_k=5), Sampling(temperature=0.7)])
def test_unusable_scores_are_noticed(wrong: float, sampling: Sampling) -> None:
    logits = np.zeros((1, VOCAB), np.float32)
    logits[0, 17 if wrong != -np.inf else slice(None)] = wrong
    with pytest.raises(GenerationError, match="unusable scores"):
        verify(Draft(), Counted(logits), [3], Sampler(sampling), lambda _: False)
