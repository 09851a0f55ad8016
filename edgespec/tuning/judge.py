"""Whether one set of settings is faster than another, from runs that took turns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from edgespec.benchmark.intervals import student


@dataclass(frozen=True, slots=True)
class SpeedUp:
    """How many times as fast, and between which bounds with 95 % confidence, over so many pairs of runs."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def certain(self) -> bool:
        """Whether it is a gain that chance would show in less than one comparison of forty."""
        return self.low > 1.0


def compare(before: Sequence[float], after: Sequence[float]) -> SpeedUp:
    """The speed-up from times `before` to times `after`, of which those at the same place are of the same prompt and
    followed each other: the geometric mean of their ratios, with Student's interval for the mean of the logarithms.

    Raises: ValueError for less than two pairs.
    """
    logs = [math.log(b / a) for b, a in zip(before, after, strict=True)]
    mean = fmean(logs)
    reach = student(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return SpeedUp(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), len(logs))
