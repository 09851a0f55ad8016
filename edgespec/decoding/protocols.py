"""What decoding needs from a model and from a drafter. runtime/ implements the model; tests/fakes.py does too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.sampling import Sampler

Logits = NDArray[np.float32]
"""Rows of unnormalized next-token scores, float32 [rows, vocab]."""


class CausalLM(Protocol):
    """A language model with a KV cache. Only `length` says what the cache holds; what lies behind it is garbage."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int:
        """How many positions the cache can hold."""
        ...

    @property
    def length(self) -> int:
        """How many positions the cache holds."""
        ...

    def forward(self, ids: Sequence[int], rows: int | None = None) -> Logits:
        """Run one pass over `ids` behind the cached positions and return the logits of its last `rows` rows (all by
        default): float32 [rows, vocab], valid until the next call. `length` grows by len(ids), or, if the pass
        raises, stays.

        Raises: GenerationError if the pass fails, ContextFullError if it does not fit.
        """
        ...

    def forward_exact(self, token: int) -> Logits:
        """As `forward` of one token, float32 [1, vocab], with the bits that its row and its cached position have in a
        pass of several rows. `length` grows by 1, but room for another position is needed meanwhile.

        Raises: as `forward`.
        """
        ...

    def rewind(self, length: int) -> None:
        """Forget every position from `length` on. O(1). ValueError unless 0 <= length <= self.length."""
        ...


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed tokens, and how they were made.

    `probs` float64 [len(tokens), vocab]: the distribution q that each token was drawn from. None: the tokens were
    chosen, not drawn, so q is one-hot.
    """

    tokens: tuple[int, ...] = ()
    probs: NDArray[np.float64] | None = None


class Drafter(Protocol):
    """Anything that proposes. It may propose less than asked for, or nothing."""

    @property
    def name(self) -> str: ...

    def propose(self, history: Sequence[int], k: int, sampler: Sampler) -> Draft:
        """Propose at most `k` tokens to follow `history` (every committed token, prompt included), knowing how the
        target will sample."""
        ...

    def observe(self, tested: int, accepted: int) -> None:
        """Hear how the last proposal did: `tested` of its tokens were looked at, the first `accepted` of them kept."""
        ...

    def rewind(self, length: int) -> None:
        """Forget whatever was kept about positions from `length` on; a no-op where nothing is kept."""
        ...
