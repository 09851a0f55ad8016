"""What the numbers that say how an answer is made may be. Apart from `sampling`, so that a setting can be judged
without waiting for NumPy."""

from __future__ import annotations

from dataclasses import dataclass

from edgespec.errors import UsageError


@dataclass(frozen=True, slots=True)
class Range:
    """`low` to `high`, both included, and `off`. `words`: how a person says it."""

    low: float
    high: float
    words: str
    off: float | None = None

    def __contains__(self, value: float) -> bool:
        return value == self.off or self.low <= value <= self.high  # false for NaN too

    def require(self, name: str, value: float) -> None:
        """Raises: UsageError."""
        if value not in self:
            raise UsageError(f"{name} cannot be {value}; it must be {self.words}.")


TEMPERATURE = Range(1e-3, 1e3, "0 (greedy) or 0.001 to 1000", off=0.0)
TOP_K = Range(0, 10**6, "0 (off) to 1000000")
TOP_P = Range(1e-6, 1.0, "0.000001 to 1")
MIN_P = Range(0.0, 1.0, "between 0 and 1")
REPEAT_PENALTY = Range(0.01, 100.0, "0.01 to 100")
SEED = Range(0, 2**64 - 1, "between 0 and 2^64-1")
MAX_TOKENS = Range(1, 10**9, "1 or more")
CONTEXT = Range(16, 10**9, "16 or more, and no more than the model knows")
THREADS = Range(1, 256, "between 1 and 256")
