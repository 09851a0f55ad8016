"""Equalized channels: measured as the model would, folded without changing it, and better once inputs are rounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from numpy_llama import Array, NumpyLlama
from runner import Runner
from tiny import TOKENS, write_tiny_gguf

from edgespec.errors import ModelError
from edgespec.graph import convert_gguf
from edgespec.graph.builder import GraphBuilder
from edgespec.graph.decoder import DecoderGraph
from edgespec.graph.equalize import ALPHA, Channels, measure_channels, passage_ids
from edgespec.graph.formats import FORMATS, WeightsName
from edgespec.graph.gguf_families import read_config
from edgespec.graph.gguf_model import GGUFWeights
from edgespec.graph.gguf_reader import GGUFFile
from edgespec.graph.tokenizer import build_tokenizer

IDS = [1, 300, 17, 42, 260, 99, 5, 270, 281, 33, 150, 299, 7, 7, 64, 203]
READERS = {"attn_norm": ("attn_q", "attn_k", "attn_v"), "ffn_norm": ("ffn_gate", "ffn_up")}


class Tapped(NumpyLlama):
    """Remembers what each norm put out, by the name of its gain."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.normed: dict[str, Array] = {}

    def _norm(self, x: Array, name: str) -> Array:
        self.normed[f"{name}.weight"] = super()._norm(x, name)
        return self.normed[f"{name}.weight"]


def factors_of(path: Path, layers: Sequence[int], ids: Sequence[int] = IDS) -> Mapping[str, NDArray[np.float32]]:
    file = GGUFFile(path)
    config = read_config(file)
    return measure_channels(GGUFWeights(file, config), config, layers, ids, lambda *_: True, lambda _: None).factors


def expected_factors(path: Path, layers: Sequence[int]) -> dict[str, Array]:
    model, expected = Tapped(path), dict[str, Array]()
    model.logits(IDS, layers)
    for layer in layers:
        for norm, readers in READERS.items():
            gain = f"blk.{layer}.{norm}.weight"
            columns = np.concatenate([model.weights[f"blk.{layer}.{part}.weight"] for part in readers])
            loudness = np.sqrt((model.normed[gain][1:] ** 2).mean(0))
            factors = loudness**ALPHA / np.sqrt((columns**2).mean(0)) ** (1 - ALPHA)
            expected[gain] = factors / np.median(factors)
    return expected


def build(path: Path, out: Path, weights: WeightsName, factors: Mapping[str, NDArray[np.float32]]) -> Runner:
    file = GGUFFile(path)
    out.mkdir()
    with GraphBuilder(out) as graph:
        config = read_config(file)
        built = DecoderGraph(graph, GGUFWeights(file, config), config, FORMATS[weights], Channels(factors))
        built.build(range(len(config.layers)), lambda _: None)
        graph.save("llama")
    return Runner(out)


def with_loud_channels(path: Path) -> Path:
    """A few gains forty times the others', undone in the columns that read them."""
    random, loud = np.random.default_rng(1), np.ones(64)
    loud[[3, 20, 41]] = 40
    weights: dict[str, Any] = {}
    for layer in range(2):
        weights[f"blk.{layer}.ffn_norm.weight"] = loud
        for part in READERS["ffn_norm"]:
            weights[f"blk.{layer}.{part}.weight"] = random.normal(0, 0.25, (128, 64)) / loud
    return write_tiny_gguf(path, tensors=weights)


@pytest.mark.parametrize(
    ("layers", "settings"),
    [
        ((0, 1), {}),
        ((0, 2, 3), {"layers": 4}),
        ((0, 1, 2), {"layers": 3, "hidden": 96, "heads": 6, "kv_heads": 1, "ffn": 160, "tied": False}),
        ((0, 1), {"tensors": {"rope_freqs.weight": np.linspace(1.0, 32.0, 8, dtype=np.float32)}}),
        ((0, 1), {"metadata": {"llama.rope.freq_base": 100.0, "llama.attention.layer_norm_rms_epsilon": 0.01}}),
    ],
)
def test_factors_are_those_of_the_model_with_its_kept_layers(
    tmp_path: Path, layers: tuple[int, ...], settings: dict[str, Any]
) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", **settings)
    found, expected = factors_of(path, layers), expected_factors(path, layers)
    assert list(found) == list(expected)
    for gain, factors in expected.items():
        np.testing.assert_allclose(found[gain], factors, rtol=1e-4, err_msg=gain)


def test_a_layer_without_those_before_it_has_other_factors(tmp_path: Path) -> None:
    """Otherwise the case above with kept layers would prove nothing."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", layers=4)
    whole, part = factors_of(path, range(4)), factors_of(path, (0, 2, 3))
    assert not np.allclose(whole["blk.2.attn_norm.weight"], part["blk.2.attn_norm.weight"], rtol=1e-2)


def test_folding_changes_no_logit_of_an_unrounded_model(tmp_path: Path, tiny_gguf: Path, tiny_float32: Path) -> None:
    factors = factors_of(tiny_gguf, range(2))
    assert max(f.max() / f.min() for f in factors.values()) > 1.5, "nothing would be proven"
    equalized = build(tiny_gguf, tmp_path / "equalized", "float32", factors)
    np.testing.assert_allclose(equalized.forward(IDS), Runner(tiny_float32).forward(IDS), atol=1e-4)


def test_loud_channels_cost_int8_much_less(tmp_path: Path) -> None:
    path = with_loud_channels(tmp_path / "loud.gguf")
    expected = NumpyLlama(path).logits(IDS)
    convert_gguf(path, tmp_path / "equalized")
    plain = build(path, tmp_path / "plain", "int8", {}).forward(IDS)
    equalized = Runner(tmp_path / "equalized").forward(IDS)
    assert np.square(equalized - expected).mean() < 0.25 * np.square(plain - expected).mean()


@pytest.mark.parametrize("silent", [slice(5, 7), slice(None)])
def test_silent_channels_and_unread_ones_do_no_harm(tmp_path: Path, silent: slice) -> None:
    gain, columns = np.ones(64), np.random.default_rng(0).normal(0, 0.2, (128, 64))
    gain[silent] = 0
    columns[:, 9:11] = 0
    path = write_tiny_gguf(
        tmp_path / "silent.gguf",
        tensors={"blk.0.ffn_norm.weight": gain, "blk.0.ffn_gate.weight": columns, "blk.0.ffn_up.weight": columns},
    )
    assert all((f >= 1 / 64).all() and (f <= 64).all() for f in factors_of(path, (0, 1)).values())
    convert_gguf(path, tmp_path / "out")
    expected = NumpyLlama(path).logits(IDS)
    assert np.square(Runner(tmp_path / "out").forward(IDS) - expected).mean() < 0.005 * expected.var()


def test_weights_that_overflow_are_left_as_they_are(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "huge.gguf", tensors={"blk.0.ffn_norm.weight": np.full(64, 3e38)})
    for gain, factors in factors_of(path, (0, 1)).items():
        assert (factors == 1).all() or "blk.0.attn" in gain


@pytest.mark.parametrize("context_length", [2, 16, 4096])
def test_the_passage_fits_the_model(tmp_path: Path, context_length: int) -> None:
    path = write_tiny_gguf(tmp_path / "short.gguf", context_length=context_length)
    file = GGUFFile(path)
    config = read_config(file)
    ids = passage_ids(build_tokenizer(file, config.vocab_size), config)
    assert 2 <= len(ids) <= min(context_length, 384)
    convert_gguf(path, tmp_path / "out")


def test_a_vocabulary_that_cannot_hold_text_is_refused(tmp_path: Path) -> None:
    tokens = [*TOKENS[:3], "漢", "字", "漢字", *(f"漢{n}" for n in range(len(TOKENS) - 6))]
    path = write_tiny_gguf(
        tmp_path / "mute.gguf", metadata={"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": ["漢 字"]}
    )
    with pytest.raises(ModelError, match="no tokens for plain text"):
        convert_gguf(path, tmp_path / "out")
