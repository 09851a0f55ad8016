"""The draft model's passes, read from its call log."""

from __future__ import annotations

import numpy as np
import pytest
from answers import CONTEXT, OTHER, PROMPT, TARGET, go_on, greedy_text, start
from fakes import Pass, TableModel

from edgespec.decoding.drafters.draft_model import DraftModelDrafter
from edgespec.decoding.passes import PREFILL_CHUNK
from edgespec.decoding.sampling import Sampler, Sampling

GREEDY = Sampler(Sampling())


def test_after_full_acceptance_it_sees_its_own_last_proposal_once_then_the_bonus() -> None:
    draft = TableModel(TARGET, context_length=CONTEXT)
    text = [*PROMPT, *greedy_text(8)]
    go_on(start(DraftModelDrafter(draft)), k=3, max_tokens=8)
    n = len(PROMPT)
    assert draft.passes == [
        Pass(0, PROMPT, 1),
        Pass(n, (text[n],), 1),
        Pass(n + 1, (text[n + 1],), 1),
        Pass(n + 2, (text[n + 2], text[n + 3]), 1),  # its last proposal, the bonus
        Pass(n + 4, (text[n + 4],), 1),
        Pass(n + 5, (text[n + 5],), 1),
    ]


def test_after_a_rejection_it_sees_the_correction_where_its_proposal_stood() -> None:
    draft = TableModel(-TARGET, context_length=CONTEXT)  # likes best what the target likes least
    text = [*PROMPT, *greedy_text(3)]
    go_on(start(DraftModelDrafter(draft)), k=2, max_tokens=3)
    n = len(PROMPT)
    assert [p for p in draft.passes if p.past == n][-1] == Pass(n, (text[n],), 1)
    assert draft.cached == text[: len(draft.cached)]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_it_computes_no_committed_position_twice(k: int) -> None:
    draft = TableModel(OTHER, context_length=CONTEXT)
    run = go_on(start(DraftModelDrafter(draft)), k=k, max_tokens=40)
    rejected = sum(max(0, len(r.proposed) - 1 - r.accepted) for r in run.rounds)  # the last proposal is never fed
    assert sum(len(p.ids) for p in draft.passes) == draft.length + rejected


def test_it_catches_up_one_chunk_a_round_and_proposes_nothing_meanwhile() -> None:
    prompt = np.random.default_rng(1).integers(0, 6, 3 * PREFILL_CHUNK + 5).tolist()
    draft = TableModel(OTHER, context_length=4 * CONTEXT)
    run = go_on(start(DraftModelDrafter(draft), prompt=prompt, context=4 * CONTEXT))
    assert [len(r.proposed) > 0 for r in run.rounds[:5]] == [False, False, False, True, True]
    assert [len(p.ids) for p in draft.passes[:3]] == [PREFILL_CHUNK] * 3
    assert run.text == greedy_text(24, prompt)


def test_a_long_enough_absence_is_caught_up_with_too() -> None:
    drafter = DraftModelDrafter(TableModel(OTHER, context_length=CONTEXT))
    history = [1, 2]
    drafter.propose(history, 2, GREEDY)
    drafter.rewind(1)
    history += [3] * (PREFILL_CHUNK + 1)
    assert drafter.propose(history, 2, GREEDY).tokens == ()
    assert len(drafter.propose(history, 2, GREEDY).tokens) == 2


def test_it_proposes_up_to_the_last_position_of_its_context() -> None:
    for context in range(1, 12):
        drafter = DraftModelDrafter(TableModel(OTHER, context_length=context))
        # k proposals need the history and all of them but the last.
        assert len(drafter.propose(PROMPT, 4, GREEDY).tokens) == max(0, min(4, context - len(PROMPT) + 1))


def test_greedy_proposals_are_chosen_and_sampled_ones_come_with_their_distribution() -> None:
    assert DraftModelDrafter(TableModel(OTHER)).propose(PROMPT, 3, GREEDY).probs is None

    settings = Sampling(temperature=0.7, top_k=3, repeat_penalty=1.4, seed=5)
    draft = DraftModelDrafter(TableModel(OTHER)).propose(PROMPT, 3, Sampler(settings))
    assert draft.probs is not None
    assert draft.probs.shape == (3, 6)
    text: list[int] = [*PROMPT]
    for token, q in zip(draft.tokens, draft.probs, strict=True):
        assert q.tolist() == Sampler(settings).probabilities(OTHER[text[-2], text[-1]], text).tolist()
        assert q[token] > 0
        text.append(token)
