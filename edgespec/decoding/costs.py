"""What passes and proposals cost on this machine: measured once, then followed while answers are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgespec.errors import UsageError

_PACE = 0.1
_PLAIN = 0.3
_SHARE = 0.1
"""How much of a new observation is believed: of any pass, of how quick the machine is just now; of a plain pass, of
what others are compared with; and of what those take beside it."""
_SHARED = 0.05
"""What it says of passes with other numbers of rows: what makes one dear makes others dear too."""
_COMPARABLE = 8
"""Passes behind a plain one that are compared with it: later the machine may be quicker or slower."""
_OUTLIER = 3.0
"""A time further off than this factor says that the machine did something else meanwhile."""
_GRAIN = 64
"""Positions. Costs are interpolated anew when the context has grown by so much."""


@dataclass(frozen=True, slots=True)
class DraftCost:
    """Milliseconds of a proposal: `fixed` for any, `token` for each token of it, `lag` for each committed token that
    must be read first."""

    fixed: float
    token: float = 0.0
    lag: float = 0.0


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured. Times are medians in milliseconds.

    contexts: two rising context lengths. passes: for each, a pass of 1, 2, ... rows. lone: for each, the single row of
    exact mode. drafts: by the drafter's name.
    """

    contexts: tuple[int, int]
    passes: tuple[tuple[float, ...], tuple[float, ...]]
    lone: tuple[float, float]
    drafts: Mapping[str, DraftCost]

    @property
    def k_max(self) -> int:
        return len(self.passes[0]) - 1

    def at(self, length: int, *, exact: bool) -> list[float]:
        """Passes of 1, 2, ... rows behind `length` positions, between or beyond the two that were measured."""
        short, long = self.contexts
        share = max((length - short) / max(long - short, 1), -1.0)
        lone = self.lone if exact else (self.passes[0][0], self.passes[1][0])
        pairs = [lone, *zip(self.passes[0][1:], self.passes[1][1:], strict=True)]
        return [max(a + (b - a) * share, 0.5 * a) for a, b in pairs]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "drafts": {name: asdict(cost) for name, cost in self.drafts.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Costs:
        """Raises: UsageError for what `to_json` did not write."""
        try:
            found = cls(
                contexts=(int(value["contexts"][0]), int(value["contexts"][1])),
                passes=(tuple(map(float, value["passes"][0])), tuple(map(float, value["passes"][1]))),
                lone=(float(value["lone"][0]), float(value["lone"][1])),
                drafts={
                    str(name): DraftCost(**{part: float(ms) for part, ms in cost.items()})
                    for name, cost in value["drafts"].items()
                },
            )
            times = [*found.passes[0], *found.passes[1], *found.lone]
            parts = [ms for cost in found.drafts.values() for ms in (cost.fixed, cost.token, cost.lag)]
            if not found.passes[0] or len(found.passes[0]) != len(found.passes[1]):
                raise ValueError("not as many passes at both contexts")
            if not 0 <= found.contexts[0] < found.contexts[1]:
                raise ValueError("contexts out of order")
            if not (all(0.0 < t < 1e7 for t in times) and all(0.0 <= t < 1e7 for t in parts)):
                raise ValueError("times out of range")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise UsageError("the measured costs are damaged; they have to be measured again") from error
        return found


class LiveCosts:
    """Measured costs, corrected by what rounds really take. Only ratios between costs matter to those who choose, so
    the pace of the whole machine is followed apart, and taken out."""

    def __init__(self, measured: Costs, *, exact: bool) -> None:
        self._measured, self._exact = measured, exact
        self.pace = 1.0
        """How much slower the machine is now than when it was measured."""
        self._plain, self._since_plain = 1.0, _COMPARABLE
        self._rows = [1.0] * (measured.k_max + 1)
        self._drafts = dict.fromkeys(measured.drafts, 1.0)
        self._grain = -1
        self._passes: list[float] = []

    def passes(self, length: int) -> Sequence[float]:
        """Milliseconds at the measured pace of a pass of 1, 2, ... rows behind `length` positions."""
        grain = length // _GRAIN
        if grain != self._grain:
            base = self._measured.at(length, exact=self._exact)
            self._grain, self._passes = grain, [t * r for t, r in zip(base, self._rows, strict=True)]
        return self._passes

    def draft(self, name: str, k: int, lag: float = 0.0) -> float:
        """Milliseconds, likewise, of a proposal of `k` tokens by a drafter that lags by so many."""
        cost = self._measured.drafts[name]
        return (cost.fixed + cost.token * k + cost.lag * lag) * self._drafts[name]

    def saw_pass(self, length: int, rows: int, ms: float) -> None:
        if rows > len(self._rows):
            return
        ratio = self._ratio(ms, self.passes(length)[rows - 1])
        self.pace += _PACE * (ratio - self.pace)
        if rows == 1:
            self._plain += _PLAIN * (ratio - self._plain)
            self._since_plain = 0
        elif self._since_plain < _COMPARABLE:
            self._since_plain += 1
            off = ratio / self._plain - 1.0
            for i in range(1, len(self._rows)):
                self._rows[i] *= 1.0 + (_SHARE if i == rows - 1 else _SHARED) * off
            self._grain = -1

    def saw_draft(self, name: str, k: int, lag: int, ms: float) -> None:
        expected = self.draft(name, k, lag)
        if expected > 0.0:
            self._drafts[name] *= 1.0 + _SHARE * (self._ratio(ms, expected) / self.pace - 1.0)

    def _ratio(self, ms: float, expected: float) -> float:
        return min(max(ms / expected, self.pace / _OUTLIER), self.pace * _OUTLIER)
