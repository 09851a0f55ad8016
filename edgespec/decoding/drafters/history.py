"""Lookup in earlier answers: what followed there behind the last tokens, by vote of the latest places.

The idea is suffix decoding's (Oliaro et al. 2024): how much the places agree says more of a proposal's chance than
how long the match is. Hash chains stand in for its suffix tree: they take less memory, and appending is a sort.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.protocols import Draft, Worth, always
from edgespec.decoding.sampling import Sampler

CONTEXTS: Final = (8, 4, 2)
"""Tokens that are looked up, the longest that is found first (docs/decisions/0011-history.md has what was tried)."""
CAPACITY: Final = 1 << 20
"""Tokens of a corpus; with its index it takes 28 MB when it is full."""
BREAK: Final = -1
"""Stands between two texts in place of a token."""

_VOTERS = 8
_SLOT_BITS = 20
FACTORS: Final = tuple(pow(0x9E3779B97F4A7C15, 2 * i + 1, 1 << 64) for i in range(CONTEXTS[0]))
"""A context's hash, modulo 2 ** 64, is the sum of its tokens times these, from its last token on."""
_SLOT_SHIFT = 64 - _SLOT_BITS

Ids = NDArray[np.int32]


class Corpus:
    """Texts as token ids, and for the contexts behind which each token stands, where they stood before.

    Holds the latest `capacity` tokens at most: when it is full, the older half goes.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._ids: Ids = np.zeros(capacity, np.int32)
        self._length = 0
        # A place is the index of the token behind a context; 0 is none, for nothing stands before the first token.
        self._latest = {n: np.zeros(1 << _SLOT_BITS, np.int32) for n in CONTEXTS}
        self._before = {n: np.zeros(capacity, np.int32) for n in CONTEXTS}

    @property
    def ids(self) -> Ids:
        """All texts, each with BREAK behind it."""
        return self._ids[: self._length]

    def append(self, texts: Sequence[int] | Ids) -> None:
        """Add a text, or some with BREAK between them."""
        capacity = len(self._ids)
        new = np.append(np.asarray(texts, np.int32), np.int32(BREAK))[-capacity:]
        start = self._length
        if start + len(new) > capacity:
            kept = self.ids[start - min(start, capacity // 2, capacity - len(new)) :].copy()
            self._ids[: len(kept)] = kept
            self._length = len(kept)
            start = 0
            for n in CONTEXTS:
                self._latest[n][:] = 0
        self._ids[self._length : self._length + len(new)] = new
        self._length += len(new)
        self._index(start)

    def places(self, last: Sequence[int]) -> tuple[int, list[int]]:
        """How many of the `last` tokens stood before, as far as CONTEXTS tells; and where, in `ids`, the latest places
        go on, the latest first. (0, []) if they did nowhere."""
        sums, total = [0], 0
        for token, factor in zip(reversed(last[-CONTEXTS[0] :]), FACTORS, strict=False):
            total += token * factor
            sums.append(total)
        for n in CONTEXTS:
            if n < len(sums) and (found := self._follow(n, last, (sums[n] & (1 << 64) - 1) >> _SLOT_SHIFT)):
                return n, found
        return 0, []

    def run(self, place: int, k: int) -> list[int]:
        """At most `k` tokens from a place to the end of its text."""
        run: list[int] = self._ids[place : min(place + k, self._length)].tolist()
        return run[: run.index(BREAK)] if BREAK in run else run

    def _follow(self, n: int, last: Sequence[int], slot: int) -> list[int]:
        context, before = list(last[-n:]), self._before[n]
        place, found = int(self._latest[n][slot]), list[int]()
        for _ in range(2 * _VOTERS):  # other contexts may share the slot
            if not place or len(found) == _VOTERS:
                break
            if self._ids[place - n : place].tolist() == context:
                found.append(place)
            place = int(before[place])
        return found

    def _index(self, start: int) -> None:
        """Enter the places from `start` on into the chains."""
        hashes = np.zeros(self._length - start, np.uint64)
        for n, factor in enumerate(FACTORS, 1):
            first = max(start, n)
            if first >= self._length:
                break
            tokens = self._ids[first - n : self._length - n].astype(np.uint64)
            hashes = hashes[len(hashes) - len(tokens) :] + tokens * np.uint64(factor)
            if n in CONTEXTS:
                self._chain(n, (hashes >> np.uint64(_SLOT_SHIFT)).astype(np.int64), np.arange(first, self._length))

    def _chain(self, n: int, slots: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        # Sorted as one number, a slot's places stand together, in their order: faster than a stable argsort.
        keys = np.sort(slots << 32 | places)
        slots, places = keys >> 32, keys & 0xFFFFFFFF
        first = np.append(True, slots[1:] != slots[:-1])
        self._before[n][places] = np.where(first, self._latest[n][slots], np.append(0, places[:-1]))
        last = np.append(first[1:], True)
        self._latest[n][slots[last]] = places[last]


class HistoryDrafter:
    """Proposes what most of the latest places in `corpus` say, as long as they say anything.

    The evidence of a proposal: how far the places that said all before it agree on it, and whether the match before it
    is as long as the longest context. Chosen, not sampled: q is one-hot. Costs 10 to 30 microseconds.
    """

    name = "history"
    usual = (0.12, 0.3, 0.5, 0.75, 0.1, 0.45, 0.8, 0.95)
    upfront = True

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        match, places = self.corpus.places(history[-CONTEXTS[0] :])
        runs = [self.corpus.run(place, k) for place in places]
        tokens: list[int] = []
        evidence: list[int] = []
        while runs := [run for run in runs if len(run) > len(tokens)]:
            said = [run[len(tokens)] for run in runs]
            token = max(dict.fromkeys(said), key=said.count)  # the latest among equals
            runs = [run for run, other in zip(runs, said, strict=True) if other == token]
            evidence.append(_agreement(len(runs), len(said)) + 4 * (match + len(tokens) >= CONTEXTS[0]))
            tokens.append(token)
        return Draft(tuple(tokens), evidence=tuple(evidence))

    def lag(self, length: int) -> int:
        return 0

    def rewind(self, length: int) -> None:
        """Keeps nothing of the conversation that runs."""


def _agreement(votes: int, voters: int) -> int:
    """0: less than half. 1: half and more, or one alone. 2: all of two or three. 3: all of four and more."""
    if votes == voters > 1:
        return 2 if voters < 4 else 3
    return int(2 * votes >= voters)
