"""Do two samples of answers come from one distribution? A permutation test over next-token counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Answers = NDArray[np.int64]
"""Sampled answers, int64 [answers, positions]: token ids, -1 behind an end."""

PERMUTATIONS = 9999
_LEAST = 8
"""Times that a token must stand at a position, in both samples together, to be counted by itself."""
_BATCH = 1000


def p_value(a: Answers, b: Answers, seed: int) -> float:
    """How often chance alone tells the samples apart as clearly as they are: under 0.01 in one of a hundred tests of
    equal distributions, whatever the distribution (a permutation test is exact: Phipson and Smyth 2010).

    What is compared is the sum over positions and tokens of (n_a - n_b)² / (n_a + n_b), as in Pearson's test of
    homogeneity. Whole answers are permuted, because the tokens of one depend on each other.
    """
    both = _indicators(np.concatenate([a, b]))
    expected = both.sum(axis=0) * (len(a) / len(both))

    def distance(counts: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((counts - expected) ** 2 / expected).sum(axis=-1)

    seen = float(distance(both[: len(a)].sum(axis=0)))
    rng = np.random.default_rng(seed)
    label = (np.arange(len(both)) < len(a)).astype(np.float32)
    clearer = 0
    for start in range(0, PERMUTATIONS, _BATCH):
        labels = np.tile(label, (min(_BATCH, PERMUTATIONS - start), 1))
        counts = rng.permuted(labels, axis=1) @ both
        clearer += int((distance(counts) >= seen * (1.0 - 1e-5)).sum())  # sums of float32 differ in their last bits
    return (clearer + 1) / (PERMUTATIONS + 1)


def _indicators(answers: Answers) -> NDArray[np.float32]:
    """Which token each answer has at each position, 0 or 1, float32 [answers, columns]; rare ones share a column."""
    columns: list[NDArray[np.bool_]] = []
    for tokens in answers.T:
        values, counts = np.unique(tokens, return_counts=True)
        frequent = values[counts >= _LEAST]
        columns += [tokens == value for value in frequent]
        if (rest := ~np.isin(tokens, frequent)).any():
            columns.append(rest)
    return np.stack(columns, axis=1).astype(np.float32)
