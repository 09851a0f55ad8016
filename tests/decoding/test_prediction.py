"""The arithmetic of a speed-up, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from edgespec.decoding.prediction import best_speedup, break_even, expected_tokens

PASSES = (10.0, 12.0, 14.0, 16.0)


@pytest.mark.parametrize(
    ("acceptance", "k", "tokens"),
    [(0.5, 0, 1.0), (0.5, 1, 1.5), (0.5, 3, 1.875), (0.8, 2, 2.44), (0.0, 5, 1.0), (1.0, 5, 6.0)],
)
def test_expected_tokens(acceptance: float, k: int, tokens: float) -> None:
    assert expected_tokens(acceptance, k) == pytest.approx(tokens)


@pytest.mark.parametrize("acceptance", [0.1, 0.5, 0.9])
def test_expected_tokens_are_leviathans_closed_form(acceptance: float) -> None:
    for k in range(9):
        assert expected_tokens(acceptance, k) == pytest.approx((1 - acceptance ** (k + 1)) / (1 - acceptance))


@pytest.mark.parametrize(
    ("draft", "acceptance", "k", "speedup"),
    [
        (1.0, 0.5, 1, 15.0 / 13.0),  # 2: 17.5 / 16, 3: 18.75 / 19
        (1.0, 0.8, 3, 29.52 / 19.0),  # 1: 18 / 13, 2: 24.4 / 16
        (1.0, 0.0, 0, 1.0),
        (5.0, 0.7, 0, 1.0),  # 1: 17 / 17, 2: 21.9 / 24, 3: 25.33 / 31
        (0.0, 0.5, 1, 15.0 / 12.0),  # 2: 17.5 / 14
        (0.0, 1.0, 3, 40.0 / 16.0),
    ],
)
def test_the_best_draft_length_and_its_speedup(draft: float, acceptance: float, k: int, speedup: float) -> None:
    assert best_speedup(PASSES, draft, acceptance) == (k, pytest.approx(speedup))


def test_no_draft_is_better_than_a_bad_one() -> None:
    assert best_speedup((10.0,), 1.0, 0.9) == (0, 1.0)
    assert best_speedup(PASSES, 100.0, 0.9) == (0, 1.0)


def test_break_even_is_where_the_gain_begins_to_show() -> None:
    assert break_even(PASSES[:2], 1.0) == 0.37  # (1 + a) * 10 / 13 >= 1.05
    assert break_even((10.0, 10.0), 0.0) == 0.05
    assert break_even(PASSES, 100.0) is None
    assert break_even((10.0,), 0.0) is None


def test_a_dearer_draft_has_to_be_right_more_often() -> None:
    needed = [break_even(PASSES, draft) for draft in (0.0, 1.0, 2.0, 4.0)]
    assert all(n is not None for n in needed)
    assert needed == sorted(needed, key=lambda n: n or 0.0)
    assert len(set(needed)) == len(needed)
