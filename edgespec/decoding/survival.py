"""How often proposals are accepted, learnt while it changes."""

from __future__ import annotations

_KEEP = 0.98
"""How much of what was learnt is left after another try."""
_PRIOR_TRIES = 4.0
"""What is usual is believed as much as so many tries."""
_FIRST_WAIT, _LONGEST_WAIT = 16, 1024
"""Chances to propose that are let pass before what did not pay is tried again; doubled each time it fails again."""
_HOPE = 0.6
"""What is believed, at least, of something that is tried again."""


class Acceptance:
    """A Bernoulli mean that starts at what is usual and forgets slowly. What does not pay is not proposed, and so
    nothing would ever be learnt about it again: it gets another try now and then, ever more seldom."""

    __slots__ = ("_hits", "_passed", "_tries", "_wait", "mean")

    def __init__(self, usual: float) -> None:
        self._hits, self._tries = usual * _PRIOR_TRIES, _PRIOR_TRIES
        self._passed, self._wait = 0, _FIRST_WAIT
        self.mean = usual

    def update(self, hit: bool) -> None:
        self._hits = self._hits * _KEEP + hit
        self._tries = self._tries * _KEEP + 1.0
        self.mean = self._hits / self._tries
        if self._passed >= self._wait:
            self._passed = 0
            self._wait = _FIRST_WAIT if hit else min(2 * self._wait, _LONGEST_WAIT)

    def let_pass(self) -> None:
        """It could have been proposed, and was not."""
        self._passed += 1

    @property
    def due(self) -> bool:
        """Whether it is time for another try."""
        return self._passed >= self._wait

    @property
    def hoped(self) -> float:
        return max(self.mean, _HOPE)
