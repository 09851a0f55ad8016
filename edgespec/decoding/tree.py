"""Draft trees: several continuations checked in one pass (Miao et al. 2024, SpecInfer).

A tree's rows stand one behind the other, each behind the row that it follows. What a row may see besides the cached
positions is the way from the root to it, and its position is how deep it stands; after the pass, the accepted way is
moved to the front of the rows. Proposals are chosen, so verification is as for any chosen draft: draw from p, and go on
at the child that it is, if there is one (verify.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.protocols import CausalLM, Draft, Logits, Policy
from edgespec.decoding.sampling import Sampler
from edgespec.decoding.stats import Round


@runtime_checkable
class TreeLM(CausalLM, Protocol):
    """A language model that takes trees."""

    def forward_tree(self, ids: Sequence[int], parents: Sequence[int]) -> Logits:
        """As `forward` of `ids`, all rows, where row i follows row parents[i] (less than i), or the cached positions
        for -1, and sees nothing beside the way to it. Its position is that of its depth. Something must be cached.

        Raises: as `forward`.
        """
        ...

    def gather(self, start: int, positions: Sequence[int]) -> None:
        """Keep of what stands from `start` on only these cached positions, rising, one behind the other from `start`
        on. `length` becomes start + len(positions)."""
        ...


def tree_positions(parents: Sequence[int], past: int) -> NDArray[np.int64]:
    """The position of each row behind `past` cached ones: int64 [len(parents)]."""
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return np.array(depths, np.int64) + past


def tree_bias(parents: Sequence[int], past: int) -> NDArray[np.float32]:
    """What is added to the attention scores, float32 [rows, past + rows]: 0 where a row may look, -Inf elsewhere."""
    rows = len(parents)
    bias = np.full((rows, past + rows), -np.inf, np.float32)
    bias[:, :past] = 0.0
    for row, parent in enumerate(parents):
        if parent >= 0:
            bias[row, past:] = bias[parent, past:]
        bias[row, past + row] = 0.0
    return bias


class Branching:
    """A policy that adds branches to what another policy chose: of the places where the last tokens stood before, the
    latest that go on otherwise, with one token each. policy: the other one. branches: at most so many more."""

    def __init__(self, policy: Policy, branches: int) -> None:
        self.policy, self._lookup, self._branches = policy, NgramDrafter(), branches
        self._chain: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return self.policy.name

    def propose(self, history: Sequence[int], k: int, sampler: Sampler) -> Draft:
        draft = self.policy.propose(history, k, sampler)
        self._chain = draft.tokens
        count = min(self._branches, k - len(draft.tokens))
        if not draft.tokens or draft.probs is not None or count <= 0:
            return draft
        others = [t for t in self._lookup.followers(history, count + 1) if t != draft.tokens[0]][:count]
        parents = (*range(-1, len(draft.tokens) - 1), *[-1] * len(others))
        return replace(draft, tokens=(*draft.tokens, *others), parents=parents) if others else draft

    def observe(self, done: Round) -> None:
        """The other policy hears of its own proposals only; of the pass, what it took."""
        accepted = done.accepted
        if self._chain and done.tokens[0] != self._chain[0]:
            accepted = 0
        tested = min(done.tested, len(self._chain)) if accepted == done.accepted else 1
        self.policy.observe(replace(done, tested=tested, accepted=accepted))

    def rewind(self, length: int) -> None:
        self.policy.rewind(length)
        self._lookup.rewind(length)
