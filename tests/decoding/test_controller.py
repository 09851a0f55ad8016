"""The controller against recorded worlds: what each drafter would get right at each position is fixed in advance, time
is what the cost table says, so every policy can be played on the same text and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edgespec.decoding.controller import Controller
from edgespec.decoding.costs import Costs, DraftCost
from edgespec.decoding.protocols import Draft, Drafter, Fixed, Policy, Worth, always
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.decoding.stats import Choice, Round

GREEDY = Sampler(Sampling())
PASSES = (10.0, 12.5, 13.2, 14.8, 16.2, 17.5, 18.6, 20.0, 21.5)
TOKENS = 512


def costs(**drafts: DraftCost) -> Costs:
    return Costs((128, 1024), (PASSES, tuple(1.2 * ms for ms in PASSES)), (10.3, 13.5), drafts)


class Recorded:
    """Right about the token at position p exactly if hits[p]. Token 1 is right, 0 is wrong: the text is all ones.

    evidence: the class of the proposal for each position, if it says anything.
    """

    def __init__(
        self,
        name: str,
        hits: NDArray[np.bool_],
        *,
        upfront: bool = True,
        evidence: NDArray[np.int64] | None = None,
        usual: Sequence[float] = (0.5,),
        reads: bool = False,
    ) -> None:
        self.name, self.upfront, self.usual = name, upfront, usual
        self.calls = 0
        self._hits = hits
        self._evidence = np.zeros(len(hits), np.int64) if evidence is None else evidence
        self._reads = reads
        self._read = 0

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        self.calls += 1
        self._read = len(history)
        tokens: list[int] = []
        evidence: list[int] = []
        for position in range(len(history), len(history) + k):
            if tokens and not worth(evidence):
                break
            tokens.append(int(self._hits[position]))
            evidence.append(int(self._evidence[position]))
        return Draft(tuple(tokens), evidence=tuple(evidence))

    def lag(self, length: int) -> int:
        return max(length - self._read, 0) if self._reads else 0

    def rewind(self, length: int) -> None:
        self._read = min(self._read, length)


@dataclass
class Played:
    """What came of a text: milliseconds in all, and every round."""

    ms: float
    rounds: list[Round]

    @property
    def arms(self) -> dict[str, int]:
        return {arm: sum(r.arm == arm for r in self.rounds) for arm in {r.arm for r in self.rounds}}


def play(
    policy: Policy | None,
    table: Costs,
    *,
    tokens: int = TOKENS,
    start: int = 64,
    k: int = 8,
    pace: Callable[[int], float] = lambda _: 1.0,
) -> Played:
    """Decode `tokens` tokens. The text is as long as the hits of the drafters reach. pace: slows round i down."""
    history, played = [1] * start, Played(0.0, [])
    while len(history) < start + tokens:
        draft = Draft()
        room = min(k, start + tokens - len(history) - 1)
        lag = 0
        if policy is not None and room > 0:
            lags = {d.name: d.lag(len(history)) for d in drafters_of(policy)}
            draft = policy.propose(history, room, GREEDY)
            lag = lags.get(arm_of(policy, draft), 0)
        accepted = next((i for i, token in enumerate(draft.tokens) if not token), len(draft.tokens))
        n, slow = len(draft.tokens), pace(len(played.rounds))
        cost = table.drafts.get(arm_of(policy, draft), DraftCost(0.0))
        draft_ms = (cost.fixed + cost.token * n + cost.lag * lag) * slow if n else 0.0
        verify_ms = table.at(len(history) - 1, exact=True)[n] * slow
        done = Round(
            tokens=(1,) * (accepted + 1),
            proposed=draft.tokens,
            tested=min(accepted + 1, n),
            accepted=accepted,
            extra="plain" if not n else "bonus" if accepted == n else "correction",
            arm=arm_of(policy, draft),
            draft_ms=draft_ms,
            verify_ms=verify_ms,
            total_ms=draft_ms + verify_ms,
            choice=draft.choice,
        )
        history += done.tokens
        played.ms += (draft_ms + verify_ms) / slow
        played.rounds.append(done)
        if policy is not None:
            policy.rewind(len(history) - 1)
            policy.observe(done)
    return played


def arm_of(policy: Policy | None, draft: Draft) -> str:
    if policy is None or not draft.tokens:
        return "plain"
    return policy.name if draft.choice is None else draft.choice.arm


def drafters_of(policy: Policy) -> list[Drafter]:
    return [policy.drafter] if isinstance(policy, Fixed) else [arm.drafter for arm in policy._arms]  # pyright: ignore


def best_fixed(drafters: Callable[[], Sequence[Drafter]], table: Costs, *, tokens: int) -> float:
    """The time of the best of plain decoding and every drafter with every k."""
    times = [play(None, table, tokens=tokens).ms]
    for n in range(len(drafters())):
        times += [play(Fixed(drafters()[n]), table, k=k, tokens=tokens).ms for k in range(1, 9)]
    return min(times)


def chances(p: float | NDArray[np.float64], seed: int, size: int = 5000) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(size) < p


def controlled(drafters: Sequence[Drafter], table: Costs) -> Controller:
    return Controller(drafters, table, exact=True, name="controlled")


CHEAP = costs(cheap=DraftCost(0.05))
HEAD = costs(head=DraftCost(0.2, 0.9, 0.05))
BOTH = costs(head=DraftCost(0.2, 0.9, 0.05), cheap=DraftCost(0.05))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("table", [CHEAP, HEAD], ids=["looked up", "head"])
def test_close_to_the_best_fixed_arm_where_nothing_changes(p: float, table: Costs) -> None:
    (name,) = table.drafts
    shares: list[float] = []
    for seed in range(5):

        def drafters(seed: int = seed) -> list[Drafter]:
            return [Recorded(name, chances(p, seed), upfront=name == "cheap")]

        ours = play(controlled(drafters(), table), table, tokens=2000).ms
        shares.append(ours / best_fixed(drafters, table, tokens=2000))
    assert np.mean(shares) <= 1.05
    assert max(shares) <= 1.1


def test_evidence_beats_every_fixed_arm() -> None:
    """A drafter that is sure of half its proposals, and says so."""
    rng = np.random.default_rng(1)
    evidence = rng.integers(0, 2, 5000)
    hits = rng.random(5000) < np.where(evidence == 1, 0.9, 0.05)

    def drafters() -> list[Drafter]:
        return [Recorded("cheap", hits, evidence=evidence, usual=(0.3, 0.6))]

    ours = play(controlled(drafters(), CHEAP), CHEAP, tokens=2000).ms
    assert ours < 0.93 * best_fixed(drafters, CHEAP, tokens=2000)


def test_of_two_drafters_the_better_one_is_used_and_changes_are_followed() -> None:
    turns = (np.arange(5000) // 400) % 2
    for seed in range(5):

        def drafters(seed: int = seed) -> list[Drafter]:
            return [
                Recorded("cheap", chances(np.where(turns == 1, 0.85, 0.05), seed)),
                Recorded("head", chances(0.6, seed + 100), upfront=False, reads=True),
            ]

        ours = play(controlled(drafters(), BOTH), BOTH, tokens=4000)
        assert ours.ms < best_fixed(drafters, BOTH, tokens=4000)
        assert min(ours.arms["cheap"], ours.arms["head"]) > 100


ALWAYS_WRONG = np.zeros(5000, np.bool_)


@pytest.mark.parametrize("usual", [0.1, 0.5, 0.9])
def test_a_drafter_that_is_always_wrong_costs_next_to_nothing(usual: float) -> None:
    for upfront, table in ((True, CHEAP), (False, HEAD)):
        (name,) = table.drafts
        evidence = np.random.default_rng(2).integers(0, 18, 5000)
        hostile = Recorded(name, ALWAYS_WRONG, upfront=upfront, evidence=evidence, usual=(usual,) * 18)
        ours = play(controlled([hostile], table), table)
        assert ours.ms <= play(None, table).ms / 0.97


def test_a_drafter_that_turns_out_wrong_whenever_it_is_used() -> None:
    """The adversary knows the policy: it is right until it was believed ten times, then wrong as often."""

    class Adversary(Recorded):
        def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
            self.calls += 1
            return Draft((int(self.calls // 10 % 2 == 0),) * k, evidence=(0,) * k)

    ours = play(controlled([Adversary("cheap", ALWAYS_WRONG)], CHEAP), CHEAP)
    assert ours.ms <= play(None, CHEAP).ms / 0.97


def test_a_drafter_ten_times_slower_than_the_target_is_never_asked() -> None:
    table = costs(slow=DraftCost(0.0, 100.0, 1.0))
    slow = Recorded("slow", chances(1.0, 0), upfront=False, reads=True)
    assert play(controlled([slow], table), table).ms == pytest.approx(play(None, table).ms)
    assert slow.calls == 0


def test_a_drafter_that_was_measured_wrongly_is_found_out() -> None:
    """Measured as cheap, it takes ten plain passes."""
    measured, real = costs(head=DraftCost(0.2, 0.9, 0.05)), costs(head=DraftCost(100.0, 0.9, 0.05))
    liar = Recorded("head", chances(0.9, 3), upfront=False)
    assert play(controlled([liar], measured), real).ms <= play(None, real).ms / 0.95


def test_what_a_drafter_missed_is_charged_to_it() -> None:
    """One that must read a thousand tokens for a proposal that is seldom right is not asked."""
    table = costs(head=DraftCost(0.2, 0.9, 2.0))
    reader = Recorded("head", chances(0.5, 4), upfront=False, reads=True)
    ours = play(controlled([reader], table), table, start=1000, tokens=256)
    assert ours.ms <= play(None, table, start=1000, tokens=256).ms / 0.97


def test_what_did_not_pay_is_tried_again_and_used_once_it_does() -> None:
    hits = chances(np.where(np.arange(5000) < 1500, 0.0, 0.9), 5)
    ours = play(controlled([Recorded("cheap", hits)], CHEAP), CHEAP, tokens=4000)
    early, late = ours.rounds[200:1000], ours.rounds[-300:]
    assert sum(r.arm == "cheap" for r in early) < 0.05 * len(early)
    assert sum(r.arm == "cheap" for r in late) > 0.9 * len(late)


def test_a_machine_that_slows_down_as_a_whole_changes_nothing() -> None:
    def drafters() -> list[Drafter]:
        return [Recorded("cheap", chances(0.5, 6)), Recorded("head", chances(0.6, 7), upfront=False)]

    even = play(controlled(drafters(), BOTH), BOTH)
    slowed = play(controlled(drafters(), BOTH), BOTH, pace=lambda i: 1.0 if i < 50 else 2.5)
    assert slowed.ms <= 1.08 * even.ms


def test_a_pass_that_got_dear_is_avoided() -> None:
    """V(2) is measured as 1.25 plain passes; really it is 2.2."""
    real = costs(cheap=DraftCost(0.05))
    real = replace(real, passes=tuple((row[0], *(2.2 * ms for ms in row[1:])) for row in real.passes))
    ours = play(controlled([Recorded("cheap", chances(0.45, 8))], CHEAP), real, tokens=2000)
    assert ours.ms <= play(None, real, tokens=2000).ms / 0.96


def test_the_same_rounds_give_the_same_choices() -> None:
    def run() -> list[Choice | None]:
        drafters = [Recorded("cheap", chances(0.4, 9)), Recorded("head", chances(0.6, 10), upfront=False, reads=True)]
        noise = np.random.default_rng(11).lognormal(0.0, 0.2, 5000)
        return [r.choice for r in play(controlled(drafters, BOTH), BOTH, pace=lambda i: float(noise[i])).rounds]

    assert run() == run()


def test_noise_in_the_clock_costs_little() -> None:
    noise = np.random.default_rng(12).lognormal(0.0, 0.4, 9000)
    for p in (0.15, 0.3, 0.6, 0.9):

        def drafters(p: float = p) -> list[Drafter]:
            return [Recorded("cheap", chances(p, 13))]

        ours = play(controlled(drafters(), CHEAP), CHEAP, tokens=3000, pace=lambda i: float(noise[i])).ms
        assert ours <= 1.08 * best_fixed(drafters, CHEAP, tokens=3000)


def test_a_round_says_why() -> None:
    ours = play(controlled([Recorded("cheap", chances(0.5, 14))], CHEAP), CHEAP)
    reasons = [r.choice.reason for r in ours.rounds if r.choice]
    assert len(reasons) >= len(ours.rounds) - 1  # the last token has no room for a draft
    assert any(reason.startswith("cheap: ") and "tokens expected for" in reason for reason in reasons)
    hostile = play(controlled([Recorded("cheap", ALWAYS_WRONG)], CHEAP), CHEAP)
    doubtful = play(controlled([Recorded("cheap", ALWAYS_WRONG, usual=(0.1,))], CHEAP), CHEAP)
    assert doubtful.rounds[0].choice is not None
    assert doubtful.rounds[0].choice.reason.startswith("plain: cheap would add 0.1")
    said = {r.choice.reason for r in hostile.rounds if r.choice}
    assert {"plain: drafts lost too much of late", "plain: a pass to compare others with"} <= said
    alone = play(controlled([], costs()), costs(), tokens=4)
    assert alone.rounds[0].choice is not None
    assert alone.rounds[0].choice.reason == "plain: nothing to propose"


def test_a_draft_is_never_longer_than_there_is_room() -> None:
    for k in range(1, 12):
        policy = controlled(
            [Recorded("cheap", chances(1.0, 0)), Recorded("head", chances(1.0, 0), upfront=False)], BOTH
        )
        ours = play(policy, BOTH, k=k, tokens=40)
        assert all(len(r.proposed) <= min(k, 8) for r in ours.rounds)
        assert sum(len(r.tokens) for r in ours.rounds) == 40
