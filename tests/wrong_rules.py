"""Accept rules that are wrong on purpose, to show that a test sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding import verify
from edgespec.decoding.sampling import Probabilities, Sampler

Row = Callable[[NDArray[np.float32], Sequence[int], int, Sampler, int | None, Probabilities | None], int]
"""verify's rule for one row."""


def without_residual(right: Row) -> Row:
    """A rejected proposal is replaced by a draw from p itself."""

    def row(
        logits: NDArray[np.float32],
        recent: Sequence[int],
        position: int,
        sampler: Sampler,
        proposed: int | None,
        q: Probabilities | None,
    ) -> int:
        if sampler.greedy or proposed is None or q is None:
            return right(logits, recent, position, sampler, proposed, q)
        p = sampler.probabilities(logits, recent)
        _, u_accept, u_draw = sampler.uniforms(position)
        # verify's own race: a test may have put another in its place.
        return (
            proposed if u_accept * q[proposed] < p[proposed] else verify.race(p, sampler.exponentials(position), u_draw)
        )

    return row
