"""What happened in a round, and the counters over many, named as onnxruntime-genai names them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Literal

Extra = Literal["plain", "correction", "bonus"]
"""Where a round's last token came from when it was not an accepted proposal: from a pass without proposals, from the
target in place of a rejected proposal, or from the target after every proposal was accepted."""

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a round was expected to bring when it was decided on.

    `tokens` expected, the target's own counted, for `cost` in plain passes (draft and verification). `instead`: what
    was turned down for a plain round, with the figures it would have had. `note`: why it was, if not for those.
    """

    arm: str
    tokens: float
    cost: float
    instead: Choice | None = None
    note: str = ""

    @property
    def reason(self) -> str:
        """Why, in a few words."""
        if self.arm != "plain":
            return f"{self.arm}: {self.tokens:.1f} tokens expected for {self.cost:.1f} passes"
        if self.instead is None:
            return "plain: nothing to propose"
        if self.note:
            return f"plain: {self.note}"
        gain, cost = self.instead.tokens - 1.0, self.instead.cost - 1.0
        return f"plain: {self.instead.arm} would add {gain:.2f} tokens for {cost:.2f} passes"


@dataclass(frozen=True, slots=True)
class Round:
    """One propose + verify. `tokens` are those it added to the answer: `accepted` proposals, then `extra` if any.

    `tested` proposals were compared with the target; those behind a rejection or an end of text were not.
    `arm` is who proposed, or "plain"; `choice` why, if a controller chose. Times are milliseconds: `draft_ms` for the
    draft, deciding on it included, `verify_ms` in the target's pass, `total_ms` in all.
    """

    tokens: tuple[int, ...]
    proposed: tuple[int, ...]
    tested: int
    accepted: int
    extra: Extra | None
    arm: str
    draft_ms: float
    verify_ms: float
    total_ms: float
    finish: FinishReason | None = None
    choice: Choice | None = None

    @property
    def marks(self) -> str:
        """A letter for each of `tokens`: "a" for an accepted proposal, else the first letter of `extra`."""
        accepted = min(self.accepted, len(self.tokens))
        return "a" * accepted + (self.extra or "plain")[0] * (len(self.tokens) - accepted)

    @property
    def overhead_ms(self) -> float:
        return self.total_ms - self.draft_ms - self.verify_ms


@dataclass(slots=True)
class PositionStats:
    """How often the proposal at one position of a draft was tested, and accepted."""

    tested: int = 0
    accepted: int = 0


@dataclass(slots=True)
class Stats:
    """Counters over the rounds of an answer, or of many answers."""

    rounds: int = 0
    plain_rounds: int = 0
    proposed: int = 0
    tested: int = 0
    accepted: int = 0
    corrections: int = 0
    bonus: int = 0
    plain: int = 0
    emitted: int = 0
    per_position: list[PositionStats] = field(default_factory=list[PositionStats])
    arms: Counter[str] = field(default_factory=Counter[str])
    draft_ms: float = 0.0
    verify_ms: float = 0.0
    overhead_ms: float = 0.0

    def add(self, r: Round) -> None:
        self.rounds += 1
        self.plain_rounds += not r.proposed
        self.proposed += len(r.proposed)
        self.tested += r.tested
        self.accepted += r.accepted
        self.corrections += r.extra == "correction"
        self.bonus += r.extra == "bonus"
        self.plain += r.extra == "plain"
        self.emitted += len(r.tokens)
        while len(self.per_position) < r.tested:
            self.per_position.append(PositionStats())
        for i in range(r.tested):
            self.per_position[i].tested += 1
            self.per_position[i].accepted += i < r.accepted
        self.arms[r.arm] += 1
        self.draft_ms += r.draft_ms
        self.verify_ms += r.verify_ms
        self.overhead_ms += r.overhead_ms

    def merge(self, other: Stats) -> None:
        """Add the counters of another answer."""
        for f in fields(self):
            if f.name not in ("per_position", "arms"):
                setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        self.arms.update(other.arms)
        while len(self.per_position) < len(other.per_position):
            self.per_position.append(PositionStats())
        for mine, theirs in zip(self.per_position, other.per_position, strict=False):
            mine.tested += theirs.tested
            mine.accepted += theirs.accepted

    @property
    def acceptance(self) -> float | None:
        """Accepted / tested proposals; None before any was tested."""
        return self.accepted / self.tested if self.tested else None

    @property
    def tokens_per_round(self) -> float | None:
        """Tokens per round, corrections and bonus tokens counted; None before the first round."""
        return self.emitted / self.rounds if self.rounds else None
