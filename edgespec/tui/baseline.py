"""Against plain decoding: each round is compared with the plain ones before and after it, so that a machine's change of
pace changes both."""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edgespec.decoding.stats import Round

ENOUGH_ROUNDS = 3
"""Before that many rounds a figure says more about chance than about the model."""

_RECENT = 256
"""Rounds that are looked back on. The controller sees to at least three plain ones among them."""

_NEAR_SECONDS = 30.0
"""A round with no plain one so near is not compared."""


@dataclass(frozen=True, slots=True)
class AgainstPlain:
    """times: how many times as fast as plain decoding. plain: its tokens per second. age: seconds since the last plain
    round."""

    times: float
    plain: float
    age: float


class Baseline:
    """The latest rounds of a chat, over all its answers."""

    def __init__(self) -> None:
        self._rounds: deque[tuple[float, Round]] = deque(maxlen=_RECENT)

    def add(self, done: Round, at: float) -> None:
        """Count a round that ended `at`, in seconds of a clock that is never set."""
        if done.total_ms > 0:
            self._rounds.append((at, done))

    def compare(self, now: float) -> AgainstPlain | None:
        """How the latest rounds between two plain ones did; None while there are too few, or none of a kind."""
        plain = [(at, done.total_ms) for at, done in self._rounds if not done.proposed]
        if len(plain) < ENOUGH_ROUNDS:
            return None
        times, costs = [at for at, _ in plain], _undisturbed([ms for _, ms in plain])
        tokens, spent, plainly, drafted = 0, 0.0, 0.0, 0
        for at, done in self._rounds:
            n = min(bisect(times, at), len(times) - 1)
            since, apart = at - times[n - 1], times[n] - times[n - 1]
            if n == 0 or not apart or since > apart or min(since, apart - since) > _NEAR_SECONDS:
                continue
            cost = costs[n - 1] + since / apart * (costs[n] - costs[n - 1])
            tokens += len(done.tokens)
            plainly += len(done.tokens) * cost
            spent += done.total_ms if done.proposed else cost
            drafted += bool(done.proposed)
        if drafted < ENOUGH_ROUNDS:
            return None
        return AgainstPlain(plainly / spent, tokens / plainly * 1e3, now - times[-1])


def _undisturbed(costs: Sequence[float]) -> list[float]:
    """What held up a single plain round was not plain decoding: none takes longer than both of those beside it."""
    return [min(ms, max((*costs[max(i - 1, 0) : i], *costs[i + 1 : i + 2]))) for i, ms in enumerate(costs)]
