"""How far a ratio of totals could be off if other prompts of the same kind had been taken."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
Totals = NDArray[np.float64]

_RESAMPLES = 4000
_Z = NormalDist().inv_cdf(0.975)


def bootstrap(parts: Totals, statistic: Callable[[Totals], Totals], seed: int = 0) -> Interval | None:
    """A 95 % interval of `statistic` by resampling prompts (Efron 1979), the same for the same parts and seed.

    parts: float64 [prompts, columns], what each prompt adds to every total. statistic: from totals [columns, n] to
    values [n]. With few prompts the percentiles lie further out (Hesterberg 2015, What Teachers Should Know About the
    Bootstrap, expanded percentiles), as Student's t does. None for a single prompt.
    """
    n = len(parts)
    if n < 2:
        return None
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=_RESAMPLES)
    values = statistic((counts @ parts).T)
    tail = NormalDist().cdf(-sqrt(n / (n - 1)) * student(n - 1))
    low, high = np.quantile(values, (tail, 1.0 - tail)).tolist()
    return low, high


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, from its expansion in 1 / freedom (Abramowitz and Stegun 26.7.5); too small
    for 1 and 2 degrees. (There, all of a bootstrap's resamples lie inside anyway.)"""
    z, v = _Z, freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
