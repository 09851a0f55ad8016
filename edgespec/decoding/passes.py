"""One pass, and the passes that read a prompt. Exact mode lives here: it is about how many rows a pass has."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from edgespec.decoding.protocols import CausalLM
from edgespec.decoding.remote import Rows, takes_rows

PREFILL_CHUNK = 128
"""Rows of one prefill pass: as quick per token as longer ones on a CPU, and short enough to stop between two."""


def forward(model: CausalLM, ids: Sequence[int], rows: int, exact: bool) -> Rows:
    """The logits of the last `rows` of `ids`. In exact mode a lone row is computed as one among several, because a
    kernel for one row adds in another order than a kernel for several, and the sums differ.

    The room that this takes is there: a cache of n positions serves at most n committed tokens, the last never fed.
    """
    lone = exact and len(ids) == 1
    if takes_rows(model):
        return model.forward_rows(ids, rows, lone)
    return model.forward_exact(ids[0]) if lone else model.forward(ids, rows)


def prefill(model: CausalLM, history: Sequence[int]) -> Generator[int]:
    """Bring the cache to all of `history` but its last token, chunk by chunk; yields `model.length` after each. No
    pass has a lone row, so the cache is good for exact mode too."""
    while model.length < len(history) - 1:
        end = min(model.length + PREFILL_CHUNK, len(history) - 1)
        forward(model, history[model.length : end], 1, exact=True)
        yield model.length
