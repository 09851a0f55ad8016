"""Transforms against plain arithmetic, and drawing at its edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgespec.decoding.sampling import LANES, PENALTY_WINDOW, Probabilities, Sampler, Sampling, draw, race
from edgespec.decoding.sampling import _nucleus as nucleus
from edgespec.errors import GenerationError, UsageError

LAST = 1.0 - 2.0**-53
"""The largest number below 1: `random()` gives nothing larger."""

LOWEST = float(np.finfo(np.float32).min)


def scores(size: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0.0, 3.0, size).astype(np.float32)


# -- transforms ------------------------------------------------------------------------------------------------------


def plainly(logits: NDArray[np.float32], recent: Sequence[int], s: Sampling) -> list[float]:
    """The transforms, in their order, as one would on paper."""
    scores = [float(x) for x in logits]
    for t in set(recent[-PENALTY_WINDOW:]):
        scores[t] = scores[t] / s.repeat_penalty if scores[t] > 0 else scores[t] * s.repeat_penalty
    p = {t: math.exp((x - max(scores)) / s.temperature) for t, x in enumerate(scores)}
    if s.top_k:
        p = dict(sorted(p.items(), key=lambda item: -item[1])[: s.top_k])
    total = sum(p.values())
    p = {t: x / total for t, x in p.items()}
    if s.top_p < 1.0:
        kept: dict[int, float] = {}
        for t, x in sorted(p.items(), key=lambda item: -item[1]):
            if sum(kept.values()) >= s.top_p:
                break
            kept[t] = x
        p = {t: x / sum(kept.values()) for t, x in kept.items()}
    p = {t: x for t, x in p.items() if x >= s.min_p * max(p.values())}
    return [p.get(t, 0.0) / sum(p.values()) for t in range(len(scores))]


COMBINATIONS = [
    Sampling(temperature=t, top_k=k, top_p=p, min_p=m, repeat_penalty=r)
    for t, k, p, m, r in product((0.3, 1.0, 2.0), (0, 1, 5), (1.0, 0.9, 0.2), (0.0, 0.1, 1.0), (1.0, 1.3, 0.8))
]


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_every_combination_of_transforms_is_what_arithmetic_says(size: int) -> None:
    recent = [0, size - 1, size // 2, 0]
    for seed, settings in enumerate(COMBINATIONS):
        logits = scores(size, seed)
        p = Sampler(settings).probabilities(logits, recent)
        assert p.dtype == np.float64
        assert p.tolist() == pytest.approx(plainly(logits, recent, settings), abs=2e-6), settings
        assert p.sum() == pytest.approx(1.0, abs=1e-12)


@given(seed=st.integers(0, 1000), k=st.integers(1, 60))
def test_top_k_keeps_the_k_likeliest(seed: int, k: int) -> None:
    logits = scores(50, seed)
    kept = np.flatnonzero(Sampler(Sampling(temperature=1.0, top_k=k)).probabilities(logits, []))
    assert sorted(kept) == sorted(np.argsort(-logits)[:k])


@given(seed=st.integers(0, 1000), top_p=st.floats(0.01, 0.999))
def test_top_p_keeps_the_fewest_tokens_that_reach_it(seed: int, top_p: float) -> None:
    logits = scores(50, seed)
    everything = Sampler(Sampling(temperature=1.0)).probabilities(logits, [])
    kept = Sampler(Sampling(temperature=1.0, top_p=top_p)).probabilities(logits, []) > 0
    assert everything[kept].sum() >= top_p
    assert everything[kept].sum() - everything[kept].min() < top_p
    assert not (~kept).any() or everything[kept].min() >= everything[~kept].max()


@given(seed=st.integers(0, 1000), min_p=st.floats(0.0, 1.0))
def test_min_p_keeps_what_is_likely_beside_the_likeliest(seed: int, min_p: float) -> None:
    logits = scores(50, seed)
    everything = Sampler(Sampling(temperature=1.0)).probabilities(logits, [])
    kept = Sampler(Sampling(temperature=1.0, min_p=min_p)).probabilities(logits, []) > 0
    assert kept.tolist() == (everything >= min_p * everything.max()).tolist()


@given(
    weights=st.lists(st.integers(0, 5), min_size=1, max_size=40).filter(any),
    top_p=st.one_of(st.floats(1e-300, 1.0, exclude_max=True), st.sampled_from([0.5, 0.25, 0.75])),
)
def test_nucleus_with_ties_and_zeros(weights: list[int], top_p: float) -> None:
    p = np.array(weights, np.float64) / sum(weights)
    cut = nucleus(p, top_p)
    size = np.count_nonzero(cut)
    order = np.argsort(-p, kind="stable")  # the lowest id first among equals
    assert cut.sum() == pytest.approx(1.0)
    assert set(np.flatnonzero(cut)) == set(order[:size])
    assert p[order[:size]].sum() >= top_p - 1e-12
    assert p[order[: size - 1]].sum() < top_p + 1e-12


def test_all_off_is_softmax_even_where_a_graph_masks_tokens() -> None:
    for mask in (-np.inf, LOWEST):
        logits = np.array([1.0, mask, 2.0, mask], np.float32)
        for settings in (Sampling(temperature=1e-3), Sampling(temperature=1.0, repeat_penalty=1.5)):
            p = Sampler(settings).probabilities(logits, [1, 3])
            assert p[1] == p[3] == 0.0
            assert Sampler(settings).argmax(logits, [1, 3]) == 2
    p = Sampler(Sampling(temperature=1.0)).probabilities(np.array([1.0, 2.0], np.float32), [])
    assert p.tolist() == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)], abs=1e-7)


def test_the_penalty_sees_a_window_of_the_last_tokens_and_each_once() -> None:
    sampler = Sampler(Sampling(temperature=1.0, repeat_penalty=2.0))
    logits = np.array([1.0, 1.0, -1.0], np.float32)
    expected = {t: math.exp(x) for t, x in ((0, 0.5), (1, 1.0), (2, -2.0))}
    for recent in ([0, 2], [0, 0, 0, 2, 2], [1, *[0, 2] * (PENALTY_WINDOW // 2)]):
        p = sampler.probabilities(logits, recent)
        assert p.tolist() == pytest.approx([x / sum(expected.values()) for x in expected.values()], abs=1e-6)
    assert sampler.argmax(logits, [0, 2]) == 1
    assert sampler.argmax(logits, [0, *[2] * (PENALTY_WINDOW - 1)]) == 1
    assert sampler.argmax(logits, [0, *[2] * PENALTY_WINDOW]) == 0
    assert logits.tolist() == [1.0, 1.0, -1.0]


def test_the_lowest_id_wins_among_equals() -> None:
    assert Sampler(Sampling()).argmax(np.array([0.0, 2.0, 2.0], np.float32), []) == 1


@pytest.mark.parametrize("bad", [[1.0, np.nan], [np.nan, np.inf], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_unusable_scores_are_named(bad: list[float]) -> None:
    logits = np.array(bad, np.float32)
    with pytest.raises(GenerationError, match="unusable scores"):
        Sampler(Sampling()).argmax(logits, [])
    for settings in COMBINATIONS[::20]:
        with pytest.raises(GenerationError, match="unusable scores"):
            Sampler(settings).probabilities(logits, [0])


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("temperature", -1.0, "temperature cannot be -1.0; it must be 0 (greedy) or 0.001 to 1000."),
        ("temperature", 1e-4, "temperature cannot be 0.0001; it must be 0 (greedy) or 0.001 to 1000."),
        ("temperature", math.nan, "temperature cannot be nan; it must be 0 (greedy) or 0.001 to 1000."),
        ("temperature", math.inf, "temperature cannot be inf; it must be 0 (greedy) or 0.001 to 1000."),
        ("top_k", -1, "top-k cannot be -1; it must be 0 (off) to 1000000."),
        ("top_p", 0.0, "top-p cannot be 0.0; it must be 0.000001 to 1."),
        ("top_p", 1.1, "top-p cannot be 1.1; it must be 0.000001 to 1."),
        ("top_p", math.nan, "top-p cannot be nan; it must be 0.000001 to 1."),
        ("min_p", -0.1, "min-p cannot be -0.1; it must be between 0 and 1."),
        ("repeat_penalty", 0.0, "repeat penalty cannot be 0.0; it must be 0.01 to 100."),
        ("repeat_penalty", math.inf, "repeat penalty cannot be inf; it must be 0.01 to 100."),
        ("seed", -1, "seed cannot be -1; it must be between 0 and 2^64-1."),
        ("seed", 2**64, "seed cannot be 18446744073709551616; it must be between 0 and 2^64-1."),
    ],
)
def test_a_setting_out_of_range_is_named_with_what_is_allowed(setting: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        Sampling(**{setting: value})
    assert str(error.value) == message


def test_a_seed_of_a_thousand_digits_is_bad_input_too() -> None:
    with pytest.raises(UsageError, match="seed cannot be 1000"):
        Sampling(seed=10**1000)


def test_the_edges_of_the_ranges_work() -> None:
    logits = scores(30)
    for settings in (
        Sampling(temperature=1e-3, top_k=10**6, top_p=1e-6, min_p=1.0, repeat_penalty=0.01, seed=2**64 - 1),
        Sampling(temperature=1e3, top_k=1, top_p=1.0, min_p=0.0, repeat_penalty=100.0, seed=0),
    ):
        p = Sampler(settings).probabilities(logits, [1, 2])
        assert p.max() == 1.0


# -- randomness ------------------------------------------------------------------------------------------------------


def test_uniforms_belong_to_seed_and_position() -> None:
    a, b = Sampler(Sampling(seed=7)), Sampler(Sampling(seed=7))
    for position in (5, 0, 2**31, 5):
        assert a.uniforms(position) == b.uniforms(position)
    numbers = [u for position in range(1000) for u in a.uniforms(position)]
    assert len(set(numbers)) == 3000
    assert all(0.0 <= u < 1.0 for u in numbers)
    assert Sampler(Sampling(seed=8)).uniforms(5) != a.uniforms(5)
    assert np.mean(numbers) == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(np.array(numbers).reshape(-1, 3).T) - np.eye(3)).max() < 0.1


def test_exponentials_belong_to_seed_and_position() -> None:
    a, b = Sampler(Sampling(seed=7)), Sampler(Sampling(seed=7))
    for position in (5, 0, 2**31, 6, 5, 40, 80, 120, 160, 5):
        assert np.array_equal(a.exponentials(position), b.exponentials(position))
    found = np.array([a.exponentials(position) for position in range(1000)])
    assert found.shape == (1000, LANES)
    assert np.unique(found).size == found.size
    assert found.min() > 0.0
    assert not np.array_equal(Sampler(Sampling(seed=8)).exponentials(5), a.exponentials(5))
    # Exponential: what is under x is 1 - exp(-x) of all (the statistic of Kolmogorov and Smirnov).
    parts = 1.0 - np.exp(-np.sort(found.ravel()))
    assert abs(parts - np.arange(parts.size) / parts.size).max() < 1.6 / math.sqrt(parts.size)
    for numbers in (found, found.T, np.hstack([found, np.array([a.uniforms(position) for position in range(1000)])])):
        assert abs(np.corrcoef(numbers.T) - np.eye(numbers.shape[1])).max() < 6 / math.sqrt(len(numbers))


# -- race ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, LANES - 1, LANES, LANES + 1, 3 * LANES + 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_race_draws_every_token_as_often_as_it_says(size: int, dtype: type[np.floating[Any]]) -> None:
    rng, sampler, races = np.random.default_rng(size), Sampler(Sampling(seed=size)), 10_000
    p = (rng.random(size) ** 4 * (rng.random(size) < 0.4) + (np.arange(size) == size - 1) * 0.3).astype(dtype)
    drawn = np.zeros(size)
    for position in range(races):
        drawn[race(p, sampler.exponentials(position), sampler.uniforms(position)[2])] += 1
    expected = races * p.astype(np.float64) / p.sum(dtype=np.float64)
    assert not drawn[p == 0].any()
    often = expected > 5
    assert abs(drawn - expected)[often].max() < 4.5 * np.sqrt(expected[often]).max()
    chi_squared = ((drawn - expected)[often] ** 2 / expected[often]).sum()
    assert chi_squared < often.sum() + 4 * math.sqrt(2 * often.sum())


@given(
    weights=st.lists(
        st.sampled_from([0.0, 0.0, 0.0, 1e-300, 5e-324, 1e-17, 0.1, 1.0]), min_size=1, max_size=600
    ).filter(any),
    u=st.one_of(st.sampled_from([0.0, math.ulp(0.0), 0.5, LAST]), st.floats(0.0, LAST)),
    position=st.integers(0, 10**6),
)
def test_no_race_is_won_by_a_token_of_probability_zero(weights: list[float], u: float, position: int) -> None:
    p = np.array(weights)
    assert p[race(p, Sampler(Sampling(seed=1)).exponentials(position), u)] > 0.0


def test_whoever_wins_a_race_wins_it_with_a_larger_part_too() -> None:
    """What makes a guess right: p need not be known exactly."""
    rng, sampler = np.random.default_rng(1), Sampler(Sampling(seed=3))
    winners: set[int] = set()
    for position in range(300):
        p, times = rng.dirichlet(np.full(40, 0.3)), sampler.exponentials(position)
        winner = race(p, times, 0.5)
        p[winner] *= 1.0 + rng.random()
        assert race(p, times, 0.5) == winner
        winners.add(winner)
    assert len(winners) > 30


# -- draw ------------------------------------------------------------------------------------------------------------


def in_order(p: Probabilities) -> list[int]:
    """The tokens that can be drawn: the likeliest first, those under 1/64 of it last, by id among equals and last."""
    near = p.max() / 64
    ranks = {t: (0, -x, t) if x > near else (1, 0.0, t) for t, x in enumerate(p.tolist()) if x > 0}
    return sorted(ranks, key=lambda t: ranks[t])


def starts(p: Probabilities) -> list[float]:
    """Where the part of [0, 1) that draws each token of `in_order` starts, found by halving: later ones with a larger
    u."""
    rank = {token: i for i, token in enumerate(in_order(p))}

    def after(i: int) -> float:
        low, high = 0.0, 1.0
        while high - low > 1e-15:
            middle = (low + high) / 2
            low, high = (low, middle) if rank[draw(p, middle)] >= i else (middle, high)
        return high

    return [after(i) for i in range(len(rank))]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 513, 700])
def test_every_token_is_drawn_with_its_probability(size: int) -> None:
    rng = np.random.default_rng(size)
    p = rng.random(size) ** 4 * (rng.random(size) < 0.2)
    edges = [0, -1, min(255, size - 1), min(256, size - 1)]  # both sides of a block's edge
    for at_edges in (rng.random(4) + 0.01, rng.random(4) / 1000):
        p[edges] = at_edges
        ordered = p[in_order(p)] / p.sum()
        expected = np.cumsum(ordered) - ordered
        assert starts(p)[1:] == pytest.approx(expected[1:].tolist(), abs=1e-12)


@given(
    weights=st.lists(
        st.sampled_from([0.0, 0.0, 0.0, 1e-300, 5e-324, 1e-17, 0.1, 1.0]), min_size=1, max_size=600
    ).filter(any),
    u=st.one_of(st.sampled_from([0.0, math.ulp(0.0), 0.5, LAST]), st.floats(0.0, LAST)),
)
def test_never_a_token_of_probability_zero(weights: list[float], u: float) -> None:
    p = np.array(weights)
    assert p[draw(p, u)] > 0.0


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000, 300_000])
def test_the_ends_of_the_unit_interval_draw_the_first_and_the_last_token(size: int) -> None:
    p = np.zeros(size)
    p[size // 3 : size // 3 + size // 2 + 1] = 1.0 / 3.0
    possible = np.flatnonzero(p)
    assert draw(p, 0.0) == possible[0]
    assert draw(p, LAST) == possible[-1]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_a_huge_vocabulary_is_drawn_as_often_as_it_says(temperature: float) -> None:
    sampler, logits = Sampler(Sampling(temperature=temperature)), scores(150_000)
    p = sampler.probabilities(logits, [])
    order = in_order(p)
    until = dict(zip(order, np.cumsum(p[order]), strict=True))
    for u in np.random.default_rng(1).random(1000):
        token = draw(p, float(u))
        assert until[token] - p[token] - 1e-9 <= u <= until[token] + 1e-9
        token = draw(sampler.weights(logits, []), float(u))  # float32
        assert until[token] - p[token] - 1e-5 <= u <= until[token] + 1e-5
