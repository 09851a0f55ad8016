"""The controller: in each round, plain decoding or one of the drafters, and how long a draft.

What is to be made as large as possible is tokens per time over the whole answer, not over a round. With R the best
rate that can be had, that is the same as making E[tokens] - R * E[time] as large as possible in every round (Dinkelbach
1967, On nonlinear fractional programming): time is paid for with the tokens that it would bring otherwise. R is
estimated from the rounds themselves, and is never under that of plain decoding.

The chance of a proposal is learnt by what its drafter says of it (its evidence: the length of a match, the confidence
of a distribution) and, for drafters that cost something before they say anything, by the position in the draft. What
is little known is hoped for, so that it gets tried. Whatever goes wrong, an account bounds what is lost against plain
decoding.

All that is believed comes from rounds and the times they carry: the same rounds give the same choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgespec.decoding.costs import Costs, LiveCosts
from edgespec.decoding.protocols import Draft, Drafter
from edgespec.decoding.sampling import Sampler
from edgespec.decoding.stats import Choice, Round
from edgespec.decoding.survival import Acceptance

_KEEP = 0.98
_PLAIN_ROUNDS = 16.0
"""The rate starts as that of plain decoding, believed as much as so many rounds, and forgets at this pace."""
_STAY = 16.0
"""Rounds over which the reading of what a drafter missed is spread: one that pays is used for more than a round."""
_SWITCH = 0.02
"""Tokens by which a costly drafter has to be better, unless it was chosen in the round before."""
_KNOWN = 32.0
"""Tries that what is usual for a class of evidence is worth."""
_USUAL, _UNKNOWN = 0.7, 4.0
"""Acceptance expected of a costly drafter at any position, enough to try it, and the tries that this is worth."""
_BASELINE = 64
"""Rounds without a plain one among them after which one is plain: others are compared with it."""
_LOSS = 5.0
_REFILL = 0.01
"""What may be lost against plain decoding: so many of its passes, and this share of all rounds."""
_SAVED = 16.0
"""Passes. What was gained before may be lost again, but no more of it than this."""
_STALLED = 20.0
"""Passes. No round costs the account more: what took longer was the machine, not the draft."""


class _Arm:
    """A drafter, and how often it was right."""

    def __init__(self, drafter: Drafter, k_max: int) -> None:
        self.drafter, self.name, self.upfront = drafter, drafter.name, drafter.upfront
        self.by_evidence = [Acceptance(usual, _KNOWN) for usual in drafter.usual]
        self.by_position = [Acceptance(_USUAL, _UNKNOWN) for _ in range(k_max)]

    def learn(self, evidence: Sequence[int], tested: int, accepted: int) -> None:
        for i in range(tested):
            self.by_evidence[evidence[i]].update(i < accepted)
            self.by_position[i].update(i < accepted)


@dataclass(slots=True)
class _Offer:
    """What an arm could do in this round.

    made: its draft, if it was made upfront. lag: tokens that it has to read first. first: how often its first proposal
    is accepted. k: the draft length that is worth most. tokens, ms: expected with it. value: tokens less what the time
    is worth.
    """

    arm: _Arm
    made: Draft
    lag: int
    first: Acceptance
    k: int = 0
    tokens: float = 1.0
    ms: float = 0.0
    value: float = float("-inf")


class Controller:
    """Chooses among plain decoding and `drafters`; a Policy.

    costs: what was measured, for all of them. exact: whether a plain round costs exact mode's lone row. name: what the
    whole is called. drafters, measured: what it was given, for whoever shows or tests it.
    """

    def __init__(self, drafters: Sequence[Drafter], costs: Costs, *, exact: bool, name: str) -> None:
        self.name = name
        self.drafters, self.measured = tuple(drafters), costs
        self._arms = [_Arm(d, costs.k_max) for d in drafters]
        self._costs = LiveCosts(costs, exact=exact)
        self._k_max = costs.k_max
        self._length = 0
        self._passes = self._costs.passes(0)
        self._tokens, self._ms = _PLAIN_ROUNDS, _PLAIN_ROUNDS * self._passes[0]
        self._rate = self._tokens / self._ms
        self._account = 0.0
        self._since_plain = _BASELINE - 4  # soon
        self._chosen: _Offer | None = None
        self._evidence: tuple[int, ...] = ()

    def propose(self, history: Sequence[int], k: int, sampler: Sampler) -> Draft:
        self._length = len(history) - 1
        self._passes = self._costs.passes(self._length)
        self._rate = max(self._tokens / self._ms, 1.0 / self._passes[0])
        k = min(k, self._k_max)
        offers = [offer for arm in self._arms if (offer := self._offer(arm, history, k, sampler))]
        best = max(offers, key=self._preference, default=None)
        pays = best is not None and self._preference(best) > self._plain
        note = self._objection(best) if best is not None and pays else ""
        chosen = best if pays and not note else None
        for offer in offers:
            if offer is not chosen:
                offer.first.let_pass()
        self._chosen = chosen
        if chosen is None:
            return Draft(choice=Choice("plain", 1.0, 1.0, None if best is None else self._choice(best), note))
        draft = self._draft(chosen, history, k, sampler)
        self._evidence = draft.evidence
        return draft

    def observe(self, done: Round) -> None:
        plain, chosen = self._passes[0], self._chosen
        rows = len(done.proposed) + 1
        spent = self._passes[rows - 1]  # what such a pass takes, rather than what this one took: clocks are noisy
        self._costs.saw_pass(self._length, rows, done.verify_ms)
        if chosen is not None:
            spent += min(done.draft_ms / self._costs.pace, _STALLED * plain)
            self._account += len(done.tokens) - spent / plain
            chosen.arm.learn(self._evidence, done.tested, done.accepted)
            self._costs.saw_draft(chosen.arm.name, len(done.proposed), chosen.lag, done.draft_ms)
        self._account = min(self._account + _REFILL, _SAVED)
        self._since_plain = self._since_plain + 1 if done.proposed else 0
        self._tokens = self._tokens * _KEEP + len(done.tokens)
        self._ms = self._ms * _KEEP + spent

    def rewind(self, length: int) -> None:
        for arm in self._arms:
            arm.drafter.rewind(length)

    def _offer(self, arm: _Arm, history: Sequence[int], k: int, sampler: Sampler) -> _Offer | None:
        """The best that `arm` could do, worth it or not; None if it has nothing to propose."""
        if arm.upfront:
            made = arm.drafter.propose(history, k, sampler)
            if not made.tokens:
                return None
            offer = _Offer(arm, made, 0, arm.by_evidence[made.evidence[0]])
            chances = [arm.by_evidence[e].chance for e in made.evidence]
        else:
            offer = _Offer(arm, Draft(), arm.drafter.lag(len(history)), arm.by_position[0])
            chances = [a.chance for a in arm.by_position[:k]]
        self._weigh(offer, chances)
        return offer

    def _weigh(self, offer: _Offer, chances: Sequence[float]) -> None:
        """Find the draft length that is worth most, given the chance of each proposal once all before are accepted."""
        fixed = self._costs.draft(offer.arm.name, 0, offer.lag / _STAY)
        token = self._costs.draft(offer.arm.name, 1, offer.lag / _STAY) - fixed
        survival = tokens = 1.0
        for k, chance in enumerate(chances, 1):
            survival *= chance
            tokens += survival
            ms = self._passes[k] + fixed + token * k
            if (value := tokens - self._rate * ms) > offer.value:
                offer.k, offer.tokens, offer.ms, offer.value = k, tokens, ms, value

    @property
    def _plain(self) -> float:
        """What a plain round is worth."""
        return 1.0 - self._rate * self._passes[0]

    def _preference(self, offer: _Offer) -> float:
        same = self._chosen is not None and self._chosen.arm is offer.arm
        return offer.value - (0.0 if same or offer.arm.upfront else _SWITCH)

    def _objection(self, offer: _Offer) -> str:
        """Why a round is plain although a draft seems to pay."""
        if self._since_plain >= _BASELINE:
            return "a pass to compare others with"
        at_worst = self._account - (offer.ms / self._passes[0] - 1.0)
        return "" if at_worst > -_LOSS else "drafts lost too much of late"

    def _draft(self, offer: _Offer, history: Sequence[int], room: int, sampler: Sampler) -> Draft:
        made, k = offer.made, offer.k
        if not offer.arm.upfront:
            made = offer.arm.drafter.propose(history, room, sampler, lambda evidence: self._worth(offer, evidence))
            k = len(made.tokens)
        return Draft(made.tokens[:k], made.probs, made.evidence[:k], self._choice(offer))

    def _worth(self, offer: _Offer, evidence: Sequence[int]) -> bool:
        """Whether some longer draft is worth more than one that ends here."""
        name, made = offer.arm.name, len(evidence)
        survival, gain = 1.0, 0.0
        for e in evidence:
            survival *= offer.arm.by_evidence[e].chance
        token = self._costs.draft(name, 1) - self._costs.draft(name, 0)
        for k in range(made + 1, self._k_max + 1):
            survival *= offer.arm.by_position[k - 1].chance
            gain += survival
            if gain > self._rate * (self._passes[k] - self._passes[made] + token * (k - made)):
                return True
        return False

    def _choice(self, offer: _Offer) -> Choice:
        return Choice(offer.arm.name, offer.tokens, offer.ms / self._passes[0])
