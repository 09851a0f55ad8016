"""What is said against plain decoding stays true while the machine changes its pace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from scripted import make_round

from edgespec.decoding.stats import Round
from edgespec.tui.baseline import Baseline

PLAIN_MS, DRAFTED_MS = 10.0, 15.0
TRUE = 3 / DRAFTED_MS * PLAIN_MS
"""Rounds with a draft give 3 tokens here: twice as fast as plain ones."""


def speak(
    pace: Callable[[float], float], rounds: int, every: int = 16, start: float = 0.0
) -> Iterator[tuple[Round, float]]:
    """Rounds, every so often a plain one, and when they end, on a machine that takes `pace(seconds)` times as long."""
    at = start
    for n in range(rounds):
        plain = n % every == every // 2
        ms = (PLAIN_MS if plain else DRAFTED_MS) * pace(at)
        at += ms / 1e3
        yield replace(make_round(0, 0, 0) if plain else make_round(2, 3, 4), total_ms=ms), at


def heard(*parts: Iterator[tuple[Round, float]]) -> tuple[Baseline, float]:
    baseline, at = Baseline(), 0.0
    for part in parts:
        for done, at in part:
            baseline.add(done, at)
    return baseline, at


def true_times(rounds: int, every: int) -> float:
    plain = sum(n % every == every // 2 for n in range(rounds))
    tokens, ms = plain + 3 * (rounds - plain), plain * PLAIN_MS + (rounds - plain) * DRAFTED_MS
    return tokens * PLAIN_MS / ms


@pytest.mark.parametrize(
    "pace",
    [
        lambda at: 1.0,
        lambda at: 1.0 + at / 2,  # ever slower
        lambda at: 3.0 / (1.0 + at / 2),
        lambda at: 1.0 if at < 1.0 else 2.5,  # other programs begin
    ],
)
@pytest.mark.parametrize("every", [8, 60])
def test_a_machine_that_changes_its_pace_is_no_gain_and_no_loss(pace: Callable[[float], float], every: int) -> None:
    baseline, at = heard(speak(pace, 240, every))
    found = baseline.compare(at)
    assert found is not None
    assert found.times == pytest.approx(true_times(240, every), rel=0.03 if every == 8 else 0.1)


def test_one_plain_round_that_was_held_up_is_no_gain() -> None:
    rounds = list(speak(lambda _: 1.0, 160))
    rounds[72] = (replace(rounds[72][0], total_ms=40 * PLAIN_MS), rounds[72][1])
    assert not rounds[72][0].proposed
    baseline, at = heard(iter(rounds))
    found = baseline.compare(at)
    assert found is not None
    assert found.times == pytest.approx(true_times(160, 16), rel=0.01)
    assert found.plain == pytest.approx(1e3 / PLAIN_MS)


def test_nothing_is_said_before_there_is_enough() -> None:
    rounds = list(speak(lambda _: 1.0, 60, every=20))  # plain: 10, 30, 50
    few, at = heard(iter(rounds[:50]))
    assert few.compare(at) is None
    enough, at = heard(iter(rounds[:51]))
    found = enough.compare(at + 7)
    assert found is not None
    assert found.age == pytest.approx(7)
    plain_only, at = heard(r for r in rounds if not r[0].proposed)
    assert plain_only.compare(at) is None


def test_what_was_long_ago_is_not_compared_with_what_is_now() -> None:
    then = list(speak(lambda _: 1.0, 120, every=8))
    now = [(done, at + 600) for done, at in speak(lambda _: 9.0, 100) if done.proposed]
    baseline, at = heard(iter(then), iter(now))
    found = baseline.compare(at)
    assert found is not None
    assert found.times == pytest.approx(true_times(120, 8), rel=0.05)
    assert found.age > 599
