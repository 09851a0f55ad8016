"""A second opinion on what was looked up: how likely the target's hidden state makes it.

Lookups know how often such a proposal is right, but not what the target is about to say. Its last hidden state does, in
part: heads that predict from it the token after the next are right 42 % of the time (Medusa, Cai et al. 2024,
arXiv:2401.10774). Here it only has to judge one token that somebody else proposes, which is a product of two short
vectors instead of one with a vocabulary: the state, projected, and the last token's vector, against the proposal's.

What is wrong with a proposal costs a row of a pass, what is right brings a token; so knowing which is which is worth as
much as better proposals (docs/decisions/0024-judge.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.protocols import Draft, Drafter, Tapped, Worth, always
from edgespec.decoding.sampling import Sampler
from edgespec.errors import ModelError

USUAL: Final = (0.04, 0.1, 0.16, 0.21, 0.28, 0.31, 0.35, 0.43, 0.49, 0.56, 0.63, 0.66, 0.74, 0.81, 0.86, 0.96)
"""How often a proposal is right that is judged to have a chance of 0 to 1/16, 1/16 to 2/16, ... (0024-judge.md)."""
_FARTHEST: Final = 30.0
"""Log odds beyond which nothing changes."""


@dataclass(frozen=True, slots=True)
class JudgeWeights:
    """For R dimensions, S hidden states and V tokens: `states` float32 [R, S] and `bias` float32 [R] project a state;
    `last` int8 [V, R] times `scale` float32 [R] is what the token behind it adds; `proposals` int8 [V, R]."""

    states: NDArray[np.float32]
    bias: NDArray[np.float32]
    last: NDArray[np.int8]
    scale: NDArray[np.float32]
    proposals: NDArray[np.int8]

    def fits(self, states: int, vocab_size: int) -> bool:
        """Whether they are weights for a model that shows so many hidden states, the last of which they read, and has
        so many tokens."""
        if self.states.ndim != 2 or not self.states.shape[0] or not 0 < self.states.shape[1] <= states:
            return False
        size = self.states.shape[0]
        shapes = [(self.bias, np.float32, (size,)), (self.scale, np.float32, (size,))]
        shapes += [(tokens, np.int8, (vocab_size, size)) for tokens in (self.last, self.proposals)]
        return self.states.dtype == np.float32 and all(a.dtype == t and a.shape == shape for a, t, shape in shapes)

    def save(self, path: Path) -> None:
        """As a .npz file. Raises: OSError."""
        np.savez(path, **{name: getattr(self, name) for name in self.__slots__})


def read_judge(path: Path) -> JudgeWeights:
    """Raises: ModelError if the file holds no such weights."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return JudgeWeights(**{name: arrays[name] for name in JudgeWeights.__slots__})
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise ModelError(f"{path} cannot be read as weights that judge proposals: {error}") from error


class States(Protocol):
    """Hidden states that can be read."""

    def read(self) -> NDArray[np.float32]:
        """float32 [positions, states]"""
        ...


class Judge:
    """Judges proposals for `target`. The state that it reads is that of the last but one token of the history: the
    last one has not been in a pass yet."""

    def __init__(self, weights: JudgeWeights, target: Tapped[States]) -> None:
        self._target = target
        self._skip = target.hidden_size - weights.states.shape[1]
        # In float32 here: behind a real pass, which leaves none of NumPy in the processor's caches, a conversion takes
        # as long as everything else.
        self._states = weights.states
        self._last = weights.last * weights.scale + weights.bias
        self._proposals = weights.proposals.astype(np.float32)
        self._query: tuple[int, NDArray[np.float32]] | None = None

    def chance(self, history: Sequence[int], proposal: int, usual: float) -> float | None:
        """How likely `proposal` is to follow `history`, given how often such proposals are right; None where nothing
        can be said."""
        end = len(history) - 1
        if not 1 <= end <= self._target.length:
            return None
        if self._query is None or self._query[0] != end:
            state = self._target.hidden_states(end - 1, end).read()[0, self._skip :]
            self._query = end, self._states.dot(state) + self._last[history[end]]
        odds = float(self._query[1].dot(self._proposals[proposal])) + math.log(usual / (1.0 - usual))
        return None if math.isnan(odds) else 1.0 / (1.0 + math.exp(-max(min(odds, _FARTHEST), -_FARTHEST)))

    def forget(self) -> None:
        """The history goes on otherwise."""
        self._query = None


class JudgedDrafter:
    """`drafter`, which chooses, with the first proposal's evidence as `judge` sees it. Costs some 30 microseconds."""

    def __init__(self, drafter: Drafter, judge: Judge) -> None:
        self._drafter, self._judge = drafter, judge
        self.name, self.upfront = drafter.name, drafter.upfront
        self.usual = (*drafter.usual, *USUAL)

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        draft = self._drafter.propose(history, k, sampler, worth)
        if not draft.tokens:
            return draft
        first, *others = draft.evidence
        chance = self._judge.chance(history, draft.tokens[0], self._drafter.usual[first])
        if chance is None:
            return draft
        judged = len(self._drafter.usual) + min(int(chance * len(USUAL)), len(USUAL) - 1)
        return Draft(draft.tokens, draft.probs, (judged, *others), draft.choice, draft.parents)

    def lag(self, length: int) -> int:
        return self._drafter.lag(length)

    def rewind(self, length: int) -> None:
        self._drafter.rewind(length)
        self._judge.forget()
