"""The table of n-grams against a dictionary that is plainly right, and what is no table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.decoding.drafters.ngram_table import (
    ORDERS,
    NgramTableDrafter,
    Slots,
    context_keys,
    fill,
    read_table,
)
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.errors import ModelError

GREEDY = Sampler(Sampling())
VOCAB = 50
Entries = Mapping[tuple[int, ...], tuple[int, int]]
"""The token and its class for each context."""


def table(entries: Entries, bits: int = 6) -> Slots:
    keys = [context_keys(np.array(context), len(context))[0] for context in entries]
    tokens, classes = zip(*entries.values(), strict=True)
    return fill(np.array(keys, np.uint64), np.array(tokens), np.array(classes), bits)


def drafter(entries: Entries, bits: int = 6) -> NgramTableDrafter:
    return NgramTableDrafter(table(entries, bits), VOCAB)


def test_the_longest_context_decides_and_a_proposal_is_one_for_the_next() -> None:
    said = drafter({(7,): (1, 2), (3, 7): (9, 5), (9,): (4, 0), (2, 3, 7, 9): (8, 11)})
    assert said.propose([7], 1, GREEDY).tokens == (1,)
    assert said.propose([3, 7], 1, GREEDY).tokens == (9,)
    draft = said.propose([3, 7], 4, GREEDY)
    assert (draft.tokens, draft.evidence, draft.probs) == ((9, 4), (5, 0), None)  # nothing is known behind 4
    draft = said.propose([2, 3, 7], 4, GREEDY)
    assert (draft.tokens, draft.evidence) == ((9, 8), (5, 11))
    assert said.propose([3, 7], 0, GREEDY).tokens == ()
    assert said.propose([], 4, GREEDY).tokens == ()


def test_token_zero_is_a_token_like_any_other() -> None:
    said = drafter({(0,): (1, 0), (0, 0): (2, 0), (5, 0, 0): (0, 3)})
    assert [said.propose(text, 1, GREEDY).tokens for text in ([0], [0, 0], [5, 0, 0])] == [(1,), (2,), (0,)]


contexts = st.sampled_from(ORDERS).flatmap(lambda n: st.tuples(*[st.integers(0, 3)] * n))


@given(
    entries=st.dictionaries(
        contexts, st.tuples(st.integers(0, VOCAB - 1), st.integers(0, 11)), min_size=1, max_size=31
    ),
    text=st.lists(st.integers(0, 3), max_size=12),
    k=st.integers(1, 5),
)
def test_as_a_dictionary_says_even_when_the_table_is_nearly_full(entries: Entries, text: list[int], k: int) -> None:
    expected: list[tuple[int, int]] = []
    so_far = list(text)
    while len(expected) < k:
        found = [entries[tuple(so_far[-n:])] for n in ORDERS if n <= len(so_far) and tuple(so_far[-n:]) in entries]
        if not found:
            break
        expected.append(found[-1])
        so_far.append(found[-1][0])
    draft = drafter(entries, bits=5).propose(text, k, GREEDY)
    assert list(zip(draft.tokens, draft.evidence, strict=True)) == expected


def test_keys_of_many_texts_at_once_are_those_of_each() -> None:
    texts = np.random.default_rng(0).integers(0, VOCAB, (3, 20))
    for n in ORDERS:
        keys = context_keys(texts, n)
        assert keys.shape == (3, 21 - n)
        assert keys[2, 5] == context_keys(texts[2, 5 : 5 + n], n)[0]


def broken(*entries: int, size: int = 4) -> Slots:
    return np.array([*entries, *[0] * (size - len(entries))], np.uint64)


@pytest.mark.parametrize(
    "slots",
    [
        broken(),  # nothing in it
        broken(1 << 24 | 1, 1 << 24 | 1, 1 << 24 | 1, 1 << 24 | 1),  # full: a search would never end
        broken(1 << 24 | 1, size=3),
        broken(1 << 24 | VOCAB),  # a token that the model does not have
        broken(13 << 24 | 1),  # a class that there is not
        broken(1),
        broken(1 << 24 | 1).astype(np.int64),
        broken(1 << 24 | 1)[None],
    ],
)
def test_what_is_no_table_is_refused(slots: Slots) -> None:
    with pytest.raises(ModelError, match="no table of n-grams"):
        NgramTableDrafter(slots, VOCAB)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not a table", b"PK\x03\x04"])
def test_a_file_that_is_no_array_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read as a table"):
        read_table(path)


def test_a_file_is_read_where_it_lies(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", table({(7,): (1, 2)}))
    slots = read_table(tmp_path / "table.npy")
    assert isinstance(slots, np.memmap)
    said: Sequence[int] = NgramTableDrafter(slots, VOCAB).propose([7], 2, GREEDY).tokens
    assert tuple(said) == (1,)
