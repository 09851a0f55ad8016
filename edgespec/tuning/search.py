"""The search: one setting after the other, the best of each kept if it is one, and the result against what was there.

Candidates for a setting take turns, prompt by prompt, so that what disturbs the machine disturbs all alike. The last
comparison is made of new runs: the best of several noisy figures looks better than it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from statistics import median_low
from time import monotonic
from typing import Literal, Protocol

from edgespec.benchmark import Prompt
from edgespec.errors import UsageError
from edgespec.tuning.judge import SpeedUp, compare
from edgespec.tuning.worker import Candidate, CandidateError, Run

Setting = Literal["threads", "draft", "draft-max", "format"]

_FINAL_SHARE = 1.5
"""The time for the last comparison, against that for one setting."""
_LEAST_RUNS = 4
_LEAST_PAIRS, _MOST_PAIRS = 8, 48
"""Runs of each candidate for a setting; of each of the two in the last comparison."""
_RUNS = 120
"""What the time is to be enough for, roughly; long answers show more of what a drafter can do."""
_TOKENS = (16, 96)


class Runner(Protocol):
    """Runs a prompt with some settings."""

    def run(self, candidate: Candidate, prompt: Prompt, max_tokens: int) -> Run:
        """Raises: CandidateError if these settings cannot run."""
        ...


@dataclass(frozen=True, slots=True)
class Choices:
    """What may be tried: thread counts, drafts, longest drafts, and bundles of the same model in other formats."""

    threads: Sequence[int]
    drafts: Sequence[str]
    draft_max: Sequence[int]
    formats: Sequence[str]


@dataclass(frozen=True, slots=True)
class Row:
    """One value of one setting. Speeds are over the prompts, each weighing the same; `speedup` is against the value
    that was best before, which `base` says this is. `problem`: why it could not run."""

    setting: Setting
    value: str
    base: bool
    runs: int = 0
    tokens_per_second: float | None = None
    speedup: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """`before`: the settings in force. `best`: those that looked best. `gain`: of the second against the first, if they
    differ."""

    rows: Sequence[Row]
    before: Candidate
    best: Candidate
    gain: SpeedUp | None

    @property
    def better(self) -> bool:
        return self.gain is not None and self.gain.certain


@dataclass(slots=True)
class _Times:
    """Milliseconds per token: by prompt, and in the order of the runs."""

    by_prompt: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    in_order: list[float] = field(default_factory=list[float])

    def add(self, prompt: int, ms: float) -> None:
        self.by_prompt.setdefault(prompt, []).append(ms)
        self.in_order.append(ms)

    def total(self, prompts: Sequence[int]) -> float:
        """Of two runs the quicker counts: what disturbs a run makes it slower."""
        return sum(median_low(self.by_prompt[prompt]) for prompt in prompts)


class Search:
    """seconds: about how long it may take. progress: hears (what is tried, fraction 0..1 of the time)."""

    def __init__(
        self,
        runner: Runner,
        prompts: Sequence[Prompt],
        seconds: float,
        *,
        clock: Callable[[], float] = monotonic,
        progress: Callable[[str, float], None] = lambda _stage, _fraction: None,
    ) -> None:
        self._runner, self._prompts, self._clock, self._progress = runner, prompts, clock, progress
        self._seconds, self._end = seconds, clock() + seconds
        self._tokens = _TOKENS[0]
        self._rows: list[Row] = []

    def find(self, before: Candidate, choices: Choices) -> Outcome:
        """Try everything, starting from the settings `before`. Raises: UsageError if these cannot run, or no prompt
        fits the context."""
        self._size_runs(before)
        best, left = before, 4 + _FINAL_SHARE

        def until() -> float:
            nonlocal left
            now, left = self._clock(), left - 1
            return now + max(self._end - now, 0.0) / (left + 1)

        best = self._try("threads", best, [replace(best, threads=n) for n in choices.threads], until())
        best = self._try("draft", best, [replace(best, draft=name) for name in choices.drafts], until())
        longest = until()
        if best.draft != "none":
            best = self._try("draft-max", best, [replace(best, draft_max=k) for k in choices.draft_max], longest)
        self._try("format", best, [replace(best, model=name) for name in choices.formats], until())
        return Outcome(tuple(self._rows), before, best, self._confirm(before, best) if best != before else None)

    def _size_runs(self, candidate: Candidate) -> None:
        """Choose the tokens of an answer by the time that there is."""
        try:
            run = self._runner.run(candidate, self._prompts[0], _TOKENS[0])
        except CandidateError as error:
            raise UsageError(f"the settings in force cannot run ({error}), so nothing can be compared.") from error
        if run.tokens:
            self._tokens = round(min(max(self._seconds / _RUNS / (run.ms / 1e3 / run.tokens), _TOKENS[0]), _TOKENS[1]))

    def _try(self, setting: Setting, base: Candidate, others: Sequence[Candidate], until: float) -> Candidate:
        """Measure the candidates in turn until the time is up; returns the best of those that beat `base` beyond
        chance, if any: what only looks better must not be carried along by what is."""
        candidates = list(dict.fromkeys([base, *others]))
        if len(candidates) < 2:
            return base
        times, problems = self._measure(_stage(setting), candidates, until)
        common = [n for n in times[base].by_prompt if all(n in times[c].by_prompt for c in times)]
        if not common:
            raise UsageError("no prompt fits the context, so nothing can be compared.")
        totals = {candidate: times[candidate].total(common) for candidate in times}
        for candidate in candidates:
            self._rows.append(_row(setting, candidate, base, times, totals, len(common), problems))
        better = [c for c in times if compare(times[base].in_order, times[c].in_order).certain]
        return min(better, key=totals.__getitem__, default=base)

    def _measure(
        self,
        stage: str,
        candidates: Sequence[Candidate],
        until: float,
        least: int = _LEAST_RUNS,
        most: int | None = None,
    ) -> tuple[dict[Candidate, _Times], dict[Candidate, str]]:
        """Times of those that could run, and what was wrong with the others. The order turns round each time."""
        times: dict[Candidate, _Times] = {candidate: _Times() for candidate in candidates}
        problems: dict[Candidate, str] = {}
        for done in count():
            made = len(times[candidates[0]].in_order)
            tried = made >= least or done >= least + len(self._prompts)  # some prompts may not fit the context
            if tried and (self._clock() >= until or made == most):
                break
            prompt = done % len(self._prompts)
            runs: dict[Candidate, Run] = {}
            for candidate in list(times) if done % 2 == 0 else reversed(list(times)):
                self._report(stage)
                try:
                    runs[candidate] = self._runner.run(candidate, self._prompts[prompt], self._tokens)
                except CandidateError as error:
                    if candidate is candidates[0]:
                        raise UsageError(f"the settings in force cannot run ({error}).") from error
                    problems[candidate] = str(error)
                    del times[candidate]
            if all(run.tokens for run in runs.values()):
                for candidate, run in runs.items():
                    times[candidate].add(prompt, run.ms / run.tokens)
        return times, problems

    def _confirm(self, before: Candidate, best: Candidate) -> SpeedUp | None:
        """The two in turn, with new runs."""
        times, _ = self._measure("Comparing with before", [before, best], self._end, _LEAST_PAIRS, _MOST_PAIRS)
        if best not in times or len(times[best].in_order) < 2:
            return None
        return compare(times[before].in_order, times[best].in_order)

    def _report(self, stage: str) -> None:
        self._progress(stage, min(1.0 - (self._end - self._clock()) / self._seconds, 0.99))


def _stage(setting: Setting) -> str:
    names = {"threads": "numbers of threads", "draft": "drafts", "draft-max": "draft lengths", "format": "formats"}
    return f"Trying {names[setting]}"


def _row(
    setting: Setting,
    candidate: Candidate,
    base: Candidate,
    times: dict[Candidate, _Times],
    totals: dict[Candidate, float],
    prompts: int,
    problems: dict[Candidate, str],
) -> Row:
    values = {
        "threads": str(candidate.threads),
        "draft": candidate.draft,
        "draft-max": str(candidate.draft_max),
        "format": candidate.model,
    }
    if candidate not in times:
        return Row(setting, values[setting], candidate == base, problem=problems[candidate])
    return Row(
        setting,
        values[setting],
        candidate == base,
        runs=len(times[candidate].in_order),
        tokens_per_second=prompts / totals[candidate] * 1e3,
        speedup=totals[base] / totals[candidate],
    )
