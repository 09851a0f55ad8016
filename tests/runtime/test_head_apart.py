"""A head beside a target, each in the host's memory or in what both take for a GPU's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from apart import FULL, LOST, Failing, open_apart, open_head_apart
from heads import CONTEXT, HIDDEN, TARGET_VOCAB, TOKEN_IDS, weights, write_head
from tiny import write_tiny_gguf

from edgespec.decoding.drafters.eagle import EagleDrafter
from edgespec.decoding.passes import prefill
from edgespec.decoding.protocols import Draft, Fixed, Worth, always
from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.graph import convert_gguf
from edgespec.graph.eagle_checkpoint import convert_head
from edgespec.runtime.head import OnnxHead
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.session import open_session
from edgespec.runtime.states import StateRows

PROMPT = [(i * 37 + 5) % TARGET_VOCAB for i in range(20)]
HALF = 2
"""Bytes of a float16."""
HOT = Sampling(temperature=10.0, seed=3)
"""So hot that what a random head draws is accepted now and then."""


@dataclass(frozen=True)
class Pair:
    """A target and its head, both in float16."""

    target: Path
    head: Path

    def open_target(self, apart: bool) -> OnnxCausalLM:
        if apart:
            return open_apart(self.target, CONTEXT, TARGET_VOCAB)
        return OnnxCausalLM.open(self.target, context_length=CONTEXT, vocab_size=TARGET_VOCAB)

    def open_head(self, apart: bool) -> OnnxHead:
        if apart:
            return open_head_apart(self.head, self.target, CONTEXT)
        return OnnxHead.open(self.head, self.target, hidden_size=3 * HIDDEN, context_length=CONTEXT)

    def failing_head(self, passes: int, message: str) -> OnnxHead:
        session = Failing(open_session(self.head, "cpu"), passes, message)
        return open_head_apart(self.head, self.target, CONTEXT, session, lambda: open_session(self.head, "cpu"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    convert_gguf(write_tiny_gguf(folder / "tiny.gguf", layers=8), folder / "target", profile="cuda")
    head = write_head(folder / "head", weights())
    convert_head(head, head / "graph", target_vocab_size=TARGET_VOCAB, profile="cuda")
    return Pair(folder / "target" / "model.onnx", head / "graph" / "model.onnx")


class Remembering(EagleDrafter[StateRows]):
    """Keeps what it proposed."""

    def __init__(self, target: OnnxCausalLM, head: OnnxHead) -> None:
        super().__init__(target, head)
        self.proposed: list[tuple[int, ...]] = []

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        draft = super().propose(history, k, sampler, worth)
        self.proposed.append(draft.tokens)
        return draft


def answer(target: OnnxCausalLM, head: OnnxHead | None, sampling: Sampling) -> tuple[list[int], list[tuple[int, ...]]]:
    """The text, and what was proposed in each round."""
    history = list(PROMPT)
    for _ in prefill(target, history):
        pass
    drafter = Remembering(target, head) if head else None
    policy = Fixed(drafter) if drafter else None
    for _ in generate(
        target, history, policy, k=3, sampler=Sampler(sampling), max_tokens=40, ends=lambda _: False, exact=True
    ):
        pass
    return history[len(PROMPT) :], drafter.proposed if drafter else []


@pytest.mark.parametrize("sampling", [Sampling(), HOT], ids=["greedy", "hot"])
def test_the_same_is_proposed_and_said_wherever_each_computes(pair: Pair, sampling: Sampling) -> None:
    text, proposed = answer(pair.open_target(False), pair.open_head(False), sampling)
    for target, head in ((True, True), (True, False), (False, True)):
        assert answer(pair.open_target(target), pair.open_head(head), sampling) == (text, proposed)
    assert any(proposed)
    if sampling is HOT:
        assert len(proposed) < len(text)  # some were accepted
    else:
        assert answer(pair.open_target(False), None, sampling)[0] == text


@pytest.mark.parametrize("target_apart", [True, False])
@pytest.mark.parametrize("head_apart", [True, False])
def test_states_cross_the_bus_only_from_one_side_to_the_other(pair: Pair, target_apart: bool, head_apart: bool) -> None:
    target, head = pair.open_target(target_apart), pair.open_head(head_apart)
    target.forward_rows(PROMPT, 1, lone=False)
    target.traffic.reset()
    head.traffic.reset()
    head.forward(PROMPT[1:6], target.hidden_states(0, 5))
    head.forward(PROMPT[6:8], target.hidden_states(5, 7))
    states, embeddings = 7 * 3 * HIDDEN * HALF, 7 * HIDDEN * HALF
    assert target.traffic.to_host == (states if target_apart and not head_apart else 0)
    assert target.traffic.to_device == 0
    assert head.traffic.to_device == embeddings + (states if target_apart != head_apart else 0)
    assert head.traffic.to_host == 2 * len(TOKEN_IDS) * HALF
    head.traffic.reset()
    head.forward([7], None)
    assert head.traffic.to_device == HIDDEN * HALF  # its own state stays where it is


@pytest.mark.parametrize("passes", [0, 1, 4, 20])
@pytest.mark.parametrize("message", [LOST, FULL])
def test_a_head_whose_device_is_lost_drafts_on_from_the_host(pair: Pair, passes: int, message: str) -> None:
    plain, _ = answer(pair.open_target(False), None, Sampling())
    head, heard = pair.failing_head(passes, message), list[str]()
    head.on_move = heard.append
    text, proposed = answer(pair.open_target(True), head, Sampling())
    assert text == plain
    assert heard == [head.device.reason]
    assert (head.device.kind, message.partition(" ;")[0] in heard[0]) == ("cpu", True)
    _, wanted = answer(pair.open_target(False), pair.open_head(False), Sampling())
    assert proposed[-1] == wanted[-1] != ()


def test_a_head_goes_on_where_its_target_was_lost(pair: Pair) -> None:
    wanted = answer(pair.open_target(False), pair.open_head(False), Sampling())
    session = Failing(open_session(pair.target, "cpu"), 9, LOST)
    target = open_apart(pair.target, CONTEXT, TARGET_VOCAB, session, lambda: open_session(pair.target, "cpu"))
    assert answer(target, pair.open_head(True), Sampling()) == wanted
    assert target.device.kind == "cpu"
