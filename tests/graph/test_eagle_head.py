"""A head's graph computes what the head computes, whatever is accepted, and reads both published layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heads import CONTEXT, HIDDEN, TARGET_VOCAB, TOKEN_IDS, Layout, NumpyHead, weights, write_head
from numpy.typing import NDArray
from tiny import write_tiny_gguf

from edgespec.decoding.drafters.eagle import EagleDrafter
from edgespec.decoding.protocols import Fixed
from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.errors import ModelError
from edgespec.graph import convert_gguf
from edgespec.graph.eagle_checkpoint import convert_head
from edgespec.runtime.embeddings import EmbeddingTable
from edgespec.runtime.head import OnnxHead
from edgespec.runtime.memory import Memory
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.states import HiddenStates, StateRows

Floats = NDArray[np.float32]
PROMPT = [(i * 37 + 5) % TARGET_VOCAB for i in range(40)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of eight layers, which is enough for three taps."""
    folder = tmp_path_factory.mktemp("target")
    convert_gguf(write_tiny_gguf(folder / "tiny.gguf", layers=8), folder)
    return folder / "model.onnx"


def open_target(graph: Path) -> OnnxCausalLM:
    return OnnxCausalLM.open(graph, context_length=CONTEXT, vocab_size=TARGET_VOCAB)


def open_head(folder: Path, target: Path, window: int | None = None) -> OnnxHead:
    graph = folder / "graph" / "model.onnx"
    return OnnxHead.open(graph, target, hidden_size=3 * HIDDEN, context_length=CONTEXT, window=window)


class Compared:
    """A head that compares every row with the reference."""

    def __init__(self, head: OnnxHead, reference: NumpyHead, table: EmbeddingTable) -> None:
        self._head, self._reference, self._table = head, reference, table
        self.token_ids, self.context_length, self.window = head.token_ids, head.context_length, head.window
        self.worst, self.largest, self.drafted = 0.0, 0.0, 0

    @property
    def length(self) -> int:
        return self._head.length

    def forward(self, ids: Sequence[int], states: StateRows | None) -> Floats:
        self._reference.rewind(self._head.length)
        shown = None if states is None else states.read()
        logits = self._head.forward(ids, states)
        expected = np.zeros(0)
        for i, row in enumerate(self._table.rows(ids)):
            expected = self._reference.row(row, None if shown is None else shown[i])
        self.worst = max(self.worst, float(np.abs(logits - expected).max()))
        self.largest = max(self.largest, float(np.abs(expected).max()))
        self.drafted += states is None
        return logits

    def rewind(self, length: int) -> None:
        self._head.rewind(length)

    def skip(self, length: int) -> None:
        self._head.skip(length)


@pytest.mark.parametrize("layout", ["midlayer", "layers.0"])
@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("normed", [False, True])
def test_every_row_of_an_answer_is_the_references(
    layout: Layout, window: int | None, normed: bool, target: Path, tmp_path: Path
) -> None:
    made = weights()
    folder = write_head(tmp_path, made, layout=layout, window=window, norm_before_residual=normed)
    assert convert_head(folder, folder / "graph", target_vocab_size=TARGET_VOCAB, weights="float32").window == window
    reference = NumpyHead(made, window=window, normed=normed)
    head = Compared(open_head(folder, target), reference, EmbeddingTable(target, HIDDEN))
    model, history = open_target(target), list(PROMPT)
    model.forward(PROMPT[:-1])
    sampler = Sampler(Sampling(temperature=10.0, seed=1))  # hot enough that proposals of a random head are accepted
    rounds = list(
        generate(
            model,
            history,
            Fixed(EagleDrafter(model, head)),
            k=3,
            sampler=sampler,
            max_tokens=85,
            ends=lambda _: False,
            exact=True,
        )
    )
    patterns = {(done.tested, done.accepted) for done in rounds}
    assert patterns >= {(1, 0), (2, 1), (3, 2), (3, 3)}
    assert head.drafted > 20
    assert head.largest > 1.0
    assert head.worst < 1e-4


def test_int8_stays_close(target: Path, tmp_path: Path) -> None:
    made = weights()
    folder = write_head(tmp_path, made)
    convert_head(folder, folder / "graph", target_vocab_size=TARGET_VOCAB)
    head, reference, table = open_head(folder, target), NumpyHead(made), EmbeddingTable(target, HIDDEN)
    shown = HiddenStates(Memory(), 10, 3 * HIDDEN, np.dtype(np.float32))
    states = shown.read(0, 10)
    states[:] = np.random.default_rng(0).normal(size=states.shape)
    ids = PROMPT[:10]
    expected = [reference.row(row, state) for row, state in zip(table.rows(ids), states, strict=True)][-1]
    assert np.square(head.forward(ids, StateRows(shown, 0, 10)) - expected).mean() < 0.02 * expected.var()
    assert head.token_ids.tolist() == TOKEN_IDS.tolist()


def test_the_embeddings_are_the_targets(target: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    tensors = {t.name: t for t in GGUFReader(target.parent / "tiny.gguf").tensors}
    stored = tensors["token_embd.weight"]
    expected = dequantize(stored.data, stored.tensor_type)
    np.testing.assert_allclose(EmbeddingTable(target, HIDDEN).rows(PROMPT), expected[PROMPT], atol=2e-2)
    convert_gguf(target.parent / "tiny.gguf", tmp_path, weights="float32")
    with pytest.raises(ModelError, match="no embeddings that a head could share"):
        EmbeddingTable(tmp_path / "model.onnx", HIDDEN)


def test_hidden_states_are_kept_by_position(target: Path) -> None:
    """Whatever passes the text was split into, and whatever was rejected in between."""
    whole, steps = open_target(target), open_target(target)
    whole.forward(PROMPT)
    assert whole.hidden_size == 3 * HIDDEN
    for start, end in ((0, 20), (20, 22), (22, 30)):
        steps.forward(PROMPT[start:end])
        steps.forward([7, 8, 9])
        steps.rewind(end)
    steps.forward(PROMPT[30:])
    assert np.array_equal(whole.hidden_states(0, 40).read(), steps.hidden_states(0, 40).read())
    assert len(np.unique(whole.hidden_states(0, 40).read()[:, 0])) > 30


def test_a_model_of_few_layers_shows_none(tmp_path: Path) -> None:
    convert_gguf(write_tiny_gguf(tmp_path / "tiny.gguf", layers=6), tmp_path)
    assert open_target(tmp_path / "model.onnx").hidden_size == 0


def test_a_head_of_another_model_is_refused(target: Path, tmp_path: Path) -> None:
    folder = write_head(tmp_path, weights())
    convert_head(folder, folder / "graph", target_vocab_size=TARGET_VOCAB)
    graph = folder / "graph" / "model.onnx"
    with pytest.raises(ModelError, match="reads 192 floats of each hidden state and the model shows 0"):
        OnnxHead.open(graph, target, hidden_size=0, context_length=CONTEXT)
    with pytest.raises(ModelError, match="no head"):
        OnnxHead.open(target, target, hidden_size=192, context_length=CONTEXT)


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ({"token_ids": [*TOKEN_IDS[:-1], TOKEN_IDS[0]]}, "d2t"),
        ({"token_ids": [*TOKEN_IDS[:-1], TARGET_VOCAB]}, "d2t"),
        ({"tensors": {"d2t": np.zeros(7, np.int64)}}, "no list of 100 integers"),
        ({"tensors": {"fc.weight": None}}, "fc.weight is missing"),
        ({"tensors": {"fc.weight": np.zeros((HIDDEN, HIDDEN), np.float32)}}, "shape"),
        ({"tensors": {"midlayer.self_attn.q_norm.weight": np.ones(16, np.float32)}}, "EAGLE-3 heads do not have"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"intermediate_size": 0}, "sizes do not fit"),
    ],
    ids=str,
)
def test_what_is_no_head_is_refused(wrong: dict[str, Any], cause: str, tmp_path: Path) -> None:
    folder = write_head(tmp_path, weights(), **wrong)
    with pytest.raises(ModelError, match=cause):
        convert_head(folder, folder / "graph", target_vocab_size=TARGET_VOCAB)
