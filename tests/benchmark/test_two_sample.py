"""The two-sample test: it keeps to its rate of false alarms, and sees what is there."""

from __future__ import annotations

import numpy as np
import pytest

from edgespec.benchmark import two_sample
from edgespec.benchmark.two_sample import Answers, p_value

PROBABILITIES = np.array([0.3, 0.2, 0.1, *[0.4 / 40] * 40])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 499)


def answers(rng: np.random.Generator, n: int, p: np.ndarray = PROBABILITIES) -> Answers:
    """Three positions; the second repeats the first, the third is -1 in a third of them."""
    first = rng.choice(len(p), n, p=p)
    return np.stack([first, first, np.where(rng.random(n) < 1 / 3, -1, rng.choice(len(p), n, p=p))], axis=1)


def test_equal_distributions_alarm_as_seldom_as_promised() -> None:
    rng = np.random.default_rng(0)
    found = np.array([p_value(answers(rng, 96), answers(rng, 64), seed) for seed in range(200)])
    for level in (0.05, 0.25, 0.5):
        assert np.mean(found <= level) == pytest.approx(level, abs=3.5 * np.sqrt(level * (1 - level) / 200))


def test_a_difference_is_seen_at_any_position() -> None:
    rng = np.random.default_rng(1)
    other = PROBABILITIES.copy()
    other[[0, 1]] += (-0.15, 0.15)
    a, b = answers(rng, 600), answers(rng, 600, other)
    assert p_value(a, b, 0) == 1 / 500
    for position in range(3):
        mixed = answers(rng, 600)
        mixed[:, position] = b[:, position]
        assert p_value(a, mixed, 0) < 0.05


def test_other_ends_are_a_difference() -> None:
    rng = np.random.default_rng(2)
    a, b = answers(rng, 256), answers(rng, 256)
    b[:128, 2] = -1
    assert p_value(a, b, 0) == 1 / 500


def test_identical_samples_are_never_told_apart_and_the_seed_decides() -> None:
    rng = np.random.default_rng(3)
    a, b = answers(rng, 100), answers(rng, 100)
    assert p_value(a, a, 0) == 1.0
    assert p_value(a, b, 5) == p_value(a, b, 5)
    assert p_value(a[:, :1] * 0, b[:, :1] * 0, 0) == 1.0, "one token only"
