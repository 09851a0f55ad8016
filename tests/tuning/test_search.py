"""The search over a machine whose speed is a formula, and whose clock moves with its runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgespec.benchmark import Prompt
from edgespec.errors import UsageError
from edgespec.tuning.judge import SpeedUp
from edgespec.tuning.search import Choices, Outcome, Search
from edgespec.tuning.worker import Candidate, CandidateError, Run

BEFORE = Candidate("model", threads=2, draft="ngram", draft_max=8)
CHOICES = Choices(threads=(1, 2, 4), drafts=("none", "ngram", "small"), draft_max=(4, 8, 12), formats=("model-int4",))
PROMPTS = [Prompt(str(n), "qa", ("a question",)) for n in range(5)]
Cost = Callable[[Candidate, int], float]


def cost(candidate: Candidate, prompt: int) -> float:
    """Milliseconds per token; best with 4 threads, the small draft, 4 tokens long."""
    base = 10.0 + prompt
    base *= {1: 1.6, 2: 1.0, 4: 0.8}[candidate.threads]
    base *= {"none": 1.2, "ngram": 1.0, "small": 0.7}[candidate.draft]
    base *= {4: 0.9, 8: 1.0, 12: 1.3}[candidate.draft_max]
    return base * {"model": 1.0, "model-int4": 0.5}[candidate.model]


class Machine:
    """A Runner with `noise`, as a share of the time, that is the same for every run of the program."""

    def __init__(self, cost: Cost = cost, noise: float = 0.02, seed: int = 0) -> None:
        self.now = 0.0
        self.ran: list[tuple[Candidate, str, int]] = []
        self._cost, self._noise, self._rng = cost, noise, np.random.default_rng(seed)

    def run(self, candidate: Candidate, prompt: Prompt, max_tokens: int) -> Run:
        self.ran.append((candidate, prompt.question_id, max_tokens))
        ms = max_tokens * self._cost(candidate, int(prompt.question_id))
        ms *= float(np.exp(self._rng.normal(0.0, self._noise)))
        self.now += ms / 1e3
        return Run(max_tokens, ms)


def search(machine: Machine, seconds: float = 120.0, choices: Choices = CHOICES) -> Outcome:
    return Search(machine, PROMPTS, seconds, clock=lambda: machine.now).find(BEFORE, choices)


def test_the_best_of_each_setting_is_found_and_confirmed() -> None:
    outcome = search(Machine())
    assert outcome.best == Candidate("model", 4, "small", 4)
    assert outcome.better
    assert outcome.gain is not None
    assert outcome.gain.mean == pytest.approx(1 / (0.8 * 0.7 * 0.9), rel=0.03)
    shown = {(row.setting, row.value): row for row in outcome.rows}
    assert list(shown) == [
        *(("threads", n) for n in ("2", "1", "4")),
        *(("draft", name) for name in ("ngram", "none", "small")),
        *(("draft-max", k) for k in ("8", "4", "12")),
        *(("format", name) for name in ("model", "model-int4")),
    ]
    assert [row.value for row in outcome.rows if row.base] == ["2", "ngram", "8", "model"]
    assert shown["threads", "1"].speedup == pytest.approx(1 / 1.6, rel=0.05)
    per_prompt = np.mean([cost(BEFORE, n) for n in range(5)])
    assert shown["threads", "2"].tokens_per_second == pytest.approx(1e3 / per_prompt, rel=0.05)


def test_another_format_is_shown_but_never_chosen_because_it_says_other_things() -> None:
    outcome = search(Machine())
    assert outcome.best.model == "model"
    assert outcome.rows[-1].speedup == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("seed", range(20))
def test_where_nothing_makes_a_difference_nothing_is_changed(seed: int) -> None:
    outcome = search(Machine(lambda candidate, prompt: 10.0 + prompt, noise=0.1, seed=seed))
    assert not outcome.better


def test_a_gain_smaller_than_the_noise_is_not_believed() -> None:
    def barely(candidate: Candidate, prompt: int) -> float:
        return 10.0 * (0.97 if candidate.threads == 4 else 1.0)

    outcome = search(Machine(barely, noise=0.5, seed=3))
    assert not outcome.better


def test_what_was_lucky_in_the_search_has_to_win_again() -> None:
    """Runs are quick for one candidate until the last comparison begins."""
    machine = Machine(noise=0.0)

    def lucky(candidate: Candidate, prompt: int) -> float:
        return 5.0 if candidate.threads == 4 and machine.now < 60.0 else 10.0

    machine._cost = lucky
    outcome = search(machine)
    assert outcome.best.threads == 4
    assert outcome.gain is not None
    assert not outcome.better


def test_a_run_that_the_machine_slept_through_decides_nothing() -> None:
    machine = Machine(noise=0.01)

    def asleep(candidate: Candidate, prompt: int) -> float:
        return 10.0 * (5.0 if len(machine.ran) == 2 else 1.0)  # the first run of what is in force

    machine._cost = asleep
    outcome = Search(machine, PROMPTS[:1], 120.0, clock=lambda: machine.now).find(BEFORE, CHOICES)
    assert outcome.best == BEFORE
    threads = [row.speedup for row in outcome.rows if row.setting == "threads"]
    assert threads == pytest.approx([1.0, 1.0, 1.0], rel=0.05)


@pytest.mark.parametrize("seed", range(10))
def test_a_choice_that_is_noise_is_not_carried_along_by_one_that_is_not(seed: int) -> None:
    def cost(candidate: Candidate, prompt: int) -> float:
        return 10.0 if candidate.threads == 4 else 20.0

    outcome = search(Machine(cost, noise=0.1, seed=seed))
    assert outcome.best == Candidate("model", 4, "ngram", 8)
    assert outcome.better


def test_candidates_take_turns_on_the_same_prompts() -> None:
    machine = Machine()
    search(machine)
    threads = [(c.threads, prompt) for c, prompt, _ in machine.ran[1:7]]
    assert threads == [(2, "0"), (1, "0"), (4, "0"), (4, "1"), (1, "1"), (2, "1")]


@pytest.mark.parametrize("seconds", [30.0, 120.0, 600.0])
def test_the_time_is_kept_to(seconds: float) -> None:
    machine = Machine()
    stages: list[tuple[str, float]] = []
    Search(
        machine, PROMPTS, seconds, clock=lambda: machine.now, progress=lambda stage, done: stages.append((stage, done))
    ).find(BEFORE, CHOICES)
    assert machine.now < 1.1 * seconds
    assert list(dict.fromkeys(stage for stage, _ in stages)) == [
        *("Trying numbers of threads", "Trying drafts", "Trying draft lengths", "Trying formats"),
        "Comparing with before",
    ]
    fractions = [done for _, done in stages]
    assert fractions == sorted(fractions)
    assert fractions[-1] < 1.0


def test_a_slow_model_gets_short_answers_and_still_every_comparison() -> None:
    machine = Machine(lambda candidate, prompt: 20 * cost(candidate, prompt))
    outcome = search(machine, seconds=60.0)
    assert {tokens for *_, tokens in machine.ran} == {16}
    assert all(row.runs >= 4 for row in outcome.rows)
    assert outcome.gain is not None
    assert outcome.gain.pairs >= 8
    assert outcome.better


def test_what_cannot_run_is_named_and_left_out() -> None:
    def run(candidate: Candidate, prompt: int) -> float:
        if candidate.draft == "small":
            raise CandidateError("its tokenizer differs")
        return cost(candidate, prompt)

    outcome = search(Machine(run))
    (row,) = [row for row in outcome.rows if row.value == "small"]
    assert (row.problem, row.speedup, row.runs) == ("its tokenizer differs", None, 0)
    assert outcome.best == Candidate("model", 4, "ngram", 4)
    assert outcome.better


def test_settings_in_force_that_cannot_run_end_it() -> None:
    def run(candidate: Candidate, prompt: int) -> float:
        raise CandidateError("its process ended")

    with pytest.raises(UsageError, match=r"settings in force cannot run \(its process ended\)"):
        search(Machine(run))


def test_prompts_that_do_not_fit_are_left_out() -> None:
    class Narrow(Machine):
        def __init__(self, too_long: str) -> None:
            super().__init__()
            self._too_long = too_long

        def run(self, candidate: Candidate, prompt: Prompt, max_tokens: int) -> Run:
            run = super().run(candidate, prompt, max_tokens)
            return Run(0, 0.0) if prompt.question_id in self._too_long else run

    assert search(Narrow("03")).best == Candidate("model", 4, "small", 4)
    with pytest.raises(UsageError, match="no prompt fits the context"):
        search(Narrow("01234"))


def test_without_a_draft_its_length_is_not_tried() -> None:
    def alone(candidate: Candidate, prompt: int) -> float:
        return 5.0 if candidate.draft == "none" else 10.0

    outcome = search(Machine(alone))
    assert outcome.best.draft == "none"
    assert "draft-max" not in {row.setting for row in outcome.rows}


def test_with_nothing_to_choose_nothing_is_run_but_once() -> None:
    machine = Machine()
    outcome = search(machine, choices=Choices((2,), (), (), ()))
    assert (outcome.rows, outcome.gain, outcome.better) == ((), None, False)
    assert len(machine.ran) == 1


def test_an_uncertain_gain_is_no_gain() -> None:
    assert not Outcome((), BEFORE, BEFORE, SpeedUp(1.2, 0.98, 1.5, 8)).better
