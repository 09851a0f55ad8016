"""Prompt lookup: what followed the last time these tokens stood in the prompt or the conversation (Saxena 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgespec.decoding.protocols import Draft, Worth, always
from edgespec.decoding.sampling import Sampler

MAX_MATCH = 5
"""Tokens. A longer match says hardly more."""

USUAL = (0.10, 0.25, 0.45, 0.55, 0.75)
"""How often the continuation of a match of 1..MAX_MATCH tokens is accepted (docs/benchmarks.md)."""


class NgramDrafter:
    """Proposes the continuation of the most recent place where the longest suffix of the history stood before.

    The further back the match agrees, the likelier the continuation: the evidence of a proposal is the length of the
    match before it, less 1. Chosen, not sampled: q is one-hot. Costs microseconds: one vectorized comparison of the
    whole history. capacity: the longest history, in tokens.
    """

    name = "ngram"
    usual = USUAL
    upfront = True

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, dtype=np.int64)
        self._length = 0

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        self._tokens[self._length : len(history)] = history[self._length :]
        self._length = len(history)
        match, start = self._longest_match()
        if not match:
            return Draft()
        draft = self._tokens[start : min(start + k, self._length)].tolist()
        while len(draft) < k:  # the match overlaps the end: the text repeats itself, so does the draft
            draft.append(draft[len(draft) - (self._length - start)])
        # Once a proposal is accepted the match is longer by it.
        return Draft(tuple(draft), evidence=tuple([min(match + i, MAX_MATCH) - 1 for i in range(k)]))

    def lag(self, length: int) -> int:
        return 0

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
