"""An EAGLE-3 head that proposes (Li et al. 2025, arXiv:2503.01840): a layer on the target's hidden states.

The head's row i stands for position i: it reads what the target made of that position and the token behind it, and
says which token follows that one. Rows of committed positions have the target's own states; while it drafts, a row
reads the state that the head made of the row before. Those rows are forgotten with the draft, so that what is known
of committed positions is always the target's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.drafters.confidence import USUAL
from edgespec.decoding.drafters.draft_model import Proposal, chain, next_proposal
from edgespec.decoding.passes import PREFILL_CHUNK
from edgespec.decoding.protocols import CausalLM, Draft, Shown, Tapped, Worth, always
from edgespec.decoding.sampling import Sampler
from edgespec.errors import GenerationError

States = TypeVar("States")
"""What the target made of some positions. What that is, and in whose memory, is between a target and its head."""
Read = TypeVar("Read", contravariant=True)


class TappedLM(CausalLM, Tapped[Shown], Protocol[Shown]):
    """A language model that shows its hidden states."""


class Head(Protocol[Read]):
    """A head with its own KV cache, of `length` rows. Rows behind that are garbage."""

    @property
    def token_ids(self) -> NDArray[np.int64]:
        """The target's token for each of the head's: int64 [vocab]."""
        ...

    @property
    def context_length(self) -> int: ...

    @property
    def window(self) -> int | None:
        """How many rows a row attends to, its own included; None is all."""
        ...

    @property
    def length(self) -> int: ...

    def forward(self, ids: Sequence[int], states: Read | None) -> NDArray[np.float32]:
        """Add a row for each of `states`, with the token behind it; None: one row, on the state of the last one.
        Returns the logits of the last row, float32 [vocab], valid until the next call.

        Raises: GenerationError if the pass fails.
        """
        ...

    def rewind(self, length: int) -> None:
        """Forget the rows from `length` on. O(1)."""
        ...

    def skip(self, length: int) -> None:
        """Go on at row `length` although the rows before it were never computed: no later row attends to them."""
        ...


class EagleDrafter(Generic[States]):
    """Drafts with `head` from what `target` shows: the likeliest token when greedy, else a sample from the head's
    distribution after the transforms, which is zero for tokens that the head does not know.

    It lags behind by what was committed since it last drafted, and reads it in one pass; a long text by one chunk a
    round, proposing nothing meanwhile. A text that outgrows its context silences it, and so do unusable scores.
    """

    usual = USUAL
    upfront = False

    def __init__(self, target: TappedLM[States], head: Head[States], name: str = "eagle") -> None:
        self.name = name
        self._target, self._head = target, head

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        head, known = self._head, len(history) - 1
        k = min(k, head.context_length - known + 1)  # the last proposal gets no row
        if k <= 0 or known <= 0:
            return Draft()
        if self.lag(len(history)) >= PREFILL_CHUNK:
            with suppress(GenerationError):
                self._read(history, self._next_row(known) + PREFILL_CHUNK)
            return Draft()

        def propose_next(tokens: Sequence[int], recent: Sequence[int], position: int) -> Proposal:
            logits = head.forward(tokens[-1:], None) if tokens else self._read(history, known)
            return self._next(logits, recent, position, sampler)

        draft = chain(history, k, worth, propose_next)
        head.rewind(min(head.length, known))
        return draft

    def lag(self, length: int) -> int:
        return max(length - 2 - self._next_row(length - 1), 0)

    def rewind(self, length: int) -> None:
        """The row of a position has read the token behind it."""
        self._head.rewind(min(self._head.length, max(length - 1, 0)))

    def _next_row(self, known: int) -> int:
        """The first row to compute before one for position `known` - 1 can be: of those before, none is attended to."""
        window = self._head.window
        return self._head.length if window is None else max(self._head.length, known - window)

    def _read(self, history: Sequence[int], end: int) -> NDArray[np.float32]:
        """Compute the rows up to `end`, at least one, from what the target made of these positions."""
        start = self._next_row(len(history) - 1)
        if start > self._head.length:
            self._head.skip(start)
        elif start >= end:
            start = end - 1
            self._head.rewind(start)
        return self._head.forward(history[start + 1 : end + 1], self._target.hidden_states(start, end))

    def _next(self, logits: NDArray[np.float32], recent: Sequence[int], position: int, sampler: Sampler) -> Proposal:
        """As `next_proposal`, from the head's own vocabulary."""
        ids = self._head.token_ids
        if sampler.greedy and sampler.settings.repeat_penalty == 1.0:
            token, _, confidence = next_proposal(logits, recent, position, sampler)
            return int(ids[token]), None, confidence
        whole = np.full(self._target.vocab_size, -np.inf, np.float32)
        whole[ids] = logits
        return next_proposal(whole, recent, position, sampler)
