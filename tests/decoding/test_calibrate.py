"""Measuring costs on a machine whose clock only passes and proposals move."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fakes import TableModel, random_table, silent

from edgespec.decoding.calibrate import measure_costs
from edgespec.decoding.costs import DraftCost
from edgespec.decoding.drafters.draft_model import DraftModelDrafter
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.protocols import Draft, Logits, Worth, always
from edgespec.decoding.sampling import Sampler
from edgespec.errors import ContextFullError, GenerationError

TABLE = random_table(8, seed=0)
K = 4


class Clock:
    """Seconds. Every `hiccup`th thing that takes time takes a second more."""

    def __init__(self, hiccup: int | None = None) -> None:
        self.now = 0.0
        self._things, self._hiccup = 0, hiccup

    def __call__(self) -> float:
        return self.now

    def take(self, ms: float) -> None:
        self._things += 1
        self.now += ms / 1e3
        if self._hiccup and self._things % self._hiccup == 0:
            self.now += 1.0


class TimedModel(TableModel):
    """A pass takes `base` milliseconds, `row` for each row, and 1 for each 100 positions before it; the lone row of
    exact mode half a millisecond more than another one."""

    def __init__(self, clock: Clock, *, base: float = 10.0, row: float = 2.0, context_length: int = 200) -> None:
        super().__init__(TABLE, context_length=context_length)
        self._clock, self._base, self._row = clock, base, row

    def forward(self, ids: Sequence[int], rows: int | None = None) -> Logits:
        self._clock.take(self._base + self._row * len(ids) + self.length / 100)
        return super().forward(ids, rows)

    def forward_exact(self, token: int) -> Logits:
        self._clock.take(0.5)
        return self.forward([token])


class SlowLookup(NgramDrafter):
    """Takes a third of a millisecond, whatever it proposes."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        self._clock.take(1 / 3)
        return super().propose(history, k, sampler, worth)


def test_passes_are_timed_by_rows_at_two_context_lengths() -> None:
    clock = Clock()
    costs = measure_costs(TimedModel(clock), [], k_max=K, clock=clock)
    short, long = costs.contexts
    assert (short, long) == (97, 194)  # as far apart as the context of 200 has room for
    assert costs.k_max == K
    for length, passes, lone in zip(costs.contexts, costs.passes, costs.lone, strict=True):
        assert passes == pytest.approx([10.0 + 2.0 * rows + length / 100 for rows in range(1, K + 2)])
        assert lone == pytest.approx(12.5 + length / 100)


def test_a_long_context_is_measured_where_answers_are_made() -> None:
    clock = Clock()
    costs = measure_costs(TimedModel(clock, context_length=4096), [], k_max=K, clock=clock)
    assert costs.contexts == (128, 1024)


def test_what_disturbs_the_machine_now_and_then_is_not_measured() -> None:
    quiet, disturbed = Clock(), Clock(hiccup=11)
    ours = measure_costs(TimedModel(disturbed), [], k_max=K, seconds=1e3, clock=disturbed)
    theirs = measure_costs(TimedModel(quiet), [], k_max=K, clock=quiet)
    for found, expected in zip(ours.passes, theirs.passes, strict=True):
        assert found == pytest.approx(expected)


def test_a_draft_model_is_timed_by_token_and_by_what_it_has_to_read() -> None:
    clock = Clock()
    small = TimedModel(clock, base=1.0, row=0.25)
    costs = measure_costs(TimedModel(clock), [DraftModelDrafter(small)], k_max=K, clock=clock)
    cost = costs.drafts["draft"]
    step = 1.0 + 0.25 + costs.contexts[0] / 100
    assert cost.token == pytest.approx(step, rel=0.03)  # the context grows while it proposes
    assert cost.fixed == pytest.approx(0.0, abs=0.05)
    assert cost.lag == pytest.approx(0.25, rel=0.05)


def test_a_lookup_costs_the_same_however_long_its_draft_is() -> None:
    clock = Clock()
    costs = measure_costs(TimedModel(clock), [SlowLookup(clock)], k_max=K, clock=clock)
    cost = costs.drafts["ngram"]
    assert (cost.fixed, cost.token, cost.lag) == (pytest.approx(1 / 3), pytest.approx(0.0), 0.0)


def test_every_drafter_is_measured_and_one_that_is_silent_costs_nothing() -> None:
    clock = Clock()
    drafters = [SlowLookup(clock), silent(), DraftModelDrafter(TimedModel(clock, base=1.0))]
    costs = measure_costs(TimedModel(clock), drafters, k_max=K, clock=clock)
    assert list(costs.drafts) == ["ngram", "silent", "draft"]
    assert costs.drafts["silent"] == DraftCost(0.0)


def test_it_takes_about_as_long_as_it_may() -> None:
    def took(seconds: float, base: float) -> float:
        clock = Clock()
        measure_costs(TimedModel(clock, base=base), [], k_max=K, seconds=seconds, clock=clock)
        return clock.now

    assert took(3.0, base=20.0) < 4.0
    assert took(30.0, base=20.0) < 10.0  # more repetitions would tell nothing new
    assert took(0.0, base=200.0) == pytest.approx(took(0.1, base=200.0))  # and fewer too little


def test_caches_are_empty_afterwards_and_progress_ends() -> None:
    clock = Clock()
    model, small = TimedModel(clock), TimedModel(clock, base=1.0)
    shares: list[float] = []
    measure_costs(model, [DraftModelDrafter(small)], k_max=K, clock=clock, progress=shares.append)
    assert (model.length, small.length) == (0, 0)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("context_length", [7, 8, 16])
def test_the_smallest_contexts_will_do(context_length: int) -> None:
    clock = Clock()
    model = TimedModel(clock, context_length=context_length)
    costs = measure_costs(model, [NgramDrafter()], k_max=K, clock=clock)
    assert costs.contexts[0] < costs.contexts[1] < context_length
    assert max(p.past + len(p.ids) for p in model.passes) <= context_length


def test_a_context_without_room_and_a_pass_that_fails_are_told() -> None:
    clock = Clock()
    with pytest.raises(ContextFullError):
        measure_costs(TimedModel(clock, context_length=4), [], k_max=K, clock=clock)
    with pytest.raises(GenerationError):
        measure_costs(TableModel(TABLE, context_length=200, fails_at=[3]), [], k_max=K, clock=clock)
