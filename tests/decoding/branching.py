"""Exact distributions of programs that consume uniform numbers, by following every way they can turn out.

A uniform is not a number here but an interval: each question about it (is it below x, in which part of a partition
does it lie) has finitely many answers, each narrows the interval, and the width that is left is the probability.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np

from edgespec.decoding.sampling import Probabilities, Sampler, Sampling

NEGLIGIBLE = 1e-14
"""Parts narrower than this are rounding, and left out."""

Outcome = TypeVar("Outcome", bound=Hashable)


class World:
    """One way things can turn out: the answers of `script`, then the first answer to every further question."""

    def __init__(self, script: Sequence[int]) -> None:
        self.answers: list[tuple[int, int]] = []
        self._script = script
        self._uniforms: dict[tuple[int, int], Uniform] = {}

    def uniform(self, position: int, slot: int) -> Uniform:
        return self._uniforms.setdefault((position, slot), Uniform(self))

    def answer(self, possible: int) -> int:
        asked = len(self.answers)
        chosen = self._script[asked] if asked < len(self._script) else 0
        self.answers.append((chosen, possible))
        return chosen

    @property
    def probability(self) -> float:
        return float(np.prod([u.high - u.low for u in self._uniforms.values()]))


class Uniform:
    """A uniform number of which only the interval is known. `u * q < p` is what the accept rule asks of it."""

    def __init__(self, world: World) -> None:
        self.low, self.high = 0.0, 1.0
        self._world = world

    def part(self, edges: Sequence[float]) -> int:
        """In which part of [0, 1), cut at the rising `edges` (the last is 1), the number lies."""
        parts: list[tuple[int, float, float]] = []
        for i, (start, end) in enumerate(zip([0.0, *edges], edges, strict=False)):
            low, high = max(start, self.low), min(end, self.high)
            if high - low > NEGLIGIBLE:
                parts.append((i, low, high))
        index, self.low, self.high = parts[self._world.answer(len(parts))]
        return index

    def __mul__(self, factor: float) -> _Multiple:
        return _Multiple(self, factor)


class _Multiple:
    def __init__(self, uniform: Uniform, factor: float) -> None:
        self._uniform, self._factor = uniform, factor

    def __lt__(self, bound: float) -> bool:
        return self._uniform.part([min(1.0, bound / self._factor), 1.0]) == 0


class BranchingSampler(Sampler):
    """A sampler whose uniforms belong to a world."""

    def __init__(self, settings: Sampling, world: World) -> None:
        super().__init__(settings)
        self._world = world

    def uniforms(self, position: int) -> tuple[Uniform, Uniform, Uniform]:  # pyright: ignore[reportIncompatibleMethodOverride]
        first, second, third = (self._world.uniform(position, slot) for slot in range(3))
        return first, second, third


def branching_draw(p: Probabilities, u: Uniform) -> int:
    """What `sampling.draw` computes, asked of a uniform that is an interval."""
    order = np.argsort(-p, kind="stable")
    edges = np.cumsum(p[order], dtype=np.float64) / p.sum(dtype=np.float64)
    edges[-1] = 1.0
    return int(order[u.part(edges.tolist())])


def branching_race(p: Probabilities, _: object, u: Uniform) -> int:
    """What `sampling.race` computes, asked of a uniform that is an interval instead of the numbers of a race."""
    return branching_draw(p, u)


def distribution(run: Callable[[World], Outcome]) -> dict[Outcome, float]:
    """The probability of every outcome of `run`."""
    outcomes: Counter[Outcome] = Counter()
    script: list[int] = []
    while True:
        world = World(script)
        outcome = run(world)
        outcomes[outcome] += world.probability  # pyright: ignore[reportArgumentType]
        answers = world.answers
        while answers and answers[-1][0] + 1 == answers[-1][1]:
            answers.pop()
        if not answers:
            return dict(outcomes)
        script = [chosen for chosen, _ in answers]
        script[-1] += 1
