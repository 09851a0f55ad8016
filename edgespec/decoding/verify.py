"""The accept rule, once.

For a row with target distribution p and a proposal x from distribution q (Leviathan et al. 2023, Chen et al. 2023):

    sampled draft   accept x with probability min(1, p(x) / q(x)); else draw from norm(max(0, p - q)),
                    or from p where that is zero everywhere
    chosen draft    q is one-hot: draw from p and accept x if it is what was drawn; in a tree, whichever x it is
    greedy          accept x if it is the argmax of p

p and q are taken after every transform, with the history that the row would have. Each rule emits a token whose
distribution is p, and emits x exactly when x is accepted: so a row is one call that returns a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.protocols import Draft
from edgespec.decoding.remote import Rows, best_of, scores_of
from edgespec.decoding.sampling import PENALTY_WINDOW, Probabilities, Sampler, race
from edgespec.decoding.stats import Extra


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a pass added: `accepted` of `tested` proposals, then one token of the target's own unless the text ended.

    In a tree, the proposals of one depth are tested together, and count as one. `path`: the indexes of the accepted.
    """

    tokens: tuple[int, ...]
    tested: int
    accepted: int
    extra: Extra | None
    ended: bool
    path: tuple[int, ...]


def verify(
    draft: Draft, logits: Rows, history: Sequence[int], sampler: Sampler, ends: Callable[[int], bool]
) -> Verdict:
    """Check a draft against the target's `logits` [len(draft) + 1, vocab], whose row 0 follows `history`, and row
    i + 1 proposal i; rows that are on a device are fetched as far as they are tested, and as far as it takes.

    `ends(token)` is asked once for every emitted token, in order; True ends the text: no bonus and no tail.
    """
    recent = list(history[-PENALTY_WINDOW:])
    emitted: list[int] = []

    def emit(row: int, proposed: int | None = None, q: Probabilities | None = None) -> int:
        token = best_of(logits, row, sampler)
        if token is None:
            scores = scores_of(logits, row, sampler, recent)
            token = _row(scores, recent, len(history) + len(emitted), sampler, proposed, q)
        recent.append(token)
        emitted.append(token)
        return token

    path: list[int] = []
    last = -1
    while proposals := draft.after(last):
        first = proposals[0]
        token = emit(last + 1, draft.tokens[first], None if draft.probs is None else draft.probs[first])
        hit, ended = next((i for i in proposals if draft.tokens[i] == token), None), ends(token)
        if hit is not None:
            path.append(hit)
            last = hit
        if hit is None or ended:
            extra = "correction" if hit is None else None
            return Verdict(tuple(emitted), len(emitted), len(path), extra, ended, tuple(path))
    k = len(path)
    ended = ends(emit(last + 1))
    return Verdict(tuple(emitted), k, k, "bonus" if k else "plain", ended, tuple(path))


def _row(
    logits: NDArray[np.float32],
    recent: Sequence[int],
    position: int,
    sampler: Sampler,
    proposed: int | None,
    q: Probabilities | None,
) -> int:
    """The token of one row: `proposed` if it is accepted, the target's own otherwise."""
    if sampler.greedy:
        return sampler.argmax(logits, recent)
    _, u_accept, u_draw = sampler.uniforms(position)
    if proposed is None or q is None:
        return race(sampler.weights(logits, recent), sampler.exponentials(position), u_draw)
    p = sampler.probabilities(logits, recent)
    if u_accept * q[proposed] < p[proposed]:
        return proposed
    residual = np.maximum(p - q, 0.0)
    return race(residual if residual.any() else p, sampler.exponentials(position), u_draw)
