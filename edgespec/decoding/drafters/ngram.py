"""Prompt lookup: what followed the last time these tokens stood in the prompt or the conversation (Saxena 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.protocols import Draft, Worth, always
from edgespec.decoding.sampling import Sampler

MAX_MATCH = 8
"""Tokens. A longer match says hardly more."""
_WITNESSES = 2
"""Other places that are asked whether they go on in the same way."""
_DISAGREE, _ALONE, _AGREE = range(3)

USUAL = (
    *(0.15, 0.33, 0.63),
    *(0.34, 0.63, 0.79),
    *(0.34, 0.65, 0.79),
    *(0.36, 0.71, 0.84),
    *(0.37, 0.77, 0.83),
    *(0.37, 0.81, 0.89),
    *(0.37, 0.81, 0.95),
    *(0.48, 0.88, 0.98),
)
"""How often a proposal is accepted: a row for each length of match, 1 to MAX_MATCH; in it, other places where the same
tokens stood go on otherwise, there are none, or they go on in the same way (docs/benchmarks.md)."""


_LOOK_BACK = 64
"""Places. Those further back are not asked for other continuations."""


class NgramDrafter:
    """Proposes the continuation of the most recent place where the longest suffix of the history stood before.

    Evidence of a proposal, as an index into USUAL: how many tokens agree before it, and whether the most recent other
    places go on in the same way: those with as long a match or, where there are none, with one that is a token shorter.
    Chosen, not sampled: q is one-hot. Costs microseconds: one vectorized comparison of the whole history. capacity: the
    longest history, in tokens.
    """

    name = "ngram"
    usual = USUAL
    upfront = True

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, dtype=np.int64)
        self._length = 0

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        self._read(history)
        match, places = self._places()
        if not match or k < 1:
            return Draft()
        source, *witnesses = places
        draft = self._tokens[source : min(source + k, self._length)].tolist()
        agreement = self._agreement(draft, witnesses)
        while len(draft) < k:  # the match overlaps the end: the text repeats itself, so does the draft
            draft.append(draft[len(draft) - (self._length - source)])
        # Once a proposal is accepted the match is longer by it.
        evidence = [3 * (min(match + i, MAX_MATCH) - 1) + agreement[min(i, len(agreement) - 1)] for i in range(k)]
        return Draft(tuple(draft), evidence=tuple(evidence))

    def followers(self, history: Sequence[int], count: int) -> list[int]:
        """At most `count` different tokens that followed the last tokens where they stood before: those of the longer
        matches first, and of these the latest."""
        self._read(history)
        found: dict[int, None] = {}
        for ends in reversed(self._levels()):
            for token in self._tokens[ends[: -_LOOK_BACK - 1 : -1] + 1].tolist():
                found.setdefault(token)
                if len(found) == count:
                    return list(found)
        return list(found)

    def lag(self, length: int) -> int:
        return 0

    def rewind(self, length: int) -> None:
        self._length = min(self._length, length)

    def _places(self) -> tuple[int, list[int]]:
        """(how many of the last tokens stood before, at most MAX_MATCH; where they were followed by what: the most
        recent place first, then the witnesses)."""
        levels = self._levels()
        if not levels:
            return 0, []
        longest, shorter = levels[-1], levels[-2:][0]
        source = int(longest[-1])
        others = longest[-1 - _WITNESSES : -1] if longest.size > 1 else shorter[shorter != source][-_WITNESSES:]
        return len(levels), [source + 1, *(int(end) + 1 for end in others)]

    def _levels(self) -> list[NDArray[np.int64]]:
        """Where the last 1, 2, ... tokens ended before: as many as did anywhere, at most MAX_MATCH."""
        tokens, last = self._tokens, self._length - 1
        levels: list[NDArray[np.int64]] = []
        ends = np.flatnonzero(tokens[:last] == tokens[last])
        while ends.size and len(levels) < MAX_MATCH:
            levels.append(ends)
            ends = ends[ends >= len(levels)]
            ends = ends[tokens[ends - len(levels)] == tokens[last - len(levels)]]
        return levels

    def _read(self, history: Sequence[int]) -> None:
        self._tokens[self._length : len(history)] = history[self._length :]
        self._length = len(history)

    def _agreement(self, draft: Sequence[int], witnesses: Sequence[int]) -> list[int]:
        """For each proposal, what the witnesses say that have agreed with all before it."""
        heard = [self._tokens[place : min(place + len(draft), self._length)].tolist() for place in witnesses]
        found: list[int] = []
        for i, token in enumerate(draft):
            heard = [text for text in heard if i < len(text)]
            if not heard:
                return found + [_ALONE] * (len(draft) - i)
            agreeing = [text for text in heard if text[i] == token]
            found.append(_AGREE if len(agreeing) == len(heard) else _DISAGREE)
            heard = agreeing
        return found
