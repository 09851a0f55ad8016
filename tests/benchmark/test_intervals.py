"""Intervals that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from edgespec.benchmark.intervals import Totals, bootstrap


def ratio(totals: Totals) -> Totals:
    return totals[0] / totals[1]


def parts(rng: np.random.Generator, n: int) -> Totals:
    """Prompts whose speed-ups scatter by a quarter around 1.5; what all of them together would show is 1.5."""
    ms = rng.uniform(50.0, 150.0, n)
    return np.stack([1.5 * ms * rng.lognormal(-0.5 * 0.25**2, 0.25, n), ms], axis=1)


@pytest.mark.parametrize("n", [5, 12, 40])
def test_nineteen_of_twenty_hold_the_truth(n: int) -> None:
    rng = np.random.default_rng(n)
    found = [bootstrap(parts(rng, n), ratio, seed) for seed in range(200)]
    held = np.mean([low <= 1.5 <= high for low, high in filter(None, found)])
    assert len(found) == 200
    assert 0.9 <= held <= 0.99


def test_more_prompts_say_more() -> None:
    rng = np.random.default_rng(0)
    widths = [high - low for n in (5, 20, 80) for low, high in [bootstrap(parts(rng, n), ratio) or (0.0, 0.0)]]
    assert widths == sorted(widths, reverse=True)


def test_one_prompt_says_nothing_and_equal_ones_leave_no_doubt() -> None:
    assert bootstrap(np.array([[3.0, 2.0]]), ratio) is None
    assert bootstrap(np.array([[3.0, 2.0]] * 4), ratio) == pytest.approx((1.5, 1.5))


def test_the_same_parts_give_the_same_interval() -> None:
    some = parts(np.random.default_rng(1), 6)
    assert bootstrap(some, ratio) == bootstrap(some, ratio)
    assert bootstrap(some, ratio, seed=1) != bootstrap(some, ratio)
