"""Evidence of drafters that have a distribution: how much of it their likeliest token holds."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

_EDGES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
USUAL = (0.1, 0.2, 0.33, 0.47, 0.6, 0.75, 0.9)
"""How often a proposal of each class is accepted: a little less than the confidence itself."""


def confidence_class(probability: float) -> int:
    """The class of a proposal from a distribution whose largest probability is this."""
    return bisect_right(_EDGES, probability)


def peak(logits: NDArray[np.float32]) -> float:
    """The largest probability of softmax(logits). logits: float32 [vocab]."""
    return 1.0 / float(np.exp(logits - logits.max()).sum())
