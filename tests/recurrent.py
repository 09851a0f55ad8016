"""A recurrent head of random weights, and its arithmetic in NumPy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgespec.graph.recurrent import EPSILON, RecurrentConfig, RecurrentWeights

Floats = NDArray[np.float32]


def random_head(tapped_size: int, token_count: int, words: int = 64, seed: int = 0) -> RecurrentWeights:
    random = np.random.default_rng(seed)
    config = RecurrentConfig(
        tapped_size, token_count, embedding_size=32, state_size=64, ffn_size=96, rank=32, vocab_size=words
    )
    tensors: dict[str, Floats] = {}
    for name, shape in config.tensors().items():
        if len(shape) == 1:
            tensors[name] = random.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            loudness = 1.0 if name == "embedding" else 2.0 / shape[1] ** 0.5
            tensors[name] = random.normal(0.0, loudness, shape).astype(np.float32)
    token_ids = np.sort(random.permutation(token_count)[:words]).astype(np.int64)
    return RecurrentWeights(config, tensors, token_ids, np.array([0.9, 0.4, 0.5, 0.9, 1.3, -0.3], np.float32))


def begin(w: Mapping[str, Floats], taps: Floats) -> Floats:
    return w["taps"] @ _norm(taps, w["taps_norm"])


def go_on(w: Mapping[str, Floats], state: Floats) -> Floats:
    return w["own"] @ _norm(state, w["own_norm"])


def step(w: Mapping[str, Floats], carried: Floats, token: int) -> tuple[Floats, Floats]:
    """The own state, and the probabilities of the head's tokens."""
    state = carried + w["token"] @ w["embedding"][token]
    up = w["up"] @ _norm(state, w["ffn_norm"])
    state = state + w["down"] @ (up / (1.0 + np.exp(-up)))
    logits = w["output"] @ (w["projection"] @ _norm(state, w["output_norm"]))
    exponents = np.exp(logits - logits.max())
    return state, exponents / exponents.sum()


def _norm(x: Floats, gain: Floats) -> Floats:
    return x / np.sqrt((x**2).mean() + EPSILON) * gain
