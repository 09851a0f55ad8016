"""Who proposed, how well, and where in an answer: what the totals of a run do not say."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgespec.decoding.stats import Round, Stats

STRIDE = 8
"""Tokens of an answer that are counted together."""


@dataclass(slots=True)
class Trace:
    """The rounds of many answers by the arm that was chosen.

    arms: what its rounds did. tokens: how many tokens they added at each STRIDE of an answer.
    """

    arms: dict[str, Stats] = field(default_factory=dict[str, Stats])
    tokens: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    def add(self, position: int, r: Round) -> None:
        """Count a round whose first token is the answer's token `position`, from 0."""
        self.arms.setdefault(r.arm, Stats()).add(r)
        for i in range(position, position + len(r.tokens)):
            self._count(r.arm, i // STRIDE, 1)

    def merge(self, other: Trace) -> None:
        for arm, stats in other.arms.items():
            self.arms.setdefault(arm, Stats()).merge(stats)
        for arm, counts in other.tokens.items():
            for stride, count in enumerate(counts):
                self._count(arm, stride, count)

    def _count(self, arm: str, stride: int, count: int) -> None:
        counts = self.tokens.setdefault(arm, [])
        counts.extend([0] * (stride + 1 - len(counts)))
        counts[stride] += count
