"""What speculation can gain, from costs and an acceptance: Leviathan et al. 2023 (arXiv:2211.17192), section 3.3, with
measured costs in place of one that is the same for every row."""

from __future__ import annotations

from collections.abc import Sequence

WORTHWHILE = 1.05
"""A speed-up below this is lost in what is not counted: the loop, and drafts that read along without being used."""

_HIGHEST = 0.95
"""No draft is right more often for long."""


def expected_tokens(acceptance: float, k: int) -> float:
    """Tokens of a round with `k` proposals, of which each is accepted with this chance if all before it were."""
    return sum(acceptance**i for i in range(k + 1))


def best_speedup(passes: Sequence[float], draft: float, acceptance: float) -> tuple[int, float]:
    """(draft length, speed-up) where the speed-up is largest; (0, 1.0) where no draft is worth its time.

    passes: milliseconds of the target's passes of 1, 2, ... rows; the longest draft has a token less than the last of
    them has rows. draft: milliseconds of a proposal.
    """
    found = [(0, 1.0)]
    for k in range(1, len(passes)):
        ms = k * draft + passes[k]
        found.append((k, expected_tokens(acceptance, k) * passes[0] / ms))
    return max(found, key=lambda pair: pair[1])


def break_even(passes: Sequence[float], draft: float) -> float | None:
    """The acceptance from which on the speed-up is WORTHWHILE, to 0.01; None if none up to 0.95 is enough."""
    steps = round(_HIGHEST * 100)
    enough = (n / 100 for n in range(steps + 1) if best_speedup(passes, draft, n / 100)[1] >= WORTHWHILE)
    return next(enough, None)
