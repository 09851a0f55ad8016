"""Costs: between what was measured, kept and read back, and followed while the machine changes."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from edgespec.decoding.costs import Costs, DraftCost, LiveCosts
from edgespec.errors import UsageError

COSTS = Costs(
    contexts=(100, 1100),
    passes=((10.0, 12.0, 14.0, 16.0), (20.0, 23.0, 26.0, 29.0)),
    lone=(11.0, 22.0),
    drafts={"ngram": DraftCost(0.05), "draft": DraftCost(1.0, 2.0, 0.5)},
)


def test_costs_lie_on_a_line_through_the_two_contexts() -> None:
    assert COSTS.k_max == 3
    assert COSTS.at(100, exact=False) == [10.0, 12.0, 14.0, 16.0]
    assert COSTS.at(1100, exact=False) == [20.0, 23.0, 26.0, 29.0]
    assert COSTS.at(600, exact=False) == [15.0, 17.5, 20.0, 22.5]
    assert COSTS.at(2100, exact=False) == [30.0, 34.0, 38.0, 42.0]
    assert COSTS.at(0, exact=False) == pytest.approx([9.0, 10.9, 12.8, 14.7])


def test_in_exact_mode_a_lone_row_costs_what_exact_mode_makes_of_it() -> None:
    assert COSTS.at(100, exact=True) == [11.0, 12.0, 14.0, 16.0]
    assert COSTS.at(600, exact=True) == [16.5, 17.5, 20.0, 22.5]


def test_noise_between_the_contexts_makes_no_pass_free() -> None:
    odd = Costs((100, 200), ((10.0, 12.0), (2.0, 3.0)), (10.0, 2.0), {})
    assert min(odd.at(100_000, exact=False)) >= 5.0
    assert min(odd.at(0, exact=True)) >= 5.0


def test_json_gives_the_same_costs_back() -> None:
    assert Costs.from_json(json.loads(json.dumps(COSTS.to_json()))) == COSTS


def _without(key: str) -> Any:
    return {name: value for name, value in COSTS.to_json().items() if name != key}


def _with(**entries: Any) -> Any:
    return {**copy.deepcopy(COSTS.to_json()), **entries}


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        None,
        [1, 2],
        "costs",
        *(_without(key) for key in ("contexts", "passes", "lone", "drafts")),
        _with(contexts=[100]),
        _with(contexts=[100, "far"]),
        _with(contexts=[1100, 100]),
        _with(contexts=[-5, 100]),
        _with(passes=[[10.0, 12.0], [20.0]]),
        _with(passes=[[], []]),
        _with(passes=[[10.0, 0.0], [20.0, 20.0]]),
        _with(passes=[[10.0, float("nan")], [20.0, 20.0]]),
        _with(passes=[[10.0, float("inf")], [20.0, 20.0]]),
        _with(passes=[[10.0, "12"], [20.0, None]]),
        _with(lone=[11.0, -1.0]),
        _with(lone=11.0),
        _with(drafts=["ngram"]),
        _with(drafts={"ngram": 0.05}),
        _with(drafts={"ngram": {}}),
        _with(drafts={"ngram": {"fixed": "cheap"}}),
        _with(drafts={"ngram": {"fixed": -1.0}}),
        _with(drafts={"ngram": {"fixed": float("nan")}}),
        _with(drafts={"ngram": {"fixed": 0.05, "token": 1e9}}),
        _with(drafts={"ngram": {"fixed": 0.05, "colour": 1.0}}),
    ],
    ids=str,
)
def test_damaged_costs_are_refused(damaged: Any) -> None:
    with pytest.raises(UsageError, match="damaged"):
        Costs.from_json(damaged)


def follow(live: LiveCosts, slower: dict[int, float], rounds: int = 400, length: int = 100) -> None:
    """Rounds of 1 to 4 rows in turn that take so many times what was measured."""
    for n in range(rounds):
        rows = 1 + n % 4
        live.saw_pass(length, rows, COSTS.at(length, exact=False)[rows - 1] * slower.get(rows, slower[0]))


def test_before_any_round_costs_are_what_was_measured() -> None:
    live = LiveCosts(COSTS, exact=True)
    assert list(live.passes(110)) == pytest.approx(COSTS.at(110, exact=True), rel=0.02)
    assert live.draft("draft", 3, lag=4) == 1.0 + 3 * 2.0 + 4 * 0.5
    assert live.draft("ngram", 8) == 0.05


@pytest.mark.parametrize("pace", [0.7, 1.5, 2.9])
def test_a_machine_that_is_slower_as_a_whole_changes_nothing_but_its_pace(pace: float) -> None:
    live = LiveCosts(COSTS, exact=False)
    follow(live, {0: pace})
    assert live.pace == pytest.approx(pace, rel=0.05)
    assert list(live.passes(100)) == pytest.approx(COSTS.at(100, exact=False), rel=0.03)


def test_a_draft_on_a_slower_machine_costs_what_it_did() -> None:
    live = LiveCosts(COSTS, exact=False)
    for _ in range(400):
        follow(live, {0: 2.0}, rounds=4)
        live.saw_draft("draft", 2, 0, 2.0 * 5.0)
    assert live.draft("draft", 2) == pytest.approx(5.0, rel=0.05)


def test_passes_of_several_rows_that_became_dearer_are_followed() -> None:
    live = LiveCosts(COSTS, exact=False)
    follow(live, {0: 1.6, 1: 1.0})
    before = COSTS.at(100, exact=False)
    assert live.passes(100)[0] == pytest.approx(before[0])
    assert list(live.passes(100))[1:] == pytest.approx([1.6 * ms for ms in before[1:]], rel=0.05)
    follow(live, {0: 1.0})
    assert list(live.passes(100)) == pytest.approx(before, rel=0.05)


def test_what_was_learnt_at_one_context_holds_at_another() -> None:
    live = LiveCosts(COSTS, exact=False)
    follow(live, {0: 1.6, 1: 1.0})
    assert list(live.passes(1100))[1:] == pytest.approx([1.6 * ms for ms in (23.0, 26.0, 29.0)], rel=0.08)


def test_a_drafter_that_became_dearer_is_followed_and_no_other() -> None:
    live = LiveCosts(COSTS, exact=False)
    for _ in range(100):
        live.saw_draft("draft", 2, 0, 3.0 * 5.0)
    assert live.draft("draft", 2) == pytest.approx(15.0, rel=0.05)
    assert live.draft("ngram", 2) == 0.05


def test_one_round_that_the_machine_slept_through_changes_little() -> None:
    live = LiveCosts(COSTS, exact=False)
    follow(live, {0: 1.0})
    live.saw_pass(100, 1, 1e6)
    live.saw_pass(100, 3, 1e6)
    live.saw_draft("draft", 2, 0, 1e6)
    assert live.pace < 1.5
    assert list(live.passes(100)) == pytest.approx(COSTS.at(100, exact=False), rel=0.25)
    assert live.draft("draft", 2) < 1.3 * 5.0


def test_rows_beyond_what_was_measured_are_not_learnt_from() -> None:
    live = LiveCosts(COSTS, exact=False)
    for _ in range(50):
        live.saw_pass(100, 5, 1e6)
    assert live.pace == 1.0
    assert list(live.passes(100)) == COSTS.at(100, exact=False)
