"""The loop: [ propose -> forward -> verify -> rewind ]*. Knows no text, allocates nothing that grows."""

from __future__ import annotations

from collections.abc import Callable, Generator
from time import perf_counter

from edgespec.decoding.passes import forward
from edgespec.decoding.protocols import CausalLM, Draft, Policy
from edgespec.decoding.remote import Rows
from edgespec.decoding.sampling import Sampler
from edgespec.decoding.stats import Round
from edgespec.decoding.tree import TreeLM
from edgespec.decoding.verify import verify


def generate(
    target: CausalLM,
    history: list[int],
    policy: Policy | None,
    *,
    k: int,
    sampler: Sampler,
    max_tokens: int,
    ends: Callable[[int], bool],
    exact: bool,
    clock: Callable[[], float] = perf_counter,
) -> Generator[Round]:
    """Decode behind `history`, which grows by every round's tokens; the target's cache must hold all of it but the
    last token (see passes.prefill). `policy` says what is proposed; without one every round is plain. At most
    `max_tokens` tokens, and never more in all than the context holds. The last round says why it is the last
    (`finish`). `clock` gives seconds; nothing else here depends on time.

    Between two rounds, and after closing or failing at any point, the target holds all committed tokens but the last
    and the drafters nothing else: they may lag. In exact mode no pass has a single row, so with temperature 0 (or with
    a seed, as long as drafts are chosen) the tokens are the same for every policy and every k.
    """
    limit = min(len(history) + max_tokens, target.context_length)
    while len(history) < limit:
        committed = len(history)
        try:
            start = clock()
            draft = Draft()
            if policy is not None and (room := min(k, limit - committed - 1)) > 0:
                draft = policy.propose(history, room, sampler)
            drafted = clock()
            logits = _verifying_pass(target, history[-1], draft, exact)
            verified = clock()
            verdict = verify(draft, logits, history, sampler, ends)
            if draft.parents is not None and isinstance(target, TreeLM):
                target.gather(committed, [committed + i for i in verdict.path])
            history.extend(verdict.tokens)
            committed = len(history)
        finally:
            target.rewind(min(target.length, committed - 1))
            if policy is not None:  # where the last committed token stands, a drafter may keep what was rejected
                policy.rewind(committed - 1)
        done = Round(
            tokens=verdict.tokens,
            proposed=draft.tokens,
            tested=verdict.tested,
            accepted=verdict.accepted,
            extra=verdict.extra,
            arm=_arm(policy, draft),
            draft_ms=(drafted - start) * 1e3,
            verify_ms=(verified - drafted) * 1e3,
            total_ms=(clock() - start) * 1e3,
            finish="stop" if verdict.ended else "length" if committed >= limit else None,
            choice=draft.choice,
        )
        if policy is not None:
            policy.observe(done)
        yield done
        if verdict.ended:
            return


def _verifying_pass(target: CausalLM, last: int, draft: Draft, exact: bool) -> Rows:
    ids = [last, *draft.tokens]
    if draft.parents is None:
        return forward(target, ids, len(ids), exact)
    if exact or not isinstance(target, TreeLM):
        raise ValueError("a draft tree needs a model that takes trees, and no exact mode")
    return target.forward_tree(ids, [-1, *[parent + 1 for parent in draft.parents]])


def _arm(policy: Policy | None, draft: Draft) -> str:
    if policy is None or not draft.tokens:
        return "plain"
    return policy.name if draft.choice is None else draft.choice.arm
