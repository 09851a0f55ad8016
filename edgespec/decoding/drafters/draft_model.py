"""A smaller language model that proposes: one pass of one row per proposal, with its own KV cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.drafters.confidence import USUAL, confidence_class, peak
from edgespec.decoding.passes import PREFILL_CHUNK
from edgespec.decoding.protocols import CausalLM, Draft, Worth, always
from edgespec.decoding.sampling import PENALTY_WINDOW, Probabilities, Sampler, draw
from edgespec.errors import GenerationError


class DraftModelDrafter:
    """Drafts with `model`: the likeliest token when greedy, else a sample from its distribution after the transforms.

    It may lag behind the history by any number of tokens and catches up by one chunk a round, proposing nothing
    meanwhile, so that a long prompt delays no answer. A history that outgrows its context silences it, and so do
    unusable scores: the target goes on alone.
    """

    usual = USUAL
    upfront = False

    def __init__(self, model: CausalLM, name: str = "draft") -> None:
        self.name = name
        self.model = model

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        k = min(k, self.model.context_length - len(history) + 1)  # the last proposal is not fed
        if k <= 0:
            return Draft()
        unseen = list(history[self.model.length :])
        if len(unseen) > PREFILL_CHUNK:
            with suppress(GenerationError):
                self.model.forward(unseen[:PREFILL_CHUNK], 1)
            return Draft()

        def propose_next(tokens: Sequence[int], recent: Sequence[int], position: int) -> Proposal:
            return next_proposal(self.model.forward(tokens[-1:] or unseen, 1)[-1], recent, position, sampler)

        return chain(history, k, worth, propose_next)

    def lag(self, length: int) -> int:
        return max(length - 1 - self.model.length, 0)

    def rewind(self, length: int) -> None:
        self.model.rewind(min(self.model.length, length))


Proposal = tuple[int, Probabilities | None, float]
"""A token, the distribution that it was drawn from (None if it is the argmax), and the largest probability there."""
ProposeNext = Callable[[Sequence[int], Sequence[int], int], Proposal]


def chain(history: Sequence[int], k: int, worth: Worth, propose_next: ProposeNext) -> Draft:
    """At most `k` proposals, one from those before, while one more is worth it and none fails. `propose_next` gets the
    proposals so far, the latest tokens with them at the end, and the position to propose for.
    """
    tokens: list[int] = []
    evidence: list[int] = []
    probs: list[Probabilities] = []
    recent = list(history[-PENALTY_WINDOW:])
    with suppress(GenerationError):  # what was proposed before stands; the target checks it anyway
        for position in range(len(history), len(history) + k):
            if tokens and not worth(evidence):
                break
            token, q, confidence = propose_next(tokens, recent, position)
            tokens.append(token)
            evidence.append(confidence_class(confidence))
            recent.append(token)
            if q is not None:
                probs.append(q)
    return Draft(tuple(tokens), np.stack(probs) if probs else None, tuple(evidence))


def next_proposal(logits: NDArray[np.float32], recent: Sequence[int], position: int, sampler: Sampler) -> Proposal:
    """The argmax of `logits` if the target is greedy, else a draw from their distribution after the transforms."""
    if sampler.greedy:
        return sampler.argmax(logits, recent), None, peak(logits)
    q = sampler.probabilities(logits, recent)
    return draw(q, sampler.uniforms(position)[0]), q, float(q.max())
