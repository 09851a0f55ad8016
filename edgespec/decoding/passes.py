"""One pass, and the passes that read a prompt. Exact mode lives here: it is about how many rows a pass has."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from edgespec.decoding.protocols import CausalLM, Logits

PREFILL_CHUNK = 128
"""Rows of one prefill pass: as quick per token as longer ones on a CPU, and short enough to stop between two."""


def forward(model: CausalLM, ids: Sequence[int], rows: int, exact: bool) -> Logits:
    """The logits of the last `rows` of `ids`. In exact mode a lone row gets company and is rewound, because a kernel
    for one row adds in another order than the kernel for several, and the sums differ.

    The padding always fits: a cache of n positions serves at most n committed tokens, the last of which is never fed.
    """
    if not exact or len(ids) > 1:
        return model.forward(ids, rows)
    logits = model.forward([*ids, *ids], 2)
    model.rewind(model.length - 1)
    return logits[:1]


def prefill(model: CausalLM, history: Sequence[int]) -> Generator[int]:
    """Bring the cache to all of `history` but its last token, chunk by chunk; yields `model.length` after each. No
    pass has a lone row, so the cache is good for exact mode too."""
    while model.length < len(history) - 1:
        end = min(model.length + PREFILL_CHUNK, len(history) - 1)
        forward(model, history[model.length : end], 1, exact=True)
        yield model.length
