"""Prompt lookup: what followed the last time these tokens stood in the prompt or the conversation (Saxena 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgespec.decoding.protocols import Draft
from edgespec.decoding.sampling import Sampler

MAX_MATCH = 5
"""Tokens. A longer match says hardly more."""

FLOOR = 0.15
"""The least chance that a whole draft is accepted; found on real answers of the default model (docs/benchmarks.md)."""

_PRIOR = (0.10, 0.25, 0.45, 0.55, 0.75)
_PRIOR_TRIES = 8.0
"""What acceptance after a match of 1..MAX_MATCH tokens usually is, believed as much as so many tries."""

_KEEP = 0.98
"""How much of what was learnt is left after another try."""


@dataclass(slots=True)
class _Rate:
    """Acceptance after a match of some length: a Bernoulli mean that starts at the usual and forgets slowly."""

    hits: float
    tries: float

    def update(self, hit: bool) -> None:
        self.hits = self.hits * _KEEP + hit
        self.tries = self.tries * _KEEP + 1.0

    def recover(self, usual: float) -> None:
        """Not proposed, so nothing was learnt: what was, fades."""
        self.hits += (usual * self.tries - self.hits) * (1.0 - _KEEP)

    @property
    def mean(self) -> float:
        return self.hits / self.tries


class NgramDrafter:
    """Proposes the continuation of the most recent place where the longest suffix of the history stood before.

    The further back the match agrees, the likelier the continuation: acceptance is learnt per match length, and the
    draft ends where the chance that all of it is accepted falls under `floor`. Chosen, not sampled: q is one-hot.
    Costs microseconds: one vectorized comparison of the whole history. capacity: the longest history, in tokens.
    """

    def __init__(self, capacity: int, *, floor: float = FLOOR) -> None:
        self.name = "ngram"
        self._tokens = np.zeros(capacity, dtype=np.int64)
        self._length = 0
        self._floor = floor
        self._match = 0
        self._rates = [_Rate(p * _PRIOR_TRIES, _PRIOR_TRIES) for p in _PRIOR]

    def propose(self, history: Sequence[int], k: int, sampler: Sampler) -> Draft:
        self._tokens[self._length : len(history)] = history[self._length :]
        self._length = len(history)
        self._match, start = self._longest_match()
        if not self._match:
            return Draft()
        k = self._worthwhile(k)
        draft = self._tokens[start : min(start + k, self._length)].tolist()
        while len(draft) < k:  # the match overlaps the end: the text repeats itself, so does the draft
            draft.append(draft[len(draft) - (self._length - start)])
        return Draft(tuple(draft))

    def observe(self, tested: int, accepted: int) -> None:
        for i in range(tested):
            self._rate(i).update(i < accepted)

    def rewind(self, length: int) -> None:
        self._length = min(self._length, length)

    def _longest_match(self) -> tuple[int, int]:
        """(how many of the last tokens stood before, at most MAX_MATCH; where their continuation begins)."""
        tokens, last = self._tokens, self._length - 1
        ends = np.flatnonzero(tokens[:last] == tokens[last])
        match, found = 0, -1
        while ends.size:
            match, found = match + 1, int(ends[-1])
            if match == MAX_MATCH:
                break
            ends = ends[ends >= match]
            ends = ends[tokens[ends - match] == tokens[last - match]]
        return match, found + 1

    def _rate(self, position: int) -> _Rate:
        """Acceptance at a position of the draft once all before it are accepted: the match is longer by those."""
        return self._rates[min(self._match + position, MAX_MATCH) - 1]

    def _worthwhile(self, k: int) -> int:
        survival = 1.0
        for i in range(k):
            survival *= self._rate(i).mean
            if survival < self._floor:
                if i == 0:
                    self._rate(0).recover(_PRIOR[self._match - 1])
                return i
        return k
