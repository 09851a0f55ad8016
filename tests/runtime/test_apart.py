"""A model whose cache and logits the host reads only by copies, as on a GPU; here that is the host's own memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apart import FULL, LOST, Failing, open_apart
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from tiny import TOKENS, write_tiny_gguf
from tiny_lm import CONTEXT, VOCAB, Shape, reference

from edgespec.decoding.drafters.draft_model import DraftModelDrafter
from edgespec.decoding.exactness import splits_agree
from edgespec.decoding.passes import prefill
from edgespec.decoding.protocols import Fixed
from edgespec.decoding.remote import best_of, scores_of, takes_rows
from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.errors import GenerationError, ModelError, OutOfMemoryError
from edgespec.graph import convert_gguf
from edgespec.graph.builder import Profile
from edgespec.graph.synthetic import write_synthetic
from edgespec.runtime.embeddings import EmbeddingTable
from edgespec.runtime.memory import Memory
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.session import open_session
from edgespec.runtime.tail import Tail, TailRows
from edgespec.shapes import find_shape

Graphs = Callable[[Shape], Path]
TEXT = [int(t) for t in np.random.default_rng(3).integers(0, VOCAB, CONTEXT)]
SHAPES = [Shape("growing"), Shape("growing", keep="default"), Shape("shared"), Shape("shared", keep="required")]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def open_half(graph: Path) -> OnnxCausalLM:
    return OnnxCausalLM.open(graph, context_length=96, vocab_size=len(TOKENS))


# -- the tail graphs ---------------------------------------------------------------------------------------------------


def tail_of(logits: NDArray[Any], vocab_size: int) -> Tail:
    """A tail that a pass has left these logits in."""
    memory = Memory("cpu", apart=True)
    tail = Tail(memory, logits.shape[1], vocab_size, logits.dtype)
    tail.bind(ort_binding(logits), len(logits))
    return tail


def ort_binding(logits: NDArray[Any]) -> Any:
    class Binding:
        def bind_output(self, name: str, device: str, number: int, dtype: Any, shape: list[int], address: int) -> None:
            ctypes.memmove(address, logits.ctypes.data, logits.nbytes)

    return Binding()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_tail_computes_what_numpy_does(dtype: type[np.generic]) -> None:
    """Among equals the lowest id is the best, of which half precision has many."""
    logits = np.random.default_rng(0).normal(0.0, 3.0, (5, 300)).round(1).astype(dtype)
    logits[2] = -np.inf
    logits[3, [7, 90]] = 20.0
    logits[:, 250:] = 50.0  # padding, which is no token
    tail, wanted = tail_of(logits, 250), logits[:, :250].astype(np.float32)
    tokens, scores = tail.best(5)
    np.testing.assert_array_equal(tokens, wanted.argmax(axis=1))
    np.testing.assert_array_equal(scores, wanted.max(axis=1))
    tokens, scores = tail.top(5, 40)
    np.testing.assert_array_equal(scores, -np.sort(-wanted, axis=1)[:, :40])
    np.testing.assert_array_equal(np.take_along_axis(wanted, tokens, axis=1), scores)
    for row in range(5):
        np.testing.assert_array_equal(tail.whole(5, row), wanted[row])
        assert tail.whole(5, row).dtype == np.float32


@pytest.mark.parametrize("at", [0, 17, 249])
def test_nan_is_never_passed_over(at: int) -> None:
    logits = np.zeros((2, 250), np.float16)
    logits[1, at] = np.nan
    tail = tail_of(logits, 250)
    assert tail.best(2)[1].tolist() == [0.0, np.inf]
    assert tail.top(2, 3)[1][1, 0] == np.inf


# -- passes ------------------------------------------------------------------------------------------------------------


@each_shape
def test_passes_and_rewinds_are_those_of_a_model_on_the_host(shape: Shape, graphs: Graphs) -> None:
    model = open_apart(graphs(shape), CONTEXT, VOCAB)
    assert takes_rows(model)
    for start, end in pairwise([0, 3, 4, 9, 10, 17]):
        np.testing.assert_allclose(model.forward(TEXT[start:end]), reference(TEXT[:end])[start:], atol=2e-4)
    text = TEXT[:17]
    for length in (16, 3, 7, 0):
        model.rewind(length)
        text = [*text[:length], *reversed(TEXT[length : length + 5])]
        np.testing.assert_allclose(model.forward(text[length:], 2), reference(text)[-2:], atol=2e-4)


@each_shape
def test_rows_are_fetched_when_they_are_asked_for(shape: Shape, graphs: Graphs) -> None:
    model = open_apart(graphs(shape), CONTEXT, VOCAB)
    model.forward_rows(TEXT[:6], 1, lone=False)
    model.traffic.reset()
    rows = model.forward_rows(TEXT[6:11], 5, lone=False)
    wanted = reference(TEXT[:11])[6:]
    assert isinstance(rows, TailRows)
    assert model.traffic.to_host == 0
    assert [rows.best(i)[0] for i in range(5)] == wanted.argmax(axis=1).tolist()
    assert model.traffic.to_host == 5 * (8 + 4)
    assert model.traffic.to_device <= 8 * (5 + 1)  # the ids, and for how many rows logits are wanted
    for i in (4, 0):
        ids, scores = rows.top(i, 3)
        np.testing.assert_allclose(scores, -np.sort(-wanted[i])[:3], atol=2e-4)
        assert ids[0] == wanted[i].argmax()
    model.traffic.reset()
    np.testing.assert_allclose(rows.whole(2), wanted[2], atol=2e-4)
    assert (model.traffic.to_host, model.traffic.largest) == (4 * VOCAB, 4 * VOCAB)


@pytest.mark.parametrize(
    ("sampling", "most"),
    [
        (Sampling(), 12),
        (Sampling(temperature=0.7, top_k=4, seed=1), 5 * 12),
        (Sampling(temperature=0.7, seed=1), 4 * VOCAB),
    ],
    ids=["greedy", "top-k", "all"],
)
def test_no_round_copies_more_than_one_row_at_a_time(sampling: Sampling, most: int, graphs: Graphs) -> None:
    model, sampler = open_apart(graphs(Shape("shared", keep="default")), CONTEXT, VOCAB), Sampler(sampling)
    for _ in prefill(model, TEXT[:9]):
        pass
    assert model.traffic.to_host == 0  # nobody asked for the prompt's logits
    rows = model.forward_rows(TEXT[8:13], 5, lone=False)
    for i in range(5):
        if best_of(rows, i, sampler) is None:
            scores_of(rows, i, sampler, TEXT[: 9 + i])
    assert model.traffic.largest <= max(5 * most, 4 * VOCAB)
    assert model.traffic.to_host <= 5 * most * 5


def test_a_lone_row_is_computed_beside_itself(graphs: Graphs) -> None:
    model = open_apart(graphs(Shape("shared", keep="default")), CONTEXT, VOCAB)
    model.forward(TEXT[:5])
    rows = model.forward_rows([TEXT[5]], 1, lone=True)
    assert model.length == 6
    assert not isinstance(rows, np.ndarray)
    assert rows.best(0)[0] == reference(TEXT[:6])[-1].argmax()
    assert splits_agree(model)


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph for CUDA, in float16."""
    folder = tmp_path_factory.mktemp("half")
    convert_gguf(write_tiny_gguf(folder / "tiny.gguf"), folder / "out", profile="cuda")
    return folder / "out" / "model.onnx"


def answer(model: OnnxCausalLM, sampling: Sampling, draft: OnnxCausalLM | None = None, tokens: int = 40) -> list[int]:
    history = [(i * 37 + 5) % len(TOKENS) for i in range(20)]
    model.rewind(0)
    for _ in prefill(model, history):
        pass
    policy = Fixed(DraftModelDrafter(draft)) if draft else None
    for _ in generate(
        model, history, policy, k=4, sampler=Sampler(sampling), max_tokens=tokens, ends=lambda _: False, exact=True
    ):
        pass
    return history[20:]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(repeat_penalty=1.2),
        Sampling(temperature=0.8, seed=3),
        Sampling(temperature=0.8, top_k=12, top_p=0.9, seed=3),
        Sampling(temperature=0.8, min_p=0.05, seed=3),
    ],
    ids=str,
)
def test_an_answer_is_the_same_wherever_it_is_computed(sampling: Sampling, half: Path) -> None:
    host = answer(open_half(half), sampling)
    assert answer(open_apart(half, 96, len(TOKENS)), sampling) == host
    assert len(set(host)) > 3


def test_drafts_on_one_side_are_verified_on_the_other(half: Path) -> None:
    def apart() -> OnnxCausalLM:
        return open_apart(half, 96, len(TOKENS))

    plain = answer(apart(), Sampling())
    assert answer(apart(), Sampling(), open_half(half)) == plain
    assert answer(open_half(half), Sampling(), apart()) == plain


# -- heads -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory) -> dict[Profile, Path]:
    """A graph that shows hidden states, for either device."""
    config = find_shape("layers=8,hidden=64,ffn=128,heads=2,kv_heads=1,head_size=32,vocab=512").config
    profiles: tuple[Profile, Profile] = ("cpu", "cuda")
    return {p: write_synthetic(config, tmp_path_factory.mktemp(p), "int8", p) for p in profiles}


def test_hidden_states_stay_there_until_a_head_reads_them(tapped: dict[Profile, Path]) -> None:
    host = OnnxCausalLM.open(tapped["cuda"], context_length=64, vocab_size=512)
    model = open_apart(tapped["cuda"], 64, 512)
    for start, end in pairwise([0, 9, 10, 14, 20]):
        for each in (host, model):
            each.forward_rows(TEXT[start:end], 1, lone=False)
    model.rewind(12)
    host.rewind(12)
    for each in (host, model):
        each.forward_rows([3, 1, 4], 1, lone=False)
    assert model.traffic.to_host == 0
    for start, end in ((0, 15), (11, 14), (5, 5)):
        states = model.hidden_states(start, end).read()
        assert (states.dtype, states.shape) == (np.float32, (end - start, 3 * 64))
        np.testing.assert_array_equal(states, host.hidden_states(start, end).read())
    assert model.traffic.to_host == 2 * 3 * 64 * (15 + 3)
    assert np.unique(model.hidden_states(0, 15).read()[:, 0]).size > 10


def test_a_head_shares_the_embeddings_of_a_graph_in_half_precision(tapped: dict[Profile, Path]) -> None:
    whole, half = (EmbeddingTable(tapped[profile], 64).rows([0, 7, 511]) for profile in ("cpu", "cuda"))
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, whole, rtol=1e-3)


# -- a device that fails -----------------------------------------------------------------------------------------------


def failing(graph: Path, passes: int, message: str, reopen: Callable[[], Any] | None = None) -> OnnxCausalLM:
    session = Failing(open_session(graph, "cpu"), passes, message)
    reopen = reopen or (lambda: open_session(graph, "cpu"))
    return open_apart(graph, 96, len(TOKENS), session, reopen)


@pytest.mark.parametrize("passes", [0, 1, 2, 3, 9, 30])
@pytest.mark.parametrize("message", [LOST, FULL])
def test_the_answer_goes_on_where_the_device_failed(passes: int, message: str, half: Path) -> None:
    whole = answer(open_apart(half, 96, len(TOKENS)), Sampling())
    model, heard = failing(half, passes, message), list[str]()
    model.on_move = heard.append
    assert answer(model, Sampling()) == whole
    assert heard == [model.device.reason]
    assert model.device.kind == "cpu"
    assert message.partition(" ;")[0] in heard[0]
    assert not {"\n", ";"} & {*heard[0]}
    assert answer(model, Sampling()) == whole


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, top_k=9, seed=3), Sampling(0.8, seed=3)])
@pytest.mark.parametrize("reads", [0, 1, 7])
def test_a_device_lost_between_a_pass_and_its_rows(sampling: Sampling, reads: int, half: Path) -> None:
    whole = answer(open_apart(half, 96, len(TOKENS)), sampling)
    model = failing(half, 1000, LOST)
    tail = model._tail
    assert tail is not None
    for graph in (tail._best, tail._top, tail._row):
        vars(graph)["_session"] = Failing(graph._session, reads, LOST)
    assert answer(model, sampling) == whole
    assert model.device.kind == "cpu"


@pytest.mark.parametrize("passes", [0, 5])
def test_a_draft_whose_device_is_lost_drafts_on(passes: int, half: Path) -> None:
    draft = failing(half, passes, LOST)
    assert answer(open_half(half), Sampling(), draft) == answer(open_half(half), Sampling())
    assert draft.device.kind == "cpu"


@pytest.mark.parametrize(("message", "kind", "told"), [(FULL, OutOfMemoryError, "no room"), (LOST, ModelError, "700")])
def test_a_device_that_takes_no_cache_is_told_of(
    message: str, kind: type[Exception], told: str, half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeException(message)

    monkeypatch.setattr("onnxruntime.OrtValue.ortvalue_from_numpy", refuse)
    with pytest.raises(kind, match=rf"^the GPU .*{told}.*; use --device cpu"):
        open_apart(half, 96, len(TOKENS))


def test_where_nothing_can_be_rebuilt_the_pass_fails_and_the_length_stays(half: Path) -> None:
    model = open_apart(half, 96, len(TOKENS), Failing(open_session(half, "cpu"), 1, LOST))
    model.forward([1, 2, 3])
    with pytest.raises(GenerationError, match="A pass over 2 tokens failed: CUDA failure 700"):
        model.forward([4, 5])
    assert model.length == 3


def test_copies_are_over_before_a_pass_and_a_pass_before_its_rows_are_read(half: Path) -> None:
    """On a GPU each session has a stream of its own, and what is bound is only queued."""
    model, order = open_apart(half, 96, len(TOKENS)), list[str]()
    assert model._tail is not None

    class Binding:
        def __init__(self, inner: Any, name: str) -> None:
            self.inner, self.name = inner, name

        def __getattr__(self, name: str) -> Any:
            if name.startswith("synchronize"):
                order.append(f"{self.name} {name}")
            return getattr(self.inner, name)

    class Session:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def run_with_iobinding(self, binding: Binding) -> None:
            order.append(f"{binding.name} runs")
            self._inner.run_with_iobinding(binding.inner)

    for owner, binding, name in ((model, "_binding", "pass"), (model._tail._best, "binding", "tail")):
        setattr(owner, binding, Binding(getattr(owner, binding), name))
        vars(owner)["_session"] = Session(vars(owner)["_session"])
    rows = model.forward_rows([1, 2], 2, lone=False)
    assert not isinstance(rows, np.ndarray)
    rows.best(1)
    each = ["synchronize_inputs", "runs", "synchronize_outputs"]
    assert order == [f"{who} {what}" for who in ("pass", "tail") for what in each]
