"""A static table of what the target says behind n tokens: a language model of n-grams that backs off.

The idea is as old as prompt lookup's (Saxena 2023), with the target's own text in place of the prompt: for contexts of
1 to 8 tokens, the token that the target, asked at each place where the context stood, gave the most probability.
Whoever builds one (export/ngram_table.py) leaves out what shorter contexts say as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.drafters.history import FACTORS
from edgespec.decoding.protocols import Draft, Worth, always
from edgespec.decoding.sampling import Sampler
from edgespec.errors import ModelError

ORDERS: Final = (1, 2, 3, 4, 5, 6, 8)
"""Tokens of a context; the longest that is found decides."""
CLASS_EDGES: Final = (0.1, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.92, 0.97)
"""Between the classes of evidence: how often an entry is right on text that the target wrote unasked."""

_USUAL = (0.08, 0.12, 0.15, 0.21, 0.3, 0.37, 0.45, 0.54, 0.59, 0.78, 0.8, 0.96)
"""In answers to others' questions, entries are right less often than that (docs/decisions/0023-table.md)."""
_HOPELESS = 0.1
"""The chance that all proposals so far are right, under which no longer draft is worth its row anywhere."""
_MASK = (1 << 64) - 1
_TAG_BITS, _TOKEN_BITS = 32, 24

Slots = NDArray[np.uint64]
"""A hash table with open addressing, uint64 [a power of two]: from the lowest bit, 24 bits of a token, 8 of its class
counted from 1, and 32 of the context's key. 0 is an empty slot."""
Keys = NDArray[np.uint64]


def context_keys(tokens: NDArray[np.integer], n: int) -> Keys:
    """The keys of the contexts of `n` tokens that end at each place from the n-th on: uint64 [..., T - n + 1], for
    tokens [..., T]."""
    end = tokens.shape[-1] - n + 1
    keys = np.zeros((*tokens.shape[:-1], end), np.uint64)
    for i, factor in enumerate(FACTORS[:n]):
        keys += (tokens[..., n - 1 - i : n - 1 - i + end].astype(np.uint64) + np.uint64(1)) * np.uint64(factor)
    return keys


def fill(keys: Keys, tokens: NDArray[np.int64], classes: NDArray[np.int64], bits: int) -> Slots:
    """A table of 2 ** `bits` slots, more than there are entries. keys, tokens, classes: [entries], keys unique."""
    slots = np.zeros(1 << bits, np.uint64)
    places = (keys >> np.uint64(64 - bits)).astype(np.int64)
    entries = keys << np.uint64(_TAG_BITS) | ((classes + 1) << _TOKEN_BITS | tokens).astype(np.uint64)
    while places.size:
        free = np.flatnonzero(slots[places] == 0)
        _, first = np.unique(places[free], return_index=True)
        placed = free[first]
        slots[places[placed]] = entries[placed]
        places, entries = np.delete(places, placed), np.delete(entries, placed)
        places = (places + 1) & (len(slots) - 1)
    return slots


def read_table(path: Path) -> Slots:
    """The table in a .npy file, mapped. Raises: ModelError if it is no such file."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{path} cannot be read as a table of n-grams: {error}") from error


class NgramTableDrafter:
    """Proposes what a table says, token by token. Chosen, not sampled: q is one-hot. Costs 10 to 40 microseconds.

    slots: read where it lies, so that it may be a mapped file. Raises: ModelError if it is no table of a model with
    `vocab_size` tokens.
    """

    usual = _USUAL
    upfront = True

    def __init__(self, slots: Slots, vocab_size: int, name: str = "table") -> None:
        self.name = name
        if not _is_table(slots, vocab_size):
            raise ModelError(f"{name} holds no table of n-grams for a model of {vocab_size:,} tokens; get it again.")
        self._slots = slots.data
        self._shift = 65 - len(slots).bit_length()

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        last = list(history[-max(ORDERS) :])
        tokens: list[int] = []
        evidence: list[int] = []
        survival = 1.0
        while len(tokens) < k and survival > _HOPELESS and (entry := self._entry(last)):
            tokens.append(entry & (1 << _TOKEN_BITS) - 1)
            evidence.append((entry >> _TOKEN_BITS & 255) - 1)
            last.append(tokens[-1])
            survival *= _USUAL[evidence[-1]]
        return Draft(tuple(tokens), evidence=tuple(evidence))

    def lag(self, length: int) -> int:
        return 0

    def rewind(self, length: int) -> None:
        """Keeps nothing of the conversation."""

    def _entry(self, last: Sequence[int]) -> int:
        """The entry for the longest context that `last` ends with; 0 if there is none."""
        keys: list[int] = []
        key = 0
        for token, factor in zip(reversed(last), FACTORS, strict=False):
            key += (token + 1) * factor
            keys.append(key & _MASK)
        slots, shift, around = self._slots, self._shift, len(self._slots) - 1
        for n in reversed(ORDERS):
            if n <= len(keys):
                key = keys[n - 1]
                place, tag = key >> shift, key & (1 << _TAG_BITS) - 1
                while entry := slots[place]:
                    if entry >> _TAG_BITS == tag:
                        return entry
                    place = place + 1 & around
        return 0


def _is_table(slots: Slots, vocab_size: int) -> bool:
    """Whether it can be searched: every search ends, and whatever it finds can be proposed."""
    if slots.dtype != np.uint64 or slots.ndim != 1 or len(slots) & (len(slots) - 1):
        return False
    used = slots[slots != 0]
    tokens, classes = used & np.uint64((1 << _TOKEN_BITS) - 1), used >> np.uint64(_TOKEN_BITS) & np.uint64(255)
    known = 0 < used.size < len(slots) and tokens.max() < vocab_size
    return bool(known and 1 <= classes.min() <= classes.max() <= len(_USUAL))
