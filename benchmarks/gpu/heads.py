"""A head beside its target on the device: what it says there, and what crosses the bus for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from benchmarks.gpu.common import CLOSE, DRAFT, TINY, Bench, Finding, answer, difference, tokens
from edgespec.decoding.drafters.eagle import EagleDrafter
from edgespec.decoding.exactness import splits_agree
from edgespec.errors import ModelError
from edgespec.graph.builder import GraphBuilder
from edgespec.graph.config import DecoderConfig
from edgespec.graph.eagle import HeadConfig, HeadGraph
from edgespec.graph.formats import FORMATS
from edgespec.graph.quantize import Rows
from edgespec.runtime.device import Device
from edgespec.runtime.embeddings import EmbeddingTable
from edgespec.runtime.head import OnnxHead, read_head_io
from edgespec.runtime.memory import Memory
from edgespec.runtime.session import open_session
from edgespec.shapes import find_shape

_CONTEXT = 512


def check_heads(bench: Bench) -> Iterator[Finding]:
    """Against the same head on the host, greedy text against plain, and states that do not leave the device."""
    config = replace(find_shape(TINY if bench.small else "smollm2-135m").config, tied=False)
    target_graph, head_graph = bench.write(config, "int8"), _write_head(bench.scratch, config)
    target = bench.open(target_graph, config.vocab_size, _CONTEXT)
    here = OnnxHead.open(head_graph, target_graph, hidden_size=target.hidden_size, context_length=_CONTEXT)
    there = _open_on_device(bench, head_graph, target_graph)
    ids = tokens(40, config.vocab_size)
    target.forward_rows(ids, 1, lone=False)
    target.traffic.reset()
    said = there.forward(ids[1:33], target.hidden_states(0, 32)).copy()
    fetched = target.traffic.to_host
    yield Finding("hidden states fetched for it", fetched, "bytes", good=fetched == 0)
    expected = here.forward(ids[1:33], target.hidden_states(0, 32)).copy()
    off = difference(said, expected)
    yield Finding("a head's logits: off by", f"{off:.1e}", "of var.", good=off < CLOSE)
    there.traffic.reset()
    start = perf_counter()
    for token in ids[:DRAFT]:
        there.forward([token], None)
    yield Finding("a proposal", f"{(perf_counter() - start) * 1e3 / DRAFT:.2f}", "ms")
    yield Finding("to the device, a proposal", there.traffic.to_device // DRAFT, "bytes")
    row = there.traffic.largest
    yield Finding("to the host, a proposal", row, "bytes", good=row <= 4 * config.vocab_size)
    plain, _ = answer(target, 48, exact=True)
    there.rewind(0)
    drafted, rounds = answer(target, 48, EagleDrafter(target, there), exact=True)
    proposed = sum(len(r.proposed) for r in rounds)
    equal = plain == drafted and proposed > 0
    yield Finding("greedy, drafted by a head as plain", equal, good=equal or not splits_agree(target))


class _RandomWeights:
    """The `HeadSource` of a head of random weights for a model of that shape."""

    def __init__(self, config: HeadConfig) -> None:
        self._shapes, self._rng = config.tensors(), np.random.default_rng(1)
        self.token_ids: NDArray[np.int64] = np.arange(config.vocab_size)

    def error(self, cause: str) -> ModelError:
        return ModelError(f"A head of this shape cannot be built: {cause}.")

    def rows(self, name: str) -> Rows:
        shape = self._shapes[name]
        count, width = (1, *shape)[-2:]
        values = self._rng.normal(0.0, width**-0.5, (count, width)) if len(shape) > 1 else np.ones((1, width))
        return Rows(name, GGMLQuantizationType.F32, values.astype("<f4").view(np.uint8), width)


def _write_head(scratch: Path, target: DecoderConfig) -> Path:
    rotary = target.layers[0].rotary
    assert rotary is not None
    config = HeadConfig(
        hidden_size=target.hidden_size,
        tapped_size=3 * target.hidden_size,
        embedding_size=target.hidden_size,
        ffn_size=target.ffn_size,
        heads=target.heads,
        kv_heads=target.kv_heads,
        head_size=target.head_size,
        context_length=target.context_length,
        vocab_size=min(target.vocab_size, 8192),
        rms_epsilon=target.rms_epsilon,
        rotary=rotary,
    )
    folder = Path(tempfile.mkdtemp(dir=scratch))
    with GraphBuilder(folder, "cuda") as graph:
        HeadGraph(graph, _RandomWeights(config), config, FORMATS["int8"]).build()
        graph.save("eagle3")
    return folder / "model.onnx"


def _open_on_device(bench: Bench, graph: Path, target: Path) -> OnnxHead:
    session = open_session(graph, bench.device)
    io = read_head_io(session, graph)
    return OnnxHead(
        session,
        io,
        Device(bench.device, "measured"),
        embeddings=EmbeddingTable(target, io.embedding),
        token_ids=np.arange(io.vocab),
        context_length=_CONTEXT,
        memory=Memory(bench.device, apart=True),
    )
