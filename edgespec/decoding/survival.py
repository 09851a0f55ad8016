"""How often proposals are accepted, learnt while it changes."""

from __future__ import annotations

from math import sqrt

_KEEP = 0.97
"""How much of what was learnt is left after another try."""
_FADE = 0.01
"""How much of it is forgotten with a chance that was not taken."""
_HOPE = 0.2
"""Standard errors by which what is little known is believed to be better than it looks."""


class Acceptance:
    """The chance of a Bernoulli trial that changes: a mean that begins at what is usual, and forgets. usual: believed
    as much as `known` tries.

    Who goes by the mean alone never learns that what he gave up got better. So `chance` is optimistic, and the more so
    the less is known (upper confidence bounds, discounted: Garivier & Moulines 2011, arXiv:0805.3415); and while it is
    not tried, what was learnt gives way to what is usual.
    """

    __slots__ = ("_hits", "_known", "_tries", "_usual", "chance")

    def __init__(self, usual: float, known: float) -> None:
        self._usual, self._known = usual, known
        self._hits, self._tries = usual * known, known
        self.chance = 0.0
        self._weigh()

    def update(self, hit: bool) -> None:
        self._hits = self._hits * _KEEP + hit
        self._tries = self._tries * _KEEP + 1.0
        self._weigh()

    def let_pass(self) -> None:
        """It could have been proposed, and was not."""
        self._hits += (self._usual * self._known - self._hits) * _FADE
        self._tries += (self._known - self._tries) * _FADE
        self._weigh()

    def _weigh(self) -> None:
        mean = self._hits / self._tries
        self.chance = min(mean + _HOPE * sqrt(mean * (1.0 - mean) / self._tries), 1.0)
