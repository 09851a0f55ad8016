"""The loop: [ propose -> forward -> verify -> rewind ]*. Knows no text, allocates nothing that grows."""

from __future__ import annotations

from collections.abc import Callable, Generator
from time import perf_counter

from edgespec.decoding.passes import forward
from edgespec.decoding.protocols import CausalLM, Draft, Drafter
from edgespec.decoding.sampling import Sampler
from edgespec.decoding.stats import Round
from edgespec.decoding.verify import verify


def generate(
    target: CausalLM,
    history: list[int],
    drafter: Drafter | None,
    *,
    k: int,
    sampler: Sampler,
    max_tokens: int,
    ends: Callable[[int], bool],
    exact: bool,
) -> Generator[Round]:
    """Decode behind `history`, which grows by every round's tokens; the target's cache must hold all of it but the
    last token (see passes.prefill). At most `max_tokens` tokens, and never more in all than the context holds. The
    last round says why it is the last (`finish`).

    Between two rounds, and after closing or failing at any point, the target holds all committed tokens but the last
    and the drafter nothing else: it may lag. In exact mode no pass has a single row, so with temperature 0 (or with
    a seed, as long as drafts are chosen) the tokens are the same for every drafter and every k.
    """
    limit = min(len(history) + max_tokens, target.context_length)
    while len(history) < limit:
        committed = len(history)
        try:
            start = perf_counter()
            draft = Draft()
            if drafter is not None and (room := min(k, limit - committed - 1)) > 0:
                draft = drafter.propose(history, room, sampler)
            drafted = perf_counter()
            logits = forward(target, [history[-1], *draft.tokens], len(draft.tokens) + 1, exact)
            verified = perf_counter()
            verdict = verify(draft, logits, history, sampler, ends)
            history.extend(verdict.tokens)
            committed = len(history)
            if drafter is not None and draft.tokens:
                drafter.observe(verdict.tested, verdict.accepted)
        finally:
            target.rewind(min(target.length, committed - 1))
            if drafter is not None:  # where the last committed token stands, it may keep the proposal that was rejected
                drafter.rewind(committed - 1)
        yield Round(
            tokens=verdict.tokens,
            proposed=draft.tokens,
            tested=verdict.tested,
            accepted=verdict.accepted,
            extra=verdict.extra,
            arm=drafter.name if drafter is not None and draft.tokens else "plain",
            draft_ms=(drafted - start) * 1e3,
            verify_ms=(verified - drafted) * 1e3,
            total_ms=(perf_counter() - start) * 1e3,
            finish="stop" if verdict.ended else "length" if committed >= limit else None,
        )
        if verdict.ended:
            return
