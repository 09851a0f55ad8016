"""One message and its answer, as the screen knows them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Event as Flag
from typing import Literal

from edgespec.chat.events import Answer, TextDelta
from edgespec.decoding.stats import Round, Stats
from edgespec.tui.baseline import ENOUGH_ROUNDS


@dataclass(slots=True)
class Turn:
    """The turn that waits for the model, runs, or was the last. The screen sets `stop` to end it."""

    text: str = ""
    state: Literal["waiting", "running", "ended"] = "waiting"
    stop: Flag = field(default_factory=Flag)
    stats: Stats = field(default_factory=Stats)
    answer: Answer | None = None
    first_ms: float | None = None
    rounds: list[Round] = field(default_factory=list[Round])
    decode: Callable[[int], bytes] = lambda _token: b""
    """The bytes of a token, as the model that answers has them."""
    note: str = ""
    """What is not known of it, and why."""
    watched: bool = False
    """Whether the screen will look for rounds by itself, without being told."""
    _arrived: deque[tuple[TextDelta, float]] = field(default_factory=deque[tuple[TextDelta, float]])

    def arrive(self, delta: TextDelta, elapsed_ms: float) -> bool:
        """From the thread that computes: a round, `elapsed_ms` after the message was sent. Whether the screen has to be
        told: a message for each of 150 rounds a second would cost it more than painting them."""
        self._arrived.append((delta, elapsed_ms))
        tell, self.watched = not self.watched, True
        return tell

    def take(self) -> Iterator[tuple[TextDelta, float]]:
        """The rounds that have come since the last time, each `elapsed_ms` after the message was sent."""
        while self._arrived:
            yield self._arrived.popleft()

    def add(self, done: Round, elapsed_ms: float) -> None:
        """Count a round that was there `elapsed_ms` after the message was sent."""
        self.stats.add(done)
        self.rounds.append(done)
        if self.first_ms is None and done.tokens:
            self.first_ms = elapsed_ms

    @property
    def reason(self) -> str:
        """Why the last round was as it was, in the controller's words."""
        choice = self.rounds[-1].choice if self.rounds else None
        return "" if choice is None else choice.reason

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token: the answer's own figure at the end, before that as the screen saw it."""
        return self.answer.ttft_ms if self.answer is not None else self.first_ms

    @property
    def telling(self) -> bool:
        """Whether there is enough to show figures of."""
        return self.stats.rounds >= ENOUGH_ROUNDS or (self.state == "ended" and self.stats.rounds > 0)

    @property
    def tokens_per_second(self) -> float | None:
        """The answer's own figure at the end; while it streams, tokens over the time of the rounds so far."""
        if self.answer is not None:
            return self.answer.tokens_per_second
        stats = self.stats
        spent_ms = stats.draft_ms + stats.verify_ms + stats.overhead_ms
        return stats.emitted / spent_ms * 1e3 if self.telling and spent_ms > 0 else None

    @property
    def time_shares(self) -> tuple[float, float, float] | None:
        """Fractions of the rounds' time spent on drafting, on verifying, and on the loop around them."""
        stats = self.stats
        spent_ms = stats.draft_ms + stats.verify_ms + stats.overhead_ms
        if not self.telling or spent_ms <= 0:
            return None
        return stats.draft_ms / spent_ms, stats.verify_ms / spent_ms, stats.overhead_ms / spent_ms
