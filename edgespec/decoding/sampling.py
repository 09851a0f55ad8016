"""From logits to a token: penalties, temperature, top-k, top-p, min-p, and randomness that belongs to a position."""

from __future__ import annotations

import math
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b, shake_128

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding import ranges
from edgespec.errors import GenerationError

Probabilities = NDArray[np.float64]
"""A distribution over the vocabulary, float64 [vocab], summing to 1."""

LANES = 128
"""In a race, token t runs in lane t modulo this."""
PENALTY_WINDOW = 64
"""How many of the last tokens the repeat penalty looks at (llama.cpp's repeat_last_n)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is taken from the target's distribution. Temperature 0 is greedy: the most probable token.

    The transforms apply in this order: repeat penalty (Keskar et al. 2019), temperature, top-k, top-p (Holtzman et
    al. 2020), min-p (Nguyen et al. 2024). top_k 0, top_p 1, min_p 0 and repeat_penalty 1 switch theirs off. `seed`
    None draws a new seed for every answer. UsageError for a value out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        ranges.TEMPERATURE.require("temperature", self.temperature)
        ranges.TOP_K.require("top-k", self.top_k)
        ranges.TOP_P.require("top-p", self.top_p)
        ranges.MIN_P.require("min-p", self.min_p)
        ranges.REPEAT_PENALTY.require("repeat penalty", self.repeat_penalty)
        ranges.SEED.require("seed", self.seed or 0)


_TOGETHER, _REMEMBERED = 8, 4
"""Positions whose exponential numbers are made at once, and how many such blocks are kept: whoever proposes asks for
them before they draw."""
_BITS = 52
"""Of each of these numbers: with a half more, what a float64 holds."""
_NEAR = 1 / 64
"""Of the largest probability: tokens over this part of it are put in order."""
_BLOCK = 256
_masked_may_overflow = np.errstate(over="ignore")
"""Some graphs mask tokens with the lowest float32: that a transform makes -Inf of it is no fault."""


class Sampler:
    """One answer's sampling: settings plus a seed."""

    def __init__(self, settings: Sampling) -> None:
        self.settings = settings
        seed = secrets.randbits(64) if settings.seed is None else settings.seed
        self._key = seed.to_bytes(8, "little")
        self._scratch = np.empty(0, np.float32)
        self._times: dict[int, NDArray[np.float64]] = {}  # of a block of positions

    @property
    def greedy(self) -> bool:
        return self.settings.temperature == 0.0

    def uniforms(self, position: int) -> tuple[float, float, float]:
        """The three random numbers in [0, 1) of a position: to draw a proposal, to accept it, to draw a token from its
        lane.

        They are a keyed hash of the position (a counter-based generator, Salmon et al. 2011), so nothing that is
        proposed, rejected or aborted can move the randomness of what is emitted later.
        """
        digest = blake2b(position.to_bytes(8, "little"), digest_size=24, key=self._key).digest()
        draft, accept, draw = (bits >> 11 for bits in struct.unpack("<3Q", digest))
        return draft * 2.0**-53, accept * 2.0**-53, draw * 2.0**-53

    def exponentials(self, position: int) -> NDArray[np.float64]:
        """The exponential random numbers of a position, one for each lane of its race, float64 [LANES], above 0. As
        `uniforms`, they are a keyed hash."""
        block, place = divmod(position, _TOGETHER)
        if block not in self._times:
            digest = shake_128(self._key + block.to_bytes(8, "little")).digest(8 * _TOGETHER * LANES)
            bits = np.frombuffer(digest, "<u8").reshape(_TOGETHER, LANES) >> np.uint64(64 - _BITS)
            if len(self._times) == _REMEMBERED:
                self._times.clear()
            self._times[block] = _BITS * math.log(2.0) - np.log(bits + 0.5)
        return self._times[block][place]

    @_masked_may_overflow
    def argmax(self, logits: NDArray[np.float32], recent: Sequence[int]) -> int:
        """The most probable token after penalties; the lowest id among equals. logits: float32 [vocab]."""
        scores = self.penalized(logits, recent)
        best = int(scores.argmax())
        require_usable(float(scores[best]))
        return best

    def probabilities(self, logits: NDArray[np.float32], recent: Sequence[int]) -> Probabilities:
        """The distribution after every transform. logits: float32 [vocab], of the position behind the `recent` tokens,
        of which the penalty sees the last PENALTY_WINDOW."""
        weights = self.weights(logits, recent).astype(np.float64)
        weights /= weights.sum()
        return weights

    @_masked_may_overflow
    def weights(self, logits: NDArray[np.float32], recent: Sequence[int]) -> NDArray[np.floating]:
        """`probabilities` of any scale, [vocab], valid until the next call: enough to draw from, and cheaper over a
        large vocabulary."""
        s = self.settings
        scores = self.penalized(logits, recent)
        peak = scores.max()
        require_usable(float(peak))
        kept = np.argpartition(scores, -s.top_k)[-s.top_k :] if 0 < s.top_k < scores.size else None
        weights: NDArray[np.floating] = self._over(peak, scores if kept is None else scores[kept])
        weights /= np.float32(s.temperature)
        np.exp(weights, out=weights)
        if s.top_p < 1.0:
            weights = _nucleus(weights.astype(np.float64) / weights.sum(dtype=np.float64), s.top_p)
        if s.min_p > 0.0:
            weights[weights < s.min_p * weights.max()] = 0.0
        if kept is None:
            return weights
        full = np.zeros(scores.size, weights.dtype)
        full[kept] = weights
        return full

    def _over(self, peak: np.float32, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """scores - peak, in memory that is there already: behind a pass, new memory takes longer than arithmetic."""
        if self._scratch.size != scores.size:
            self._scratch = np.empty_like(scores)
        return np.subtract(scores, peak, out=self._scratch)

    def penalized(self, logits: NDArray[np.float32], recent: Sequence[int]) -> NDArray[np.float32]:
        """The logits after the repeat penalty, float32 [vocab]."""
        penalty = self.settings.repeat_penalty
        if penalty == 1.0:
            return logits
        seen = np.asarray(recent[-PENALTY_WINDOW:], dtype=np.int64)
        scores = logits.copy()
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
        return scores


def race(p: NDArray[np.floating], times: NDArray[np.float64], u: float) -> int:
    """A token drawn from `p` (of any scale) by exponential `times`, a number for each lane, and `u` in [0, 1): the lane
    whose number, divided by what its tokens have together, is the smallest, and in it the token that `u` draws.

    This is the Gumbel-max trick (Gumbel 1954): a lane comes first as often as its part of `p` is large. Whoever knows
    `times` and guesses a distribution near `p` names the same token far more often than one that was drawn apart
    (Daliri et al. 2024, arXiv:2408.07978).
    """
    rows = p.size // LANES
    lanes = p[: rows * LANES].reshape(rows, LANES).sum(axis=0)
    lanes[: p.size - rows * LANES] += p[rows * LANES :]
    first = int((lanes / lanes.max() / times).argmax())
    return first + LANES * draw(p[first::LANES], u)


def draw(p: NDArray[np.floating], u: float) -> int:
    """The token at which the cumulative sum of `p` (of any scale), likeliest first, passes its part `u` in [0, 1):
    inverse transform sampling, never a token of probability 0.

    Most draws end with the likeliest, and need no cumulative sum; tokens far less likely than that come last, in the
    order of their ids, and need not be sorted.
    """
    best = int(p.argmax())
    peak, value = float(p[best]), u * float(p.sum())
    if value < peak:
        return best
    near = np.flatnonzero(p > peak * _NEAR)
    order = near[np.argsort(-p[near], kind="stable")]
    sums = np.cumsum(p[order], dtype=np.float64)
    if value < sums[-1]:
        return int(order[np.searchsorted(sums, value, side="right")])
    far = p.copy()
    far[near] = 0.0
    return _by_id(far, value - float(sums[-1])) if far.any() else int(order[-1])


def _by_id(p: NDArray[np.floating], value: float) -> int:
    """The token at which the cumulative sum of `p` passes `value`."""
    # Sums of blocks first: a cumulative sum over a large vocabulary costs more than the rest of sampling.
    block, rest = _locate(np.cumsum(np.add.reduceat(p, _block_starts(p.size), dtype=np.float64)), value)
    start = block * _BLOCK
    index, _ = _locate(np.cumsum(p[start : start + _BLOCK], dtype=np.float64), rest)
    return start + index


@cache
def _block_starts(size: int) -> NDArray[np.int64]:
    return np.arange(0, size, _BLOCK)


def _locate(cumulative: NDArray[np.float64], value: float) -> tuple[int, float]:
    """The first index whose cumulative sum is above `value`, and how far `value` reaches into it."""
    value = min(value, math.nextafter(float(cumulative[-1]), 0.0))  # rounding may carry it to the end or past it
    index = int(np.searchsorted(cumulative, value, side="right"))
    return index, value - (float(cumulative[index - 1]) if index else 0.0)


def _nucleus(p: Probabilities, top_p: float) -> Probabilities:
    """The smallest set of the most probable tokens that holds at least `top_p`, renormalized."""
    # All tokens under (1 - top_p) / n together hold less than 1 - top_p, so none of them is in: sort the others only.
    few = np.flatnonzero(p >= (1.0 - top_p) / p.size)
    order = few[np.argsort(-p[few], kind="stable")]
    size = int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1
    kept = np.zeros_like(p)
    kept[order[:size]] = p[order[:size]]
    return kept / kept.sum()


def require_usable(peak: float) -> None:
    """Raises: GenerationError if a row whose largest score is `peak` says nothing."""
    # argmax and max put NaN first, so one look at the winner finds NaN, +Inf and a row that is all -Inf.
    if not math.isfinite(peak):
        raise GenerationError(
            f"The model returned unusable scores ({peak}); run `edgespec verify`, then `edgespec doctor`."
        )
