"""Logits that stay on a device: of a row, only what a sampler can tell apart from the whole is fetched.

A row whose other scores are -Inf is as good as the whole row

    greedy, no penalty    with the likeliest token alone, the lowest id among equals
    greedy                if the likeliest after penalties is above the lowest score fetched
    top-k                 if the k-th likeliest after penalties is above the next one, and above the lowest fetched
    min-p without top-p   if the lowest score fetched is too unlikely to be kept

because no token that was not fetched scores higher than the lowest that was, and a penalty of 1 or more makes none
likelier. Everything else, a sum over the whole vocabulary above all, takes the whole row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.protocols import CausalLM, Logits
from edgespec.decoding.sampling import PENALTY_WINDOW, Sampler, require_usable

_MIN_P_COUNT: Final = 128
"""Tokens fetched where min-p alone says how many are kept: seldom are more."""
_ROUNDING: Final = 0.99


class RemoteLogits(Protocol):
    """Rows of a pass, valid until the next. NaN counts as +Inf, so that nothing passes it over."""

    @property
    def vocab_size(self) -> int: ...

    def best(self, row: int) -> tuple[int, float]:
        """The likeliest token of a row, the lowest id among equals, and its score."""
        ...

    def top(self, row: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The `count` likeliest tokens of a row and their scores, falling; int64 and float32 [count]."""
        ...

    def whole(self, row: int) -> NDArray[np.float32]:
        """float32 [vocab]."""
        ...


Rows = Logits | RemoteLogits


class RemoteLM(CausalLM, Protocol):
    """A language model whose logits may stay on a device."""

    def forward_rows(self, ids: Sequence[int], rows: int, lone: bool) -> Rows:
        """As `forward`, or, for a `lone` id, as `forward_exact`, but without fetching anything."""
        ...


def takes_rows(model: CausalLM) -> TypeGuard[RemoteLM]:
    """Whether its logits may stay on a device. Asked in every round; `isinstance` would look at all of a protocol."""
    return hasattr(model, "forward_rows")


def best_of(rows: Rows, row: int, sampler: Sampler) -> int | None:
    """The token of a row on a device, where `sampler` takes the likeliest as it is; None where it needs scores.

    Raises: GenerationError if the scores are unusable.
    """
    if isinstance(rows, np.ndarray) or not sampler.greedy or sampler.settings.repeat_penalty != 1.0:
        return None
    token, score = rows.best(row)
    require_usable(score)
    return token


def scores_of(rows: Rows, row: int, sampler: Sampler, recent: Sequence[int]) -> NDArray[np.float32]:
    """A row's scores as far as `sampler` can tell, float32 [vocab], of the position behind the `recent` tokens."""
    if isinstance(rows, np.ndarray):
        return rows[row]
    count = _count(sampler)
    if 0 < count < rows.vocab_size:
        ids, top = rows.top(row, count)
        scores = _sparse(rows.vocab_size, ids, top)
        if _decides(sampler, sampler.penalized(scores, recent)[ids], float(top[-1])):
            return scores
    return rows.whole(row)


def _count(sampler: Sampler) -> int:
    """How many of the likeliest tokens are likely to decide; 0 if only all of them do."""
    s = sampler.settings
    if s.repeat_penalty < 1.0:
        return 0
    unpenalized = PENALTY_WINDOW if s.repeat_penalty > 1.0 else 0
    if sampler.greedy or s.top_k:
        return (1 if sampler.greedy else s.top_k) + 1 + unpenalized
    return _MIN_P_COUNT if s.min_p > 0.0 and s.top_p == 1.0 else 0


def _decides(sampler: Sampler, penalized: NDArray[np.float32], lowest: float) -> bool:
    """Whether the tokens with these scores are all that can be drawn. lowest: of their scores before penalties."""
    s = sampler.settings
    if sampler.greedy:
        return float(penalized.max()) > lowest  # the lowest id among equals is taken, and all of them are here
    if s.top_k:
        following, last = np.sort(penalized)[-s.top_k - 1 :][:2]
        return bool(last > max(following, lowest))  # which of equals at the edge are kept, only the whole row tells
    gap = (lowest - float(penalized.max())) / s.temperature
    return math.exp(min(gap, 0.0)) < s.min_p * _ROUNDING


def _sparse(size: int, ids: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    row = np.full(size, -np.inf, np.float32)
    row[ids] = scores
    return row
