"""What families differ in, one feature at a time: the graph against the pass in NumPy, in one go and in steps.

tests/export compares both with transformers; this needs nothing but what the program itself needs.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray
from runner import Runner

from edgespec.decoding.exactness import splits_agree
from edgespec.errors import ModelError
from edgespec.graph.builder import GraphBuilder
from edgespec.graph.config import DecoderConfig, LayerConfig, Rotary
from edgespec.graph.decoder import DecoderGraph
from edgespec.graph.equalize import Channels
from edgespec.graph.formats import FORMATS, WeightsName
from edgespec.graph.forward import Forward
from edgespec.graph.quantize import Rows
from edgespec.graph.rotary import frequencies
from edgespec.graph.weights import vector
from edgespec.runtime.model import OnnxCausalLM

IDS = [(i * i * 5 + 3) % 96 for i in range(40)]
TURNS = Rotary(tuple(frequencies(1e4, 32).tolist()))
SLOW = Rotary(tuple((frequencies(1e6, 32) / 8).tolist()))
LONG = replace(TURNS, long_frequencies=SLOW.frequencies, short_context=16)
PARTIAL = Rotary(tuple(frequencies(1e4, 16).tolist()), magnitude=1.2)
PLAIN = DecoderConfig(
    architecture="test",
    layers=(LayerConfig(TURNS),) * 3,
    hidden_size=64,
    ffn_size=96,
    heads=4,
    kv_heads=2,
    head_size=32,
    context_length=64,
    vocab_size=96,
    rms_epsilon=1e-5,
    attention_scale=32**-0.5,
)
PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


class RandomWeights:
    """A `WeightSource` of lively numbers, the same for the same tensor."""

    def __init__(self, config: DecoderConfig) -> None:
        self._shapes = config.tensors()

    def error(self, cause: str) -> ModelError:
        return ModelError(cause)

    def rows(self, name: str) -> Rows:
        shape, random = self._shapes[name], np.random.default_rng(list(name.encode()))
        if "norm" in name:
            values = random.uniform(0.5, 1.5, shape)
        else:
            values = random.normal(0, 0.3 if name.endswith((".bias", "embd.weight")) else 1.5 / shape[-1] ** 0.5, shape)
        data = np.atleast_2d(values.astype(np.float32))
        return Rows(name, GGMLQuantizationType.F32, data.view(np.uint8), shape[-1])


def write(config: DecoderConfig, out: Path, weights: WeightsName = "float32") -> Path:
    with GraphBuilder(out) as graph:
        built = DecoderGraph(graph, RandomWeights(config), config, FORMATS[weights], Channels())
        built.build(range(len(config.layers)), lambda _: None)
        graph.save("test")
    return out


def run(config: DecoderConfig, out: Path) -> NDArray[np.float32]:
    """The graph's logits for IDS, in passes of several lengths."""
    model = Runner(write(config, out))
    return np.concatenate([model.forward(IDS[a:b]) for a, b in pairwise([0, 7, 8, 9, 10, 25, 26, 30, len(IDS)])])


def expected(config: DecoderConfig) -> NDArray[Any]:
    weights = RandomWeights(config)
    forward = Forward(weights, config, IDS)
    assert len(list(forward.readings(range(len(config.layers))))) == 4 * len(config.layers)
    head = weights.rows("token_embd.weight" if config.tied else "output.weight").data.view(np.float32)
    logits = forward._norm(forward._x, "output_norm.weight") @ head.T * config.logit_scale
    assert vector(weights, "output_norm.weight").std() > 0.1
    cap = config.logit_softcap
    return logits if cap is None else cap * np.tanh(logits / cap)


FEATURES: dict[str, dict[str, Any]] = {
    "none": {},
    "an output head": {"tied": False},
    "layers without positions": {"layers": (LayerConfig(TURNS), LayerConfig(None), LayerConfig(TURNS))},
    "windows and two rotations": {"layers": (LayerConfig(TURNS, 5), LayerConfig(SLOW), LayerConfig(TURNS, 9))},
    "partial rotation": {"layers": (LayerConfig(PARTIAL),) * 3},
    "long rotation": {
        "layers": (LayerConfig(replace(TURNS, long_frequencies=SLOW.frequencies, short_context=16)),) * 3
    },
    "biases": {"biases": frozenset(PARTS)},
    "a bias on some of a product": {"biases": frozenset({"attn_q", "attn_v"})},
    "norms of heads": {"qk_norms": True},
    "norms behind": {"post_norms": True},
    "gelu": {"activation": "gelu_tanh"},
    "multipliers": {"embedding_scale": 3.0, "residual_scale": 0.4, "attention_scale": 0.3, "logit_scale": 0.5},
    "soft-caps": {"attention_softcap": 1.5, "logit_softcap": 2.0},
}


@pytest.mark.parametrize("feature", FEATURES)
def test_the_graph_has_it(feature: str, tmp_path: Path) -> None:
    config = replace(PLAIN, **FEATURES[feature])
    logits = expected(config)
    assert logits.std() > 0.3
    np.testing.assert_allclose(run(config, tmp_path), logits, atol=1e-4)


def test_long_rotation_goes_by_the_room_in_the_cache(tmp_path: Path) -> None:
    """Not by the length of the text, so that a row's logits never depend on how the text was split."""
    config = replace(PLAIN, **FEATURES["long rotation"])
    write(config, tmp_path)
    for room, logits in ((16, expected(PLAIN)), (17, expected(config))):
        model = OnnxCausalLM.open(tmp_path / "model.onnx", context_length=room, vocab_size=PLAIN.vocab_size)
        np.testing.assert_allclose(model.forward(IDS[:15]), logits[:15], atol=1e-4)


@pytest.mark.parametrize(
    "feature", ["windows and two rotations", "long rotation", "norms of heads", "soft-caps", "gelu"]
)
def test_exact_mode_holds_with_it(feature: str, tmp_path: Path) -> None:
    graph = write(replace(PLAIN, **FEATURES[feature]), tmp_path, "int8") / "model.onnx"
    assert splits_agree(OnnxCausalLM.open(graph, context_length=PLAIN.context_length, vocab_size=PLAIN.vocab_size))


@pytest.mark.parametrize("feature", [name for name in FEATURES if name not in ("none", "an output head")])
def test_it_makes_a_difference(feature: str) -> None:
    """Otherwise the test above would prove nothing."""
    difference = expected(replace(PLAIN, **FEATURES[feature])) - expected(PLAIN)
    assert np.abs(difference[20:]).max() > 0.1
