"""The interval of a speed-up: against tables, and against chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgespec.benchmark.intervals import student
from edgespec.tuning.judge import SpeedUp, compare


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(3, 3.1824), (5, 2.5706), (7, 2.3646), (10, 2.2281), (20, 2.0860), (47, 2.0117)]
)
def test_students_quantiles_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert student(degrees) == pytest.approx(quantile, rel=0.02)


def test_a_speed_up_is_the_geometric_mean_of_the_ratios() -> None:
    found = compare([2.0, 8.0, 4.0, 4.0], [1.0, 2.0, 2.0, 1.0])
    assert found.mean == pytest.approx(math.sqrt(8.0))
    assert found.pairs == 4
    assert found.low < found.mean < found.high
    assert found.low * found.high == pytest.approx(8.0)


def test_only_what_lies_above_one_as_a_whole_is_certain() -> None:
    assert SpeedUp(1.1, 1.01, 1.2, 8).certain
    assert not SpeedUp(1.1, 0.99, 1.2, 8).certain
    assert not SpeedUp(0.9, 0.8, 0.99, 8).certain


def test_noise_alone_passes_in_one_comparison_of_forty() -> None:
    rng = np.random.default_rng(0)
    found = [compare(*np.exp(rng.normal(0.0, 0.2, (2, 12))).tolist()) for _ in range(4000)]
    assert np.mean([f.certain for f in found]) == pytest.approx(0.025, abs=0.01)
    assert np.mean([f.low <= 1.0 <= f.high for f in found]) == pytest.approx(0.95, abs=0.015)


def test_a_gain_that_is_larger_than_the_noise_is_found() -> None:
    rng = np.random.default_rng(1)
    prompts = rng.uniform(5.0, 15.0, 24)
    before, after = prompts * np.exp(rng.normal(0.0, 0.05, 24)), prompts / 1.1 * np.exp(rng.normal(0.0, 0.05, 24))
    found = compare(before.tolist(), after.tolist())
    assert found.certain
    assert found.low < 1.1 < found.high
