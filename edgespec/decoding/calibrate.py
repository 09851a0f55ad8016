"""Measuring what passes and proposals cost: a few seconds, once for a model on a machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

import numpy as np

from edgespec.decoding.costs import Costs, DraftCost
from edgespec.decoding.passes import PREFILL_CHUNK, forward, prefill
from edgespec.decoding.protocols import CausalLM, Drafter
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.errors import ContextFullError

_CONTEXTS = (128, 1024)
_LEAST, _MOST = 3, 15
"""Repetitions of each figure: as many as `seconds` allows."""
_DRAFT = 4
"""Tokens of the longer of two proposals that are compared."""


def measure_costs(
    model: CausalLM,
    drafters: Sequence[Drafter],
    *,
    k_max: int,
    seconds: float = 3.0,
    clock: Callable[[], float] = perf_counter,
    progress: Callable[[float], None] = lambda _: None,
) -> Costs:
    """Time passes of 1 to k_max + 1 rows at two context lengths, and each drafter behind a pass of the model, as in a
    round: alone, with the caches to itself, it would be quicker. All caches are empty afterwards.

    Raises: GenerationError if a pass fails; ContextFullError if the context cannot hold k_max + 3 tokens.
    """
    room = model.context_length - k_max - 2
    if room < 1:
        raise ContextFullError(f"a context of {model.context_length} tokens has no room for drafts of {k_max}.")
    contexts = (min(_CONTEXTS[0], room // 2), min(_CONTEXTS[1], room))
    share = seconds / 2.5
    times: list[list[list[float]]] = []
    for n, length in enumerate(contexts):
        text = _text(length + 1, model.vocab_size)
        for _ in prefill(model, text):
            pass
        times.append(_time_passes(model, text, k_max, share, clock))
        progress((n + 1) / 2.5)
    text = _text(contexts[0] + 1, model.vocab_size)
    drafts = {d.name: _time_draft(model, d, text, share / (2 * len(drafters)), clock) for d in drafters}
    model.rewind(0)
    progress(1.0)
    short, long = ([median(t) for t in rows] for rows in times)
    return Costs(contexts, (tuple(short[1:]), tuple(long[1:])), (short[0], long[0]), drafts)


def _text(length: int, vocab: int) -> list[int]:
    """Tokens of which no run stands there twice, so that lookups search all of it."""
    return [(i * 7919 + i // 97) % vocab for i in range(length)]


def _time_passes(
    model: CausalLM, text: Sequence[int], k_max: int, seconds: float, clock: Callable[[], float]
) -> list[list[float]]:
    """Milliseconds of the lone row of exact mode, then of 1 .. k_max + 1 rows; in turn, so that what disturbs the
    machine disturbs all alike."""
    length = model.length
    ids = [text[i % len(text)] for i in range(k_max + 1)]
    passes: list[Callable[[], object]] = [lambda: _timed_pass(model, ids[:1], exact=True)]
    passes += [lambda n=n: _timed_pass(model, ids[:n], exact=False) for n in range(1, k_max + 2)]
    times: list[list[float]] = [[] for _ in passes]
    for run in passes:  # the first pass of a size allocates
        run()
        model.rewind(length)
    end = clock() + seconds
    while len(times[0]) < _LEAST or (len(times[0]) < _MOST and clock() < end):
        for run, found in zip(passes, times, strict=True):
            start = clock()
            run()
            found.append((clock() - start) * 1e3)
            model.rewind(length)
    return times


def _timed_pass(model: CausalLM, ids: Sequence[int], *, exact: bool) -> None:
    """A pass of which each row's choice is known in the end, as a round needs it."""
    logits = forward(model, ids, len(ids), exact)
    if not isinstance(logits, np.ndarray):
        logits.best(0)


def _time_draft(
    model: CausalLM, drafter: Drafter, text: list[int], seconds: float, clock: Callable[[], float]
) -> DraftCost:
    sampler, length = Sampler(Sampling()), len(text)

    def timed(k: int) -> float:
        model.rewind(length - 1)
        model.forward(text[-1:] * 2, 2)
        model.rewind(length - 1)
        start = clock()
        drafter.propose(text, k, sampler)
        took = (clock() - start) * 1e3
        drafter.rewind(length - 1)
        return took

    model.rewind(0)
    for _ in prefill(model, text):
        pass
    drafter.rewind(0)
    lag = min(drafter.lag(length), PREFILL_CHUNK)
    reading = timed(1) if lag else 0.0
    for _ in range(drafter.lag(length) // PREFILL_CHUNK + 1):
        timed(1)
    times: list[tuple[float, float]] = []
    timed(_DRAFT)
    end = clock() + seconds
    while len(times) < _LEAST or (len(times) < _MOST and clock() < end):
        times.append((timed(1), timed(_DRAFT)))
    one, several = (median(t) for t in zip(*times, strict=True))
    drafter.rewind(0)
    token = max(several - one, 0.0) / (_DRAFT - 1)
    return DraftCost(max(one - token, 0.0), token, max(reading - one, 0.0) / lag if lag else 0.0)
