"""Does exact mode hold on this machine? It rests on kernels that no standard binds, so it is probed, not assumed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgespec.decoding.protocols import CausalLM

_LENGTH = 60
_SPLITS = (1, 2, 3, 4, 5, 6, 7, 8, 9)


def splits_agree(model: CausalLM, splits: Sequence[int] = _SPLITS, tail: int = _LENGTH) -> bool:
    """Whether every split of a text into passes of exact mode gives bit-identical logits.

    The text is arbitrary but fixed token ids, of which the last `tail` are split. The model's cache is empty before and
    after.
    """
    length = min(_LENGTH, model.context_length)
    ids = [(i * 7919 + 13) % model.vocab_size for i in range(length)]
    model.rewind(0)
    whole = model.forward(ids).copy()
    same = True
    for rows in splits:
        model.rewind(max(length - tail, 0))
        while model.length + max(rows, 2) <= length:  # a lone row needs room for another
            start = model.length
            logits = model.forward_exact(ids[start]) if rows == 1 else model.forward(ids[start : start + rows])
            same &= np.array_equal(logits, whole[start : start + rows])
    model.rewind(0)
    return same
