"""No graph for CUDA leaves work to the host, or waits in the middle of a pass for what a GPU has counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from cuda_kernels import place
from heads import TARGET_VOCAB, weights, write_head
from onnx import ModelProto, TensorProto, helper

from benchmarks.gpu.families import FAMILIES
from edgespec.graph.config import DecoderConfig
from edgespec.graph.eagle_checkpoint import convert_head
from edgespec.graph.synthetic import SyntheticFormat, write_synthetic
from edgespec.runtime.small_graph import Nodes
from edgespec.runtime.tail import first_positions, tail_nodes

COUNTED = Counter(Gather=2, Sub=2, Cast=1, Reshape=1)
LONG_ROPE = COUNTED + Counter(Add=3, Sub=1, Greater=1, Where=1)
"""What the provider itself was seen to leave to the host."""


def load(graph: Path) -> ModelProto:
    return onnx.load(graph, load_external_data=False)


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.architecture)
@pytest.mark.parametrize("stored", ["int8", "int4"])
def test_every_family_computes_on_the_gpu(config: DecoderConfig, stored: SyntheticFormat, tmp_path: Path) -> None:
    model = load(write_synthetic(config, tmp_path, stored, "cuda"))
    found = place(model)
    assert (found.unknown, found.waited_for) == ([], [])
    kinds = {node.name: node.op_type for node in model.graph.node}
    left = Counter(kinds[name] for name in found.on_host)
    assert left == (LONG_ROPE if config.architecture.startswith("phi") else COUNTED)


def test_a_head_computes_there_too(tmp_path: Path) -> None:
    folder = write_head(tmp_path / "head", weights())
    convert_head(folder, tmp_path, target_vocab_size=TARGET_VOCAB, profile="cuda")
    found = place(load(tmp_path / "model.onnx"))
    assert (found.unknown, found.waited_for) == ([], [])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_so_does_what_reads_the_logits_and_packs_caches(dtype: type[np.generic]) -> None:
    for nodes in (*tail_nodes(np.dtype(dtype), 512, 500), first_positions(np.dtype(dtype))):
        assert isinstance(nodes, Nodes)
        found = place(onnx.load_from_string(nodes.serialized()))
        assert (found.unknown, found.on_host, found.waited_for) == ([], [], [])


def test_graphs_for_the_cpu_are_found_out(tmp_path: Path) -> None:
    """Attention in float32, and cuDNN's operators; and counts that only the GPU has."""
    found = place(load(write_synthetic(FAMILIES[0], tmp_path, "int8", "cpu")))
    assert any("GroupQueryAttention" in node for node in found.unknown)

    def one(op: str, *inputs: str) -> ModelProto:
        nodes = [helper.make_node("Neg", ["n"], ["less"], name="less"), helper.make_node(op, inputs, ["z"], name="it")]
        given = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["a", "b"]),
            helper.make_tensor_value_info("n", TensorProto.INT64, [1]),
        ]
        return helper.make_model(helper.make_graph(nodes, "g", given, []))

    assert place(one("ReduceMax", "x")).unknown == ["ReduceMax it of FLOAT"]
    assert place(one("Slice", "x", "less", "n", "n")).waited_for == ["it.less"]
