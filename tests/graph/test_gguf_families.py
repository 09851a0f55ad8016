"""GGUF files of every family give the graph that config.json and the same weights give.

What config.json means is checked against transformers (tests/export). Here the same weights are written twice: by
canonical names, and as llama.cpp's converter stores them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from numpy.typing import NDArray
from runner import Runner
from tiny import TOKENS, write_tiny_gguf

from edgespec.errors import ModelError
from edgespec.graph import convert_gguf
from edgespec.graph.builder import GraphBuilder
from edgespec.graph.config import DecoderConfig
from edgespec.graph.decoder import DecoderGraph
from edgespec.graph.equalize import Channels
from edgespec.graph.families import read_family
from edgespec.graph.formats import FORMATS
from edgespec.graph.quantize import Rows
from edgespec.graph.settings import Settings

GGML_F32 = GGMLQuantizationType.F32
Array = NDArray[np.float32]
IDS = [(i * i * 7 + i * 37 + 5) % len(TOKENS) for i in range(40)]
LAYERS, CONTEXT = 6, 96
SHARED: dict[str, Any] = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 5000.0,
    "tie_word_embeddings": True,
}
SAME: dict[str, Any] = {
    "block_count": LAYERS,
    "context_length": CONTEXT,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 5000.0,
}
LONG = [1.0, 1.5, 3.0, 4.0, 6.0, 12.0, 24.0, 48.0]
SHORT = [1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 8}
GEMMA_KEYS = {"attention.key_length": 32, "attention.value_length": 32, "attention.sliding_window": 8}
FAMILIES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", "llama", {}, {}),
    "llama, own head size": (
        "llama", "llama",
        {"head_dim": 32},
        {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32},
    ),
    "llama, linear": (
        "llama", "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "qwen2": ("qwen2", "qwen2", {"tie_word_embeddings": False}, {}),
    "qwen3": ("qwen3", "qwen3", {"head_dim": 32}, {"attention.key_length": 32, "attention.value_length": 32}),
    "smollm3": ("smollm3", "smollm3", {}, {}),
    "granite": (
        "granite", "granite",
        {
            "embedding_multiplier": 6.0, "residual_multiplier": 0.5,
            "attention_multiplier": 0.2, "logits_scaling": 4.0,
        },
        {"embedding_scale": 6.0, "residual_scale": 0.5, "attention.scale": 0.2, "logit_scale": 4.0},
    ),
    "phi3": ("phi3", "phi3", {"sliding_window": 12}, {"attention.sliding_window": 12}),
    "phi4 mini": (
        "phi3", "phi3",
        {
            "num_attention_heads": 2, "num_key_value_heads": 1,
            "partial_rotary_factor": 0.5, "original_max_position_embeddings": 24,
            "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG},
        },
        {
            "attention.head_count": 2, "attention.head_count_kv": 1,
            "rope.dimension_count": 16, "rope.scaling.original_context_length": 24,
            "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(CONTEXT / 24) / np.log(24))),
        },
    ),
    "gemma2": (
        "gemma2", "gemma2",
        GEMMA | {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0},
        GEMMA_KEYS | {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0},
    ),
    "gemma3": ("gemma3_text", "gemma3", GEMMA, GEMMA_KEYS),
    "gemma3, linear": (
        "gemma3_text", "gemma3",
        GEMMA | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        GEMMA_KEYS | {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
    ),
}  # fmt: skip


class InMemory:
    """A `WeightSource` of arrays."""

    def __init__(self, tensors: dict[str, Array]) -> None:
        self._tensors = tensors

    def error(self, cause: str) -> ModelError:
        return ModelError(cause)

    def rows(self, name: str) -> Rows:
        values = np.atleast_2d(self._tensors[name])
        return Rows(name, GGML_F32, values.view(np.uint8), values.shape[1])


def random_weights(config: DecoderConfig) -> dict[str, Array]:
    random = np.random.default_rng(0)
    tensors: dict[str, Array] = {}
    for name, shape in config.tensors().items():
        scale = 2.0 / np.sqrt(shape[-1]) if name.startswith("blk") else 0.3
        values = random.uniform(0.5, 1.5, shape) if "norm" in name else random.normal(0.0, scale, shape)
        tensors[name] = values.astype(np.float32)
    return tensors


def as_llama_cpp_stores(architecture: str, config: DecoderConfig, tensors: dict[str, Array]) -> dict[str, Array | None]:
    stored: dict[str, Array | None] = dict(tensors)
    for n in range(LAYERS):
        q, k, v, gate, up = (f"blk.{n}.{part}.weight" for part in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"))
        if architecture in ("llama", "granite", "smollm3"):
            for name, heads in ((q, config.heads), (k, config.kv_heads)):
                halves = tensors[name].reshape(heads, 2, -1, config.hidden_size)
                stored[name] = halves.swapaxes(1, 2).reshape(tensors[name].shape)
        if architecture == "phi3":
            stored |= dict.fromkeys((q, k, v, gate))
            stored[f"blk.{n}.attn_qkv.weight"] = np.concatenate([tensors[q], tensors[k], tensors[v]])
            stored[up] = np.concatenate([tensors[gate], tensors[up]])
    return stored


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_s_graph_is_that_of_config_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    model_type, architecture, settings, keys = FAMILIES[family]
    config = read_family(Settings({**SHARED, "model_type": model_type, **settings}, "config.json"))
    tensors = random_weights(config)
    stored = as_llama_cpp_stores(architecture, config, tensors)
    if family == "phi4 mini":
        stored |= {"rope_factors_short.weight": np.array(SHORT, np.float32)}
        stored |= {"rope_factors_long.weight": np.array(LONG, np.float32)}
    metadata = {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": v for key, v in {**SAME, **keys}.items()},
    }
    monkeypatch.setattr("tiny._type", lambda name: GGML_F32)
    path = write_tiny_gguf(tmp_path / "model.gguf", layers=LAYERS, metadata=metadata, tensors=stored)
    convert_gguf(path, tmp_path / "file", weights="float32")
    (tmp_path / "expected").mkdir()
    with GraphBuilder(tmp_path / "expected") as graph:
        DecoderGraph(graph, InMemory(tensors), config, FORMATS["float32"], Channels()).build(
            range(LAYERS), lambda _: None
        )
        graph.save("expected")
    expected, found = Runner(tmp_path / "expected"), Runner(tmp_path / "file")
    np.testing.assert_allclose(found.forward(IDS), expected.forward(IDS), atol=1e-4)
    np.testing.assert_allclose(found.forward(IDS[:3]), expected.forward(IDS[:3]), atol=1e-4)
