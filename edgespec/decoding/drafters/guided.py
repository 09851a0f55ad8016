"""Lookup guided by a small network that reads what the target thinks.

Lookup in the text and in a table (ngram.py, ngram_table.py) knows how often proposals like this one are right, but not
what the target is about to say. A recurrent head (edgespec.graph.recurrent) knows some of it: it reads the target's
hidden states, and gives each token of its vocabulary a probability. So at every place of a draft what is looked up and
what the head finds likeliest are weighed against each other, and the better one is proposed (docs/decisions/0024).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.protocols import Draft, Drafter, Readable, Tapped, Worth, always
from edgespec.decoding.sampling import Sampler
from edgespec.errors import GenerationError

_SURE: Final = 0.7
"""What is looked up with such a chance is proposed without asking the head, and so is what follows it."""
_DOUBTFUL, _HOPELESS = 0.35, 0.2
"""Where it is less likely than this that all of a draft is accepted, the head is not asked to go on; then nobody is."""
_LEAST, _FARTHEST = 1e-6, 30.0
"""A probability, and log odds, beyond which nothing changes."""
_CHANCES: Final = 16
_LUCK: Final = (1 / 3, 2 / 3)
"""What the number that will draw the token is compared with, where the temperature is above 0: a small one draws what
the target finds likeliest whatever the others are, a large one hardly ever (decision 0003)."""
_RIGHT: Final = (
    *(0.03, 0.09, 0.16, 0.17, 0.27, 0.28, 0.35, 0.47, 0.51, 0.58, 0.59, 0.70, 0.79, 0.80, 0.87, 0.96),
    *(0.03, 0.09, 0.16, 0.17, 0.30, 0.39, 0.43, 0.50, 0.53, 0.58, 0.68, 0.69, 0.75, 0.76, 0.87, 0.88),
)
"""How often proposals are right at temperature 0 that are given a chance of 0 to 1/16, 1/16 to 2/16, ...: what was
looked up, then what the head named and nobody had looked up (docs/decisions/0024-guide.md)."""
_SHIFTS: Final = (0.0, 0.0, -0.4, -0.8)
"""What that changes in log odds: at temperature 0, then by luck."""


def _shifted(chance: float, by: float) -> float:
    return 1.0 / (1.0 + math.exp(-by) * (1.0 - chance) / chance)


USUAL: Final = tuple(_shifted(chance, shift) for shift in _SHIFTS for chance in _RIGHT)


class Belief(NamedTuple):
    """What the log odds of a proposal that was looked up are made of: `evidence` times the log odds that its evidence
    has usually, `head` times those that the head gives it, `bias`, and `likeliest` if it is the head's first choice.
    Of a token that the head does not know: `unknown_evidence` times the former, and `unknown_bias`."""

    evidence: float
    head: float
    bias: float
    likeliest: float
    unknown_evidence: float
    unknown_bias: float


class Guide(Protocol):
    """A head that goes on from token to token."""

    @property
    def token_ids(self) -> NDArray[np.int64]:
        """The target's token for each of the head's: int64 [vocab]."""
        ...

    @property
    def belief(self) -> Belief: ...

    def forward(self, token: int, states: Readable | None) -> NDArray[np.float32]:
        """The probabilities of what follows `token`, float32 [vocab], valid until the next call. states: what the
        target made of the position before it; None: the head goes on from its own state of the last call.

        Raises: GenerationError if the pass fails.
        """
        ...


class GuidedDrafter:
    """Proposes, token by token, what `lookups`, which choose, or `guide` find, whichever is likelier. Evidence: the
    class of that chance. Chosen, not sampled: q is one-hot. Costs a pass of the guide for each token.

    The state that is read first is that of the last but one token of the history: the last one has not been in a pass
    yet. Where the target has not got so far, or the guide fails, lookups go by themselves.

    foresees: whether evidence may depend on the number that will draw the target's token. What it proposes changes no
    text; but beside a drafter that draws its proposals it must not, because who of them proposes would then depend on
    that number, and so would what is emitted.
    """

    usual = USUAL
    upfront = True

    def __init__(
        self, lookups: Sequence[Drafter], guide: Guide, target: Tapped[Readable], name: str, *, foresees: bool = False
    ) -> None:
        self.name, self.foresees = name, foresees
        self._lookups, self._guide, self._target = lookups, guide, target
        self._words = {token: word for word, token in enumerate(guide.token_ids.tolist())}

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        text, size, end = list(history), len(history), len(history) - 1
        states = self._target.hidden_states(end - 1, end) if 1 <= end <= self._target.length else None
        guided = states is not None
        offers: list[list[tuple[int, float]]] = [[] for _ in self._lookups]
        evidence: list[int] = []
        survival = 1.0
        while len(evidence) < k and survival > _HOPELESS:
            for lookup, offer in zip(self._lookups, offers, strict=True):
                if not offer:
                    draft = lookup.propose(text, k - len(evidence), sampler)
                    offer.extend(
                        (t, lookup.usual[e]) for t, e in zip(draft.tokens[::-1], draft.evidence[::-1], strict=True)
                    )
            looked_up = [offer[-1] for offer in offers if offer]
            sure = any(usual >= _SURE for _, usual in looked_up)
            shares, guided = None, guided and survival > _DOUBTFUL and not sure
            if guided:
                with suppress(GenerationError):
                    shares = self._guide.forward(text[-1], states)
                guided, states = shares is not None, None
            proposals = self._weigh(looked_up, shares, self._luck(sampler, len(text)))
            if not proposals:
                break
            token, of_class = max(proposals, key=lambda proposal: USUAL[proposal[1]])
            text.append(token)
            evidence.append(of_class)
            survival *= USUAL[of_class]
            for offer in offers:
                if offer and offer.pop()[0] != token:
                    offer.clear()
        for lookup in self._lookups:
            lookup.rewind(size)
        return Draft(tuple(text[size:]), evidence=tuple(evidence))

    def lag(self, length: int) -> int:
        return 0

    def rewind(self, length: int) -> None:
        for lookup in self._lookups:
            lookup.rewind(length)

    def _weigh(
        self, looked_up: Sequence[tuple[int, float]], shares: NDArray[np.float32] | None, luck: int
    ) -> list[tuple[int, int]]:
        """Each token that was looked up, given with how often such are right, and the one that the head names, with the
        class of its chance."""
        word = -1 if shares is None else int(shares.argmax())
        if shares is None or math.isnan(share := float(shares[word])):
            return [(token, _class(luck, usual)) for token, usual in looked_up]
        named = int(self._guide.token_ids[word])
        found = [(token, _class(luck, self._chance(token, usual, shares, named))) for token, usual in looked_up]
        if all(token != named for token, _ in looked_up):
            found.append((named, _CHANCES + _class(luck, share)))
        return found

    def _luck(self, sampler: Sampler, position: int) -> int:
        """0 where nothing is drawn, else 1 for a small number that will draw, to 3 for a large one."""
        if sampler.greedy:
            return 0
        return 1 + bisect_right(_LUCK, sampler.uniforms(position)[2]) if self.foresees else 2

    def _chance(self, token: int, usual: float, shares: NDArray[np.float32], named: int) -> float:
        """How likely a proposal that was looked up is, given what the head thinks of it."""
        belief, word = self._guide.belief, self._words.get(token)
        evidence = math.log(usual / (1.0 - usual))
        if word is None:
            odds = belief.unknown_evidence * evidence + belief.unknown_bias
        else:
            share = min(max(float(shares[word]), _LEAST), 1.0 - _LEAST)
            odds = belief.evidence * evidence + belief.head * math.log(share / (1.0 - share)) + belief.bias
            odds += belief.likeliest * (token == named)
        return 1.0 / (1.0 + math.exp(-max(min(odds, _FARTHEST), -_FARTHEST)))


def _class(luck: int, chance: float) -> int:
    return 2 * _CHANCES * luck + min(int(chance * _CHANCES), _CHANCES - 1)
