"""A graph of either kind computes what NumPy computes, however a text is split into passes, rewound and continued."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from numpy.typing import NDArray
from tiny_lm import CONTEXT, PADDED, VOCAB, Shape, reference

from edgespec.errors import ContextFullError, GenerationError, ModelError
from edgespec.runtime.kv_cache import GrowingCache, SharedCache
from edgespec.runtime.model import OnnxCausalLM

Open = Callable[[Shape], OnnxCausalLM]

SHAPES = [
    Shape(cache, mask, positions, keep)
    for cache, mask, positions, keep in product(
        ("growing", "shared"), (True, False), (True, False), ("no", "required", "default")
    )
    if cache == "growing" or mask or positions
]
TEXT = [int(t) for t in np.random.default_rng(3).integers(0, VOCAB, CONTEXT)]

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_cache = pytest.mark.parametrize("shape", [Shape("growing"), Shape("shared")], ids=str)


def close(logits: NDArray[np.float32], ids: Sequence[int], rows: int) -> bool:
    """Whether `logits` are those of the last `rows` of `ids`."""
    assert logits.dtype == np.float32
    assert logits.shape == (rows, VOCAB)
    return bool(np.allclose(logits, reference(ids)[len(ids) - rows :], atol=2e-4))


@each_shape
def test_any_split_into_passes_gives_the_same_logits(shape: Shape, open_tiny: Open) -> None:
    choose = random.Random(5)
    for size in (1, 2, 3, 7, CONTEXT, 0):
        model = open_tiny(shape)
        assert model.length == 0
        while model.length < CONTEXT:
            step = min(size or choose.randint(1, 6), CONTEXT - model.length)
            past = model.length
            assert close(model.forward(TEXT[past : past + step]), TEXT[: past + step], step)
            assert model.length == past + step


@each_shape
def test_only_the_rows_wanted_are_given(shape: Shape, open_tiny: Open) -> None:
    model = open_tiny(shape)
    for rows in (1, 2, 5, 6):
        model.rewind(0)
        model.forward(TEXT[:3], 1)
        assert close(model.forward(TEXT[3:9], rows), TEXT[:9], rows)


@each_shape
def test_rewound_to_every_length_it_continues_like_a_fresh_one(shape: Shape, open_tiny: Open) -> None:
    model = open_tiny(shape)
    for length in range(12):
        model.forward(TEXT[model.length :])
        model.rewind(length)
        other = [*TEXT[:length], *reversed(TEXT[length : length + 5])]
        assert close(model.forward(other[length:]), other, 5)
        model.rewind(length)


class AgainstAList(RuleBasedStateMachine):
    """The cache holds what a list of tokens would."""

    model: OnnxCausalLM

    def __init__(self) -> None:
        super().__init__()
        self.model.rewind(0)
        self.tokens: list[int] = []

    @rule(ids=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), data=st.data())
    def forward(self, ids: list[int], data: st.DataObject) -> None:
        rows = data.draw(st.integers(1, len(ids)))
        if len(self.tokens) + len(ids) > CONTEXT:
            with pytest.raises(ContextFullError):
                self.model.forward(ids, rows)
        else:
            self.tokens += ids
            assert close(self.model.forward(ids, rows), self.tokens, rows)
        assert self.model.length == len(self.tokens)

    @precondition(lambda self: len(self.tokens) < CONTEXT)
    @rule()
    def fail(self) -> None:
        with pytest.raises(GenerationError):
            self.model.forward([PADDED])
        assert self.model.length == len(self.tokens)

    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        length = data.draw(st.integers(0, len(self.tokens)))
        del self.tokens[length:]
        self.model.rewind(length)
        assert self.model.length == length


@pytest.mark.parametrize("shape", [Shape("growing", keep="default"), Shape("shared", keep="default")], ids=str)
def test_the_cache_is_a_list(shape: Shape, open_tiny: Open) -> None:
    machine = cast(type[AgainstAList], type("Machine", (AgainstAList,), {"model": open_tiny(shape)}))
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=25))


@each_cache
def test_a_rewind_out_of_range_is_refused(shape: Shape, open_tiny: Open) -> None:
    model = open_tiny(shape)
    model.forward(TEXT[:4])
    for length in (-1, 5):
        with pytest.raises(ValueError, match=f"cannot rewind to {length}: the cache holds 4 positions"):
            model.rewind(length)
    assert model.length == 4


@each_cache
def test_a_text_that_overflows_the_context_is_refused_and_nothing_changes(shape: Shape, open_tiny: Open) -> None:
    model = open_tiny(shape)
    model.forward(TEXT[:-1])
    with pytest.raises(ContextFullError, match=f"{CONTEXT + 1} tokens do not fit a context of {CONTEXT}"):
        model.forward([1, 2])
    assert model.length == CONTEXT - 1
    assert close(model.forward(TEXT[-1:]), TEXT, 1)


@each_cache
def test_a_pass_that_fails_leaves_the_length_and_the_cache(shape: Shape, open_tiny: Open) -> None:
    model = open_tiny(shape)
    model.forward(TEXT[:6])
    model.rewind(4)
    with pytest.raises(GenerationError, match="A pass over 2 tokens failed"):
        model.forward([1, PADDED + 5])
    assert model.length == 4
    assert close(model.forward(TEXT[4:8]), TEXT[:8], 4)


@each_cache
def test_two_models_of_one_file_share_nothing(shape: Shape, open_tiny: Open) -> None:
    one, two = open_tiny(shape), open_tiny(shape)
    for a, b in pairwise(range(0, CONTEXT, 4)):
        one.forward(TEXT[a:b])
        two.forward(TEXT[::-1][a:b])
    end = one.length
    assert close(one.forward(TEXT[end : end + 2]), TEXT[: end + 2], 2)
    assert close(two.forward(TEXT[::-1][end : end + 2]), TEXT[::-1][: end + 2], 2)


def addresses(model: OnnxCausalLM) -> dict[str, int]:
    """Where each buffer stands."""
    arrays = {name: value for name, value in vars(model).items() if isinstance(value, np.ndarray)}
    places = {name: int(array.ctypes.data) for name, array in arrays.items()}
    places |= {"mask": model._mask.data_ptr(), "positions": model._positions.data_ptr()}
    if isinstance(model._cache, GrowingCache):
        buffers = [b for half in model._cache._buffers for b in half]
        places |= {f"cache {i}": b.data_ptr() for i, b in enumerate(buffers)}
    if isinstance(model._cache, SharedCache):
        places |= {f"cache {t.past}": value.data_ptr() for t, value in model._cache._values}
    return places


@each_cache
def test_nothing_is_allocated_as_the_context_grows(shape: Shape, open_tiny: Open) -> None:
    model = open_tiny(shape)
    given = model.forward(TEXT[:4])
    before = addresses(model)
    assert len(before) >= 4 + 4  # ids, mask, positions, logits; keys and values of two layers
    for size in (1, 3, 4, 2, 4):
        end = model.length
        again = model.forward(TEXT[end : end + size])
        assert again.ctypes.data == given.ctypes.data
        model.rewind(model.length - size // 2)
    assert addresses(model) == before


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(graphs: Callable[[Shape], Path]) -> None:
    with pytest.raises(ModelError, match="knows 32 tokens but its tokenizer has 33"):
        OnnxCausalLM.open(graphs(Shape("shared")), context_length=CONTEXT, vocab_size=PADDED + 1)
