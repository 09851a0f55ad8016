"""Passes and caches: how many rows a pass has, and what the caches hold when an answer is stopped or fails."""

from __future__ import annotations

import numpy as np
import pytest
from answers import CONTEXT, DRAFTERS, OTHER, PROMPT, TARGET, MakeDrafter, Run, go_on, greedy_text, start
from fakes import ChosenDrafter, TableModel, likeliest

from edgespec.decoding.controller import Controller
from edgespec.decoding.drafters.draft_model import DraftModelDrafter
from edgespec.decoding.passes import PREFILL_CHUNK, prefill
from edgespec.decoding.protocols import Logits
from edgespec.decoding.sampling import Sampling
from edgespec.errors import GenerationError

VOCAB = len(TARGET)
LONG = tuple(int(t) for t in np.random.default_rng(0).integers(0, VOCAB, PREFILL_CHUNK + 2))
"""One token more than a chunk, and the last one, which prefill leaves out."""

each_drafter = pytest.mark.parametrize("make", DRAFTERS.values(), ids=DRAFTERS.keys())
each_setting = pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.9, seed=4)], ids=["greedy", "sampled"]
)


@each_drafter
@pytest.mark.parametrize("prompt", [PROMPT, LONG, LONG[:2], LONG[:1]], ids=len)
def test_in_exact_mode_no_pass_of_the_target_has_a_single_row(make: MakeDrafter, prompt: tuple[int, ...]) -> None:
    for k in (1, 4):
        run = go_on(start(make(), prompt=prompt), k=k, max_tokens=12)
        assert run.target.passes
        assert all(len(p.ids) >= 2 for p in run.target.passes)
        assert all(p.rows >= 2 for p in run.target.passes[-len(run.rounds) :])


def test_without_exact_mode_a_plain_pass_has_a_single_row() -> None:
    run = go_on(start(None, exact=False), exact=False)
    assert [len(p.ids) for p in run.target.passes[1:]] == [1] * 24


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("length", [1, 2, 3, PREFILL_CHUNK, PREFILL_CHUNK + 1, PREFILL_CHUNK + 2, 2 * PREFILL_CHUNK])
def test_prefill_stops_before_the_last_token_of_a_prompt_that_fills_the_context(length: int, exact: bool) -> None:
    prompt = (LONG * 2)[:length]
    target = TableModel(TARGET, context_length=length)
    lengths = list(prefill(target, prompt))
    assert target.cached == list(prompt[:-1])
    assert lengths == sorted(set(lengths))
    assert all(b - a <= PREFILL_CHUNK for a, b in zip([0, *lengths], lengths, strict=False))


def test_prefill_reads_only_what_the_cache_lacks_and_can_stop_between_chunks() -> None:
    target = TableModel(TARGET, context_length=CONTEXT)
    progress = prefill(target, LONG)
    assert next(progress) == PREFILL_CHUNK
    progress.close()
    assert target.cached == list(LONG[:PREFILL_CHUNK])
    assert list(prefill(target, LONG)) == [len(LONG) - 1]
    assert target.cached == list(LONG[:-1])
    assert list(prefill(target, LONG)) == []


@each_drafter
@each_setting
def test_closed_at_every_round_the_caches_are_clean_and_the_rest_is_as_if_never_stopped(
    make: MakeDrafter, sampling: Sampling
) -> None:
    whole = go_on(start(make()), sampling=sampling)
    for stop in range(len(whole.rounds) + 1):
        run = go_on(start(make()), sampling=sampling, stop_after=stop)  # checks the caches
        assert run.text == whole.text[: len(run.text)]
        assert len(run.rounds) == stop
        rest = Run(run.target, run.history, run.drafter, run.prompt_length)
        go_on(rest, sampling=sampling, max_tokens=24 - len(run.text))
        # A sampled draft of another length uses the position's random numbers otherwise: equal in distribution only.
        if sampling.temperature == 0.0 or not isinstance(run.drafter, DraftModelDrafter | Controller):
            assert rest.text == whole.text


@each_drafter
def test_the_targets_pass_fails_at_every_call(make: MakeDrafter) -> None:
    passes = len(go_on(start(make())).target.passes)
    for call in range(1, passes):  # pass 0 is the prompt's
        run = start(make(), fails_at=[call])
        with pytest.raises(GenerationError, match="the pass failed"):
            go_on(run)
        run.check()
        rest = go_on(Run(run.target, run.history, run.drafter, run.prompt_length), max_tokens=24 - len(run.text))
        assert rest.text == greedy_text(24)


@pytest.mark.parametrize("prompt", [PROMPT, LONG * 2], ids=["short", "long"])
def test_the_drafts_pass_fails_at_every_call_and_the_target_goes_on_alone(prompt: tuple[int, ...]) -> None:
    for call in range(20):
        draft = TableModel(OTHER, context_length=2 * CONTEXT, fails_at=[call])
        run = go_on(start(DraftModelDrafter(draft), prompt=prompt, context=2 * CONTEXT))
        assert len(draft.passes) > call
        assert run.text == greedy_text(24, prompt)
        assert run.stats.proposed > 0


def unusable(kind: str) -> Logits:
    """A row of scores as a broken model gives them."""
    if kind == "all -Inf":
        return np.full(VOCAB, -np.inf, np.float32)
    scores = np.zeros(VOCAB, np.float32)
    scores[2] = float(kind)
    return scores


each_fault = pytest.mark.parametrize("kind", ["nan", "inf", "all -Inf"])


@each_fault
@each_setting
@pytest.mark.parametrize("position", [0, 3])
def test_unusable_scores_of_the_target_stop_the_answer(kind: str, sampling: Sampling, position: int) -> None:
    text = [*PROMPT, *go_on(start(None), sampling=sampling).text]
    where = len(PROMPT) + position
    broken = TARGET.copy()
    broken[text[where - 2], text[where - 1]] = unusable(kind)
    for k in (0, 4):
        run = start(ChosenDrafter(lambda history: likeliest(TARGET, history)), table=broken)
        with pytest.raises(GenerationError, match=r"unusable scores .*edgespec verify"):
            go_on(run, k=k, sampling=sampling)
        run.check()
        assert run.text == text[len(PROMPT) : len(run.history)]


@each_fault
@each_setting
def test_unusable_scores_of_the_draft_only_silence_it(kind: str, sampling: Sampling) -> None:
    broken = np.broadcast_to(unusable(kind), TARGET.shape).copy()
    broken[PROMPT[-2], PROMPT[-1]] = OTHER[PROMPT[-2], PROMPT[-1]]  # one proposal is fine, what follows is not
    drafter = DraftModelDrafter(TableModel(broken, context_length=CONTEXT))
    run = go_on(start(drafter), sampling=sampling)
    text: list[int] = [*PROMPT]
    for r in run.rounds:
        assert len(r.proposed) == (tuple(text[-2:]) == PROMPT[-2:])
        text += r.tokens
    assert len(run.text) == 24
    if sampling.temperature == 0.0:
        assert run.text == greedy_text(24)
