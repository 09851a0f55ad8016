"""Lookup guided by a small network that reads what the target thinks.

Lookup in the text and in a table (ngram.py, ngram_table.py) knows how often proposals like this one are right, but not
what the target is about to say. A recurrent head (edgespec.graph.recurrent) knows some of it: it reads the target's
hidden states, and gives each token of its vocabulary a probability. So at every place of a draft what is looked up and
what the head finds likeliest are weighed against each other, and the better one is proposed (docs/decisions/0024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.protocols import Draft, Drafter, Readable, Tapped, Worth, always
from edgespec.decoding.sampling import LANES, Sampler
from edgespec.errors import GenerationError

_SURE: Final = 0.585
"""What is looked up with such a chance is proposed without asking the head, and so is what follows it."""
_DOUBTFUL, _HOPELESS = 0.38, 0.3
"""Where it is less likely than this that all of a draft is accepted, the head is not asked to go on; then nobody is."""
_LEAST, _FARTHEST = 1e-6, 30.0
"""A probability, and log odds, beyond which nothing changes."""
_RACING: Final = 0.01
"""Tokens that the head finds less likely than this, and than its first choice, are not in a race."""
_MOST: Final = 0.999
"""What was looked up is not believed more than this, so that something is left for other tokens."""
_FAR: Final = 5.0
"""A lead in a race, in nats, beyond which nothing changes."""
_CHANCES: Final = 16
_RIGHT: Final = (
    *(0.03, 0.09, 0.16, 0.17, 0.27, 0.28, 0.35, 0.47, 0.51, 0.58, 0.59, 0.70, 0.79, 0.80, 0.87, 0.96),
    *(0.03, 0.09, 0.16, 0.17, 0.30, 0.39, 0.43, 0.50, 0.53, 0.58, 0.68, 0.69, 0.75, 0.76, 0.87, 0.88),
)
"""How often proposals are right at temperature 0 that are given a chance of 0 to 1/16, 1/16 to 2/16, ...: what was
looked up, then what the head named and nobody had looked up (docs/decisions/0024-guide.md)."""
_SHIFT: Final = -0.4
"""What it changes in log odds that the target draws its tokens."""


def _logistic(odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(min(odds, _FARTHEST), -_FARTHEST)))


def _log_odds(chance: float) -> float:
    chance = max(min(chance, 1.0 - _LEAST), _LEAST)
    return math.log(chance / (1.0 - chance))


_LookedUp = tuple[int, float]
"""A token, and how often it is right usually."""
_Proposal = tuple[int, int]
"""A token, and the class of its chance."""
_GREEDY, _DRAWN, _FORESEEN = (2 * _CHANCES * i for i in range(3))
"""Where the classes of evidence begin: for a greedy target, for one that draws, and where it is known what with."""
USUAL: Final = (
    *_RIGHT,
    *(_logistic(_log_odds(chance) + _SHIFT) for chance in _RIGHT),
    *([(i + 0.5) / _CHANCES for i in range(_CHANCES)] * 2),
)


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

    foresees: whether it may know the numbers that will draw the target's token, and propose what they draw from the
    distribution that it guesses (`sampling.race`). What it proposes changes no text; but beside a drafter that draws
    its proposals it must not know them, because who of them proposes would then depend on these numbers, and so would
    what is emitted.
    """

    usual = USUAL
    upfront = True

    def __init__(
        self, lookups: Sequence[Drafter], guide: Guide, target: Tapped[Readable], name: str, *, foresees: bool = False
    ) -> None:
        self.name, self.foresees = name, foresees
        self._lookups, self._guide, self._target = lookups, guide, target
        self._ids: list[int] = guide.token_ids.tolist()
        self._words = {token: word for word, token in enumerate(self._ids)}

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        text, size, end = list(history), len(history), len(history) - 1
        states = self._target.hidden_states(end - 1, end) if 1 <= end <= self._target.length else None
        guided = states is not None
        offers: list[list[_LookedUp]] = [[] for _ in self._lookups]
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
            rule = self._rule(sampler, len(text))
            proposal = max((rule.alone(*found) for found in looked_up), key=_chance, default=None)
            guided = guided and survival > _DOUBTFUL and (proposal is None or _chance(proposal) < _SURE)
            shares, states = self._ask(text[-1], states) if guided else None, None
            if shares is not None and (weighed := self._weigh(looked_up, shares, rule)):
                proposal = weighed
            else:
                guided = False
            if proposal is None:
                break
            text.append(proposal[0])
            evidence.append(proposal[1])
            survival *= _chance(proposal)
            for offer in offers:
                if offer and offer.pop()[0] != text[-1]:
                    offer.clear()
        for lookup in self._lookups:
            lookup.rewind(size)
        return Draft(tuple(text[size:]), evidence=tuple(evidence))

    def lag(self, length: int) -> int:
        return 0

    def rewind(self, length: int) -> None:
        for lookup in self._lookups:
            lookup.rewind(length)

    def _rule(self, sampler: Sampler, position: int) -> _Likeliest | _Race:
        if sampler.greedy:
            return _Likeliest(_GREEDY)
        if not self.foresees:
            return _Likeliest(_DRAWN)
        return _Race(sampler.exponentials(position), 1.0 / sampler.settings.temperature)

    def _ask(self, token: int, states: Readable | None) -> NDArray[np.float32] | None:
        """What the guide says; None if it fails."""
        with suppress(GenerationError):
            return self._guide.forward(token, states)
        return None

    def _weigh(
        self, looked_up: Sequence[_LookedUp], shares: NDArray[np.float32], rule: _Likeliest | _Race
    ) -> _Proposal | None:
        """The best of what was looked up and what the guide names; None if it names nothing."""
        word = int(shares.argmax())
        if math.isnan(share := float(shares[word])):
            return None
        named = self._ids[word]
        odds: dict[int, float] = {}
        for token, usual in looked_up:
            odds[token] = max(self._odds(token, usual, shares, named), odds.get(token, -_FARTHEST))
        if isinstance(rule, _Likeliest):
            return rule.best(odds, named, share)
        racing = _where(shares >= min(_RACING, share))
        return rule.best(odds, [(self._ids[word], (shares.item(word) / share) ** rule.power) for word in racing])

    def _odds(self, token: int, usual: float, shares: NDArray[np.float32], named: int) -> float:
        """Of a proposal that was looked up: the log odds that it is right, given what the guide thinks of it."""
        belief, word, evidence = self._guide.belief, self._words.get(token), _log_odds(usual)
        if word is None:
            return belief.unknown_evidence * evidence + belief.unknown_bias
        odds = belief.evidence * evidence + belief.head * _log_odds(float(shares[word])) + belief.bias
        return odds + belief.likeliest * (token == named)


class _Likeliest:
    """Takes what is likeliest. start: where its classes begin."""

    def __init__(self, start: int) -> None:
        self._start = start

    def alone(self, token: int, usual: float) -> _Proposal:
        """What was looked up, right so often."""
        return token, self._start + _class(usual)

    def best(self, odds: Mapping[int, float], named: int, share: float) -> _Proposal:
        """The best of what was looked up, with its log odds, and what the guide finds likeliest."""
        found = [(token, self._start + _class(_logistic(of))) for token, of in odds.items()]
        if named not in odds:
            found.append((named, self._start + _CHANCES + _class(share)))
        return max(found, key=_chance)


class _Race:
    """Runs the race that will draw the target's token, with the distribution that is guessed. How often the winner is
    right was fitted to answers to the development prompts (docs/decisions/0024-guide.md).

    times: float64 [LANES], as `sampling.race` has them. power: 1 / temperature.
    """

    def __init__(self, times: NDArray[np.float64], power: float) -> None:
        self._times, self.power = times, power

    def alone(self, token: int, usual: float) -> _Proposal:
        """What was looked up, right so often."""
        time = self._time(token)
        odds = 0.5 * _log_odds(_wins(usual, time)) + 0.45 * _log_odds(usual) + 0.3 * math.log(time) - 0.2
        return token, _FORESEEN + _class(_logistic(odds))

    def best(self, odds: Mapping[int, float], weights: Sequence[tuple[int, float]]) -> _Proposal:
        """The winner. odds: of what was looked up, the log odds; weights: what the guide thinks of the likeliest
        tokens, at the temperature, of any scale."""
        believed = [(token, _logistic(self.power * of)) for token, of in odds.items()]
        together = sum(p for _, p in believed)
        most = min(together, _MOST)
        others = [(token, weight) for token, weight in weights if token not in odds]
        scale = (1.0 - most) / max(sum(weight for _, weight in others), _LEAST)
        field = [(token, p * most / together) for token, p in believed]
        field += [(token, weight * scale) for token, weight in others]
        speeds = [p / self._time(token) for token, p in field]
        speed = max(speeds)
        first, p = field[speeds.index(speed)]
        speeds.remove(speed)
        lead = min(math.log(speed / max(speeds, default=0.0)), _FAR) if any(speeds) else _FAR
        won = _log_odds(_wins(p, p / speed))
        found = 0.2 * (lead + _log_odds(p) + won) - (0.4 if first in odds else 1.1)
        return first, _FORESEEN + _CHANCES * (first not in odds) + _class(_logistic(found))

    def _time(self, token: int) -> float:
        return self._times.item(token % LANES)


def _chance(proposal: _Proposal) -> float:
    return USUAL[proposal[1]]


def _where(mask: NDArray[np.bool_]) -> list[int]:
    """Where few are True. Behind a pass np.flatnonzero takes 24 microseconds for 8,192, and this takes 5."""
    found, bits = [-1], mask.tobytes()
    while (place := bits.find(1, found[-1] + 1)) >= 0:
        found.append(place)
    return found[1:]


def _class(chance: float) -> int:
    return min(int(chance * _CHANCES), _CHANCES - 1)


def _wins(p: float, time: float) -> float:
    """How often a token of probability `p` and this time wins the race against all others."""
    return math.exp(-time * (1.0 - p) / max(p, _LEAST))
