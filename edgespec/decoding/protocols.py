"""What decoding needs from a model, a drafter, and what decides between drafters. runtime/ implements the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.sampling import Sampler
from edgespec.decoding.stats import Choice, Round

Logits = NDArray[np.float32]
"""Rows of unnormalized next-token scores, float32 [rows, vocab]."""
Shown = TypeVar("Shown", covariant=True)
"""Hidden states of some positions, in whatever form who reads them takes."""


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


class Readable(Protocol):
    """Hidden states that can be read."""

    def read(self) -> NDArray[np.float32]:
        """float32 [positions, floats for a position]. Raises: GenerationError."""
        ...


class Tapped(Protocol[Shown]):
    """What shows the hidden states of its cached positions."""

    @property
    def length(self) -> int:
        """How many positions are cached."""
        ...

    @property
    def hidden_size(self) -> int:
        """Floats for a position."""
        ...

    def hidden_states(self, start: int, end: int) -> Shown:
        """Of these cached positions; valid until the next pass."""
        ...


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed tokens, and how they were made.

    `probs` float64 [len(tokens), vocab]: the distribution q that each token was drawn from. None: the tokens were
    chosen, not drawn, so q is one-hot. `evidence`: for each token, which of the drafter's classes of confidence it is
    of; it must not depend on how a drawn token was drawn, only on what it was drawn from. `choice`: why the draft is
    as it is, if somebody weighed it. `parents`: for each token of a tree, the index of the token that it follows, or -1
    for the history; tokens that follow the same differ, and are chosen. None: each follows the one before it.
    """

    tokens: tuple[int, ...] = ()
    probs: NDArray[np.float64] | None = None
    evidence: tuple[int, ...] = ()
    choice: Choice | None = None
    parents: tuple[int, ...] | None = None

    def after(self, i: int) -> Sequence[int]:
        """The indexes of the tokens that follow token `i`, or the history for -1."""
        if self.parents is None:
            return (i + 1,) if i + 1 < len(self.tokens) else ()
        return [child for child, parent in enumerate(self.parents) if parent == i]


Worth = Callable[[Sequence[int]], bool]
"""Whether one more proposal is likely to pay, given the evidence of those made so far."""


def always(_evidence: Sequence[int]) -> bool:
    return True


class Drafter(Protocol):
    """Anything that proposes. It may propose less than asked for, or nothing."""

    @property
    def name(self) -> str: ...

    @property
    def usual(self) -> Sequence[float]:
        """For each class of evidence, from the weakest, how often such proposals are accepted in most texts."""
        ...

    @property
    def upfront(self) -> bool:
        """Whether proposing costs so little that it is done before it is decided whether to use the proposal. Such a
        drafter chooses, it does not draw."""
        ...

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        """Propose at most `k` tokens to follow `history` (every committed token, prompt included), knowing how the
        target will sample. After each, a drafter that goes token by token asks whether another is `worth` it."""
        ...

    def lag(self, length: int) -> int:
        """How many of `length` committed tokens it would have to read before it can propose."""
        ...

    def rewind(self, length: int) -> None:
        """Forget whatever was kept about positions from `length` on; a no-op where nothing is kept."""
        ...


class Policy(Protocol):
    """Decides in each round who proposes, and how much."""

    @property
    def name(self) -> str: ...

    def propose(self, history: Sequence[int], k: int, sampler: Sampler) -> Draft:
        """At most `k` tokens to follow `history`; none for a plain round."""
        ...

    def observe(self, done: Round) -> None:
        """Hear how the last proposal did."""
        ...

    def rewind(self, length: int) -> None:
        """Forget whatever was kept about positions from `length` on."""
        ...


class Fixed:
    """The policy that always asks one drafter for all it may propose."""

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter

    @property
    def name(self) -> str:
        return self.drafter.name

    def propose(self, history: Sequence[int], k: int, sampler: Sampler) -> Draft:
        return self.drafter.propose(history, k, sampler)

    def observe(self, done: Round) -> None:
        """Nothing to learn."""

    def rewind(self, length: int) -> None:
        self.drafter.rewind(length)
