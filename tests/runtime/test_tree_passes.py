"""Draft trees in a real graph: every way through a tree is what a plain pass over it would be, and so is the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from runner import Runner
from tiny import TOKENS, write_tiny_gguf
from tiny_lm import Shape

from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.decoding.tree import Branching, TreeLM
from edgespec.errors import ContextFullError, ModelError
from edgespec.graph import convert_gguf
from edgespec.runtime.kv_cache import SharedCache
from edgespec.runtime.model import OnnxCausalLM

CONTEXT = 64
TEXT = [(i * 37 + 5) % len(TOKENS) for i in range(40)]
IDS = [3, 8, 15, 4, 22, 9, 17]
PARENTS = [-1, 0, 1, 0, 3, 1, 4]
WAYS = [[0, 1, 2], [0, 3, 4, 6], [0, 1, 5]]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float32, where what differs in the last bits stays small; of so many layers that it shows hidden states."""
    folder = tmp_path_factory.mktemp("converted")
    convert_gguf(write_tiny_gguf(folder / "tiny.gguf", layers=8), folder / "out", weights="float32")
    return folder / "out" / "model.onnx"


@pytest.fixture
def model(graph: Path) -> OnnxCausalLM:
    return OnnxCausalLM.open(graph, context_length=CONTEXT, vocab_size=len(TOKENS))


def cache(model: OnnxCausalLM) -> list[NDArray[np.generic]]:
    """What the cache holds, tensor by tensor."""
    assert isinstance(model._cache, SharedCache)
    return [buffer[:, :, : model.length].copy() for buffer in model._cache._buffers]


def same(a: Sequence[NDArray[np.generic]], b: Sequence[NDArray[np.generic]]) -> bool:
    return all(np.allclose(x, y, atol=1e-4) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("past", [1, 2, 20, 40])
def test_every_way_through_a_tree_is_a_plain_pass(model: OnnxCausalLM, past: int) -> None:
    model.forward(TEXT[:past])
    rows = model.forward_tree(IDS, PARENTS).copy()
    assert rows.shape == (len(IDS), len(TOKENS))
    assert model.length == past + len(IDS)
    for way in WAYS:
        model.rewind(past)
        plain = model.forward([IDS[i] for i in way])
        np.testing.assert_allclose(rows[way], plain, atol=1e-4)


def test_no_tree_stands_at_the_beginning(model: OnnxCausalLM) -> None:
    with pytest.raises(ValueError, match="beginning"):
        model.forward_tree(IDS, PARENTS)


def test_a_tree_that_is_a_chain_has_the_bits_of_a_plain_pass(model: OnnxCausalLM) -> None:
    model.forward(TEXT[:20])
    plain = model.forward(IDS).copy()
    model.rewind(20)
    assert np.array_equal(model.forward_tree(IDS, range(-1, len(IDS) - 1)), plain)


@pytest.mark.parametrize("way", [*WAYS, [0], []])
def test_the_cache_behind_an_accepted_way_is_that_of_the_text(model: OnnxCausalLM, graph: Path, way: list[int]) -> None:
    fresh = OnnxCausalLM.open(graph, context_length=CONTEXT, vocab_size=len(TOKENS))
    text = [*TEXT[:20], *[IDS[i] for i in way]]
    fresh.forward(text)
    model.forward(TEXT[:20])
    model.forward_tree(IDS, PARENTS)
    model.gather(20, [20 + i for i in way])
    assert model.length == fresh.length == len(text)
    assert same(cache(model), cache(fresh))
    states, expected = (shown.hidden_states(0, len(text)).read() for shown in (model, fresh))
    np.testing.assert_allclose(states, expected, atol=1e-4)
    np.testing.assert_allclose(model.forward([7, 9]), fresh.forward([7, 9]), atol=1e-4)


def test_passes_after_a_tree_are_as_before_it(model: OnnxCausalLM) -> None:
    model.forward(TEXT[:20])
    before = [model.forward(IDS).copy(), model.rewind(20), model.forward_exact(5).copy(), model.rewind(20)]
    model.forward_tree(IDS, PARENTS)
    model.rewind(20)
    after = [model.forward(IDS).copy(), model.rewind(20), model.forward_exact(5).copy(), model.rewind(20)]
    assert all(np.array_equal(a, b) for a, b in zip(before[::2], after[::2], strict=True))  # pyright: ignore


def test_a_tree_that_does_not_fit_changes_nothing(model: OnnxCausalLM) -> None:
    model.forward(TEXT)
    model.forward(TEXT[:20])
    held = cache(model)
    with pytest.raises(ContextFullError):
        model.forward_tree(IDS, PARENTS)
    assert model.length == 60
    assert same(cache(model), held)
    assert np.isfinite(model.forward([1, 2])).all()


def test_inputs_that_are_left_out_change_nothing(graph: Path, model: OnnxCausalLM) -> None:
    """The graph by itself, without whatever binds inputs for trees."""
    assert np.array_equal(Runner(graph.parent).forward(TEXT), model.forward(TEXT))


def test_a_graph_without_the_inputs_says_so(open_tiny: Callable[[Shape], OnnxCausalLM]) -> None:
    for shape in (Shape("shared"), Shape("growing")):
        other = open_tiny(shape)
        assert not other.takes_trees
        with pytest.raises(ModelError, match="trees"):
            other.forward_tree([1, 2], [-1, 0])


def test_answers_with_branches_are_those_without(model: OnnxCausalLM, graph: Path) -> None:
    """The tiny model repeats itself, so drafts and branches are right now and then."""
    assert isinstance(model, TreeLM)
    assert model.takes_trees
    settings = Sampling(temperature=0.6, seed=3)

    def answer(target: OnnxCausalLM, branches: int) -> tuple[list[int], int]:
        from edgespec.decoding.drafters.ngram import NgramDrafter
        from edgespec.decoding.protocols import Fixed

        history = TEXT[:8]
        target.forward(history[:-1])
        policy = Branching(Fixed(NgramDrafter()), branches)
        trees = 0
        for done in generate(
            target,
            history,
            policy,
            k=5,
            sampler=Sampler(settings),
            max_tokens=50,
            ends=lambda _: False,
            exact=False,
        ):
            trees += len(done.proposed) > 0
        return history, trees

    plain = OnnxCausalLM.open(graph, context_length=CONTEXT, vocab_size=len(TOKENS))
    (with_branches, trees), (without, _) = answer(model, 3), answer(plain, 0)
    assert with_branches == without
    assert trees > 0
