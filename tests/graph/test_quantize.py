"""int8 in blocks of 32: exact where it can be, close where not, and never NaN."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from edgespec.errors import ModelError
from edgespec.graph.quantize import Rows, float_chunks, int8_chunks

WEIGHTS: NDArray[np.float32] = np.random.default_rng(3).normal(0, 0.1, (48, 64)).astype(np.float32)


def rows(kind: Type, weights: NDArray[np.float32] = WEIGHTS) -> Rows:
    data: NDArray[Any] = quantize(weights, kind)
    return Rows("w", kind, data.view(np.uint8).reshape(len(weights), -1), weights.shape[1])


def meaning(parts: list[Rows]) -> NDArray[np.float32]:
    """The weights that the int8 form of `parts` stands for."""
    chunks = [
        (packed.reshape(*scales.shape, 32).astype(np.float32) - 128) * scales[..., None]
        for packed, scales in int8_chunks(parts)
    ]
    return np.concatenate(chunks).reshape(-1, parts[0].width)


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_1])
def test_float_chunks_are_what_the_file_means(kind: Type) -> None:
    source = rows(kind)
    expected = dequantize(quantize(WEIGHTS, kind), kind)
    np.testing.assert_array_equal(np.concatenate(list(float_chunks([source, source]))), np.tile(expected, (2, 1)))


def test_q8_0_is_carried_over_exactly() -> None:
    np.testing.assert_array_equal(meaning([rows(Type.Q8_0)]), dequantize(quantize(WEIGHTS, Type.Q8_0), Type.Q8_0))


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_1, Type.F32])
def test_factors_multiply_the_columns(kind: Type) -> None:
    factors = np.linspace(0.2, 5, 64, dtype=np.float32)
    source = replace(rows(kind), factors=factors)
    expected = dequantize(quantize(WEIGHTS, kind), kind) * factors
    np.testing.assert_array_equal(np.concatenate(list(float_chunks([source]))), expected)
    assert np.linalg.norm(meaning([source]) - expected) < 0.008 * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q5_0])
def test_grids_of_four_and_five_bits_through_zero_are_met(kind: Type) -> None:
    np.testing.assert_allclose(meaning([rows(kind)]), dequantize(quantize(WEIGHTS, kind), kind), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("kind", "bound"), [(Type.Q4_1, 0.004), (Type.F16, 0.006), (Type.F32, 0.006)])
def test_other_weights_are_within_half_a_percent(kind: Type, bound: float) -> None:
    expected = dequantize(quantize(WEIGHTS, kind), kind)
    assert np.linalg.norm(meaning([rows(kind)]) - expected) < bound * np.linalg.norm(expected)


def test_no_weight_is_off_by_more_than_half_a_step_of_its_block() -> None:
    for packed, scales in int8_chunks([rows(Type.F32)]):
        error = (packed.reshape(-1, 2, 32).astype(np.float32) - 128) * scales[..., None] - WEIGHTS.reshape(-1, 2, 32)
        assert (np.abs(error) <= scales[..., None] * 0.5001).all()


def test_zeros_and_tiny_numbers_become_zeros_not_nan() -> None:
    weights = np.zeros((2, 64), np.float32)
    weights[1] = 1e-42
    np.testing.assert_array_equal(meaning([rows(Type.F32, weights)]), np.zeros((2, 64)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", [Type.F32, Type.Q8_0])
def test_nan_and_infinite_weights_are_refused(bad: float, kind: Type) -> None:
    source = rows(kind)
    data = source.data.copy()
    data[5, : 4 if kind == Type.F32 else 2] = np.array([bad], "<f4" if kind == Type.F32 else "<f2").view(np.uint8)
    damaged = Rows("blk.0.ffn_up.weight", kind, data, 64)
    for chunks in (float_chunks([damaged]), int8_chunks([damaged])):
        with pytest.raises(ModelError, match=r"blk\.0\.ffn_up\.weight holds NaN or infinite"):
            list(chunks)


def test_rows_that_no_block_fits_are_refused() -> None:
    with pytest.raises(ModelError, match="no multiple of 32"):
        list(int8_chunks([rows(Type.F32, WEIGHTS[:, :48].copy())]))


def test_an_unreadable_encoding_is_named() -> None:
    source = Rows("w", Type.Q8_K, np.zeros((1, 292), np.uint8), 256)
    with pytest.raises(ModelError, match="Q8_K"):
        list(float_chunks([source]))
