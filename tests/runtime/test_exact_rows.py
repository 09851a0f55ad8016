"""A lone row has the bits of a row among several, by whatever means the graph and the processor allow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import TOKENS, write_tiny_gguf
from tiny_lm import VOCAB, Shape

from edgespec.decoding.exactness import splits_agree
from edgespec.errors import ContextFullError
from edgespec.graph import convert_gguf
from edgespec.runtime.model import OnnxCausalLM

CONTEXT = 64
TEXT = [(i * 37 + 5) % len(TOKENS) for i in range(CONTEXT)]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of ours, which can pad attention alone."""
    folder = tmp_path_factory.mktemp("converted")
    convert_gguf(write_tiny_gguf(folder / "tiny.gguf"), folder / "out")
    return folder / "out" / "model.onnx"


@pytest.fixture
def model(converted: Path) -> OnnxCausalLM:
    return OnnxCausalLM.open(converted, context_length=CONTEXT, vocab_size=len(TOKENS))


def test_lone_rows_have_the_bits_of_one_whole_pass(model: OnnxCausalLM) -> None:
    whole = model.forward(TEXT[:40]).copy()
    model.rewind(0)
    for i in range(39):
        assert np.array_equal(model.forward_exact(TEXT[i]), whole[i : i + 1])
        assert model.length == i + 1
    assert np.array_equal(model.forward(TEXT[39:40]).shape, whole[:1].shape)


def test_the_probe_holds_on_a_graph_of_ours(model: OnnxCausalLM) -> None:
    assert splits_agree(model)


def test_where_padding_attention_is_not_enough_the_whole_row_is_doubled(
    model: OnnxCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a processor whose matrix products, too, have another kernel for a lone row."""
    forward = model.forward
    lengths: list[int] = []

    def fickle(ids: list[int], rows: int | None = None) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        lengths.append(len(ids))
        logits = forward(ids, rows)
        return logits + 1e-6 if len(ids) == 1 else logits

    whole = forward(TEXT[:10]).copy()
    model.rewind(0)
    monkeypatch.setattr(model, "forward", fickle)
    for i in range(9):
        assert np.array_equal(model.forward_exact(TEXT[i]), whole[i : i + 1])
    assert lengths == [1] + [2] * 9  # asked once, then never again


def test_a_foreign_graph_doubles_the_row(open_tiny: Callable[[Shape], OnnxCausalLM]) -> None:
    model = open_tiny(Shape("growing"))
    ids = [i % VOCAB for i in range(8)]
    for i, token in enumerate(ids):
        assert model.forward_exact(token).shape == (1, VOCAB)
        assert model.length == i + 1


def test_the_last_position_has_no_room_for_company(model: OnnxCausalLM) -> None:
    model.forward(TEXT[: CONTEXT - 2])
    model.forward_exact(TEXT[0])
    with pytest.raises(ContextFullError):
        model.forward_exact(TEXT[0])
    assert model.length == CONTEXT - 1
