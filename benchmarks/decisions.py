"""What the controller and the cost model take, in microseconds a round.

    python -m benchmarks.decisions

Plays rounds over a made-up text in which passages return, without a model: the times of passes come from a table. Three
drafters are weighed in each round: n-gram lookup, and two that propose nothing of use and take no time themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter

import numpy as np

from edgespec.decoding.controller import Controller
from edgespec.decoding.costs import Costs, DraftCost
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.protocols import Draft, Fixed, Policy, Worth, always
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.decoding.stats import Round

PASSES = (10.0, 12.5, 13.2, 14.8, 16.2, 17.5, 18.6, 20.0, 21.5)
NAMES = ("ngram", "head", "draft")
COSTS = Costs(
    (128, 1024), (PASSES, tuple(1.2 * ms for ms in PASSES)), (10.3, 13.5), {n: DraftCost(0.1, 0.5) for n in NAMES}
)
LENGTH, RUNS = 2000, 7


class Idle:
    """A costly drafter that proposes one token, the same each time, at once."""

    usual = (0.5,)
    upfront = False

    def __init__(self, name: str) -> None:
        self.name = name

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        return Draft((0,), evidence=(0,))

    def lag(self, length: int) -> int:
        return 0

    def rewind(self, length: int) -> None:
        """Keeps nothing."""


def text() -> list[int]:
    """Random tokens, half of them in passages of twelve that stood before."""
    random = np.random.default_rng(0)
    ids = random.integers(0, 5000, 200).tolist()
    while len(ids) < LENGTH:
        start = int(random.integers(0, len(ids) - 12))
        ids += ids[start : start + 12] if random.random() < 0.5 else random.integers(0, 5000, 12).tolist()
    return ids[:LENGTH]


def microseconds(policy: Policy, whole: list[int]) -> float:
    """Time in the policy, per round."""
    sampler, history, spent, rounds = Sampler(Sampling()), whole[:100], 0.0, 0
    while len(history) < LENGTH - 9:
        start = perf_counter()
        draft = policy.propose(history, 8, sampler)
        spent += perf_counter() - start
        following = whole[len(history) : len(history) + len(draft.tokens)]
        accepted = next((i for i, (a, b) in enumerate(zip(draft.tokens, following, strict=True)) if a != b), None)
        accepted = len(draft.tokens) if accepted is None else accepted
        n = len(draft.tokens)
        tokens = tuple(whole[len(history) : len(history) + accepted + 1])
        history += tokens
        ms = COSTS.at(len(history), exact=True)[n]
        arm = draft.choice.arm if draft.choice else policy.name if n else "plain"
        done = Round(tokens, draft.tokens, min(accepted + 1, n), accepted, "bonus", arm, 0.1, ms, ms + 0.1)
        start = perf_counter()
        policy.rewind(len(history) - 1)
        policy.observe(done)
        spent += perf_counter() - start
        rounds += 1
    return spent / rounds * 1e6


def main() -> None:
    whole = text()
    found: dict[str, list[float]] = {"n-gram lookup": [], "weighed by the controller": [], "with two more": []}
    for _ in range(RUNS):
        lookup = NgramDrafter()
        alone = Controller([NgramDrafter()], COSTS, exact=True, name="one")
        three = Controller([NgramDrafter(), Idle("head"), Idle("draft")], COSTS, exact=True, name="three")
        for name, policy in zip(found, (Fixed(lookup), alone, three), strict=True):
            found[name].append(microseconds(policy, whole))
    for name, times in found.items():
        print(f"{name:28}{median(times):6.1f} us a round ({min(times):.1f} to {max(times):.1f})")


if __name__ == "__main__":
    main()
