"""int4 in blocks of 32: a file's own values as they are, others as near as a scale can bring them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray
from numpy_llama import NumpyLlama
from runner import Runner
from tiny import write_tiny_gguf

from edgespec.errors import ModelError
from edgespec.graph import convert_gguf
from edgespec.graph.formats import WeightsName
from edgespec.graph.int4 import carried_chunks, has_four_bits, has_least_values, int4_chunks, sum_columns
from edgespec.graph.quantize import Rows

Array = NDArray[np.float32]
WEIGHTS: Array = np.random.default_rng(3).normal(0.02, 0.1, (48, 256)).astype(np.float32)
IDS = [7, 250, 31, 31, 4, 100, 200, 9, 12, 77, 301, 5]


def rows(kind: Type, weights: Array = WEIGHTS) -> Rows:
    data = q4_k(weights) if kind == Type.Q4_K else quantize(weights, kind).view(np.uint8)
    return Rows("w", kind, data.reshape(len(weights), -1), weights.shape[1])


def q4_k(weights: Array) -> NDArray[np.uint8]:
    """Some valid superblocks: random bytes, with scales that are numbers."""
    blocks = np.random.default_rng(4).integers(0, 256, (weights.size // 256, 144), dtype=np.uint8)
    scales = np.array([[0.01, 0.02]] * len(blocks), "<f2")
    blocks[:, :4] = scales.view(np.uint8)
    return blocks


def meaning(chunks: Iterable[tuple[NDArray[np.uint8], Array]]) -> Array:
    parts: list[Array] = []
    for packed, scales in chunks:
        codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*scales.shape, 32).astype(np.float32)
        parts.append(((codes - 8) * scales[..., None]).reshape(len(packed), -1))
    return np.concatenate(parts)


def carried(source: Rows) -> Array:
    """What the carried form stands for, the columns for sums spread over their blocks."""
    values, width = meaning(carried_chunks([source])), source.width
    if not has_least_values([source]):
        return values
    columns = sum_columns(width)
    least = values[:, width : width + columns] + values[:, width + columns :]
    assert not least[:, width // 32 :].any()
    spread: Array = np.repeat(least[:, : width // 32], 32, axis=1)
    return values[:, :width] + spread


def test_q4_0_is_carried_over_exactly() -> None:
    source = rows(Type.Q4_0)
    np.testing.assert_array_equal(carried(source), dequantize(source.data, Type.Q4_0))


@pytest.mark.parametrize("kind", [Type.Q4_1, Type.Q4_K])
def test_least_values_are_carried_over_to_eight_bits(kind: Type) -> None:
    source = rows(kind)
    expected = dequantize(source.data, kind)
    off = carried(source) - expected
    assert np.abs(off).max() <= 1.01 * np.abs(expected).max() / 119
    # Codes are exact: within a block, all are off by the same.
    np.testing.assert_allclose(np.ptp(off.reshape(-1, 32), axis=1), 0, atol=1e-5)


def test_only_four_bits_without_factors_are_carried() -> None:
    assert has_four_bits([rows(Type.Q4_0), rows(Type.Q4_1)])
    assert not has_four_bits([rows(Type.Q4_0), rows(Type.Q8_0)])
    assert not has_four_bits([replace(rows(Type.Q4_0), factors=np.ones(256, np.float32))])


def test_a_grid_of_four_bits_is_met() -> None:
    codes = np.random.default_rng(5).integers(-8, 8, (16, 64)).astype(np.float32)
    codes[:, ::32] = -8
    np.testing.assert_allclose(meaning(int4_chunks([rows(Type.F32, codes * 0.01)])), codes * 0.01, rtol=1e-5, atol=1e-7)


def test_the_search_beats_rounding_to_the_nearest() -> None:
    source = rows(Type.F32)
    nearest = dequantize(quantize(WEIGHTS, Type.Q4_0), Type.Q4_0)
    off = np.square(meaning(int4_chunks([source])) - WEIGHTS).sum()
    assert off < 0.9 * np.square(nearest - WEIGHTS).sum()


def test_errors_count_by_the_energy_of_what_they_multiply() -> None:
    energy = np.where(np.arange(256) % 32 < 4, 100, 1).astype(np.float32)
    off = [
        (np.square(meaning(int4_chunks([source])) - WEIGHTS) * energy).sum()
        for source in (replace(rows(Type.F32), energy=energy), rows(Type.F32))
    ]
    assert off[0] < 0.9 * off[1]


@pytest.mark.parametrize("value", [0.0, 1e-42, 1e-20, 3e38])
@pytest.mark.parametrize("energy", [None, 0.0, 3e38])
def test_extreme_blocks_and_energies_do_no_harm(value: float, energy: float | None) -> None:
    weights = np.full((2, 32), value, np.float32)
    heard = None if energy is None else np.full(32, energy, np.float32)
    found = meaning(int4_chunks([replace(rows(Type.F32, weights), energy=heard)]))
    np.testing.assert_allclose(found, weights, rtol=1e-3, atol=1e-38)


def test_damaged_scales_are_refused() -> None:
    source = rows(Type.Q4_1)
    source.data[0, :2] = 0xFF
    with pytest.raises(ModelError, match="NaN or infinite"):
        list(carried_chunks([source]))
    with pytest.raises(ModelError, match="no multiple of 32"):
        list(int4_chunks([rows(Type.F32, WEIGHTS[:, :40])]))


@pytest.mark.parametrize(
    ("kind", "weights", "bound"),
    [
        *((kind, "int8", 0.01) for kind in ("F16", "BF16", "F32", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1")),
        *((kind, "kept", 0.01) for kind in ("Q4_0", "Q4_1", "Q8_0")),
        ("F16", "mixed", 0.3),
        ("F16", "int4", 1.0),
    ],
)
def test_every_type_of_a_file_comes_out_at_its_quality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, weights: WeightsName, bound: float
) -> None:
    """Mean KL against the file's own values in float32."""
    monkeypatch.setattr("edgespec.graph.formats.WORTH_SUMS", 0)
    monkeypatch.setattr("edgespec.graph.formats.EVEN_LAYERS", 0)
    monkeypatch.setattr("tiny._type", lambda name: Type.F32 if "norm" in name else Type[kind])
    path = write_tiny_gguf(tmp_path / "tiny.gguf", hidden=128, ffn=256)
    convert_gguf(path, tmp_path / "out", weights=weights)
    expected = log_softmax(NumpyLlama(path).logits(IDS))
    found = log_softmax(Runner(tmp_path / "out").forward(IDS).astype(np.float64))
    assert (np.exp(expected) * (expected - found)).sum(axis=1).mean() < bound


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def test_kept_values_give_the_same_rows_in_any_pass_of_two_or_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgespec.graph.formats.WORTH_SUMS", 0)
    path = write_tiny_gguf(tmp_path / "tiny.gguf", layers=3)
    convert_gguf(path, tmp_path / "out", weights="kept")
    whole, parts = Runner(tmp_path / "out"), Runner(tmp_path / "out")
    expected = whole.forward(IDS)
    found = np.concatenate([parts.forward(IDS[a:b]) for a, b in ((0, 2), (2, 5), (5, 9), (9, 12))])
    np.testing.assert_array_equal(found, expected)


def test_sums_are_made_only_where_enough_weights_read_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gate and up share their input; int8 is evened out, and what is kept is not."""
    path = four_bits(tmp_path, monkeypatch, Type.Q4_1)
    monkeypatch.setattr("edgespec.graph.formats.WORTH_SUMS", 2 * 128 * 256)
    assert multiplied(path, tmp_path / "some")["0"] == {"gate_up": 4, "qkv": 8, "projection": 8, "down": 8}
    monkeypatch.setattr("edgespec.graph.formats.WORTH_SUMS", 2 * 128 * 256 + 1)
    assert set(multiplied(path, tmp_path / "none")["0"].values()) == {8}
    symmetric = four_bits(tmp_path, monkeypatch, Type.Q4_0)
    assert set(multiplied(symmetric, tmp_path / "all")["0"].values()) == {4}


def test_the_last_two_layers_are_evened_out_rather_than_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = multiplied(four_bits(tmp_path, monkeypatch, Type.Q4_0), tmp_path / "out")
    assert set(found["0"].values()) == {4}
    assert found["1"] == found["2"] == {"gate_up": 8, "qkv": 8, "projection": 4, "down": 4}


def four_bits(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: Type) -> Path:
    """A model of three layers whose matrices are of this type."""
    monkeypatch.setattr("tiny._type", lambda name: Type.F32 if "norm" in name else kind)
    return write_tiny_gguf(folder / f"{kind.name}.gguf", layers=3, hidden=128, ffn=256)


def multiplied(source: Path, out: Path) -> dict[str, dict[str, int]]:
    """The bits of each kind of matrix, by layer."""
    convert_gguf(source, out, weights="kept")
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    found = defaultdict[str, dict[str, int]](dict)
    for node in graph.node:
        if node.op_type == "MatMulNBits" and (name := node.name.split("."))[0] == "layers":
            found[name[1]][name[3]] = next(a.i for a in node.attribute if a.name == "bits")
    return found
