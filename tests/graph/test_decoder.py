"""Converted graphs compute what the model means: against NumPy, in one pass and token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from numpy_llama import NumpyLlama
from runner import Runner
from tiny import TOKENS, write_tiny_gguf

from edgespec.graph import convert_gguf

IDS = [1, 300, 17, 42, 260, 99, 5, 270, 281, 33, 150, 299, 7, 7, 64, 203]


def divergence(reference: NDArray[np.float64], logits: NDArray[np.float32]) -> float:
    """Mean KL of the rows' next-token distributions."""
    p, q = (x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) for x in (reference, logits))
    p, q = p - reference.max(-1, keepdims=True), q - logits.max(-1, keepdims=True)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def test_float32_prefill_equals_numpy(tiny_gguf: Path, tiny_float32: Path) -> None:
    expected = NumpyLlama(tiny_gguf).logits(IDS)
    assert expected.std() > 1, "the reference is flat: nothing would be proven"
    np.testing.assert_allclose(Runner(tiny_float32).forward(IDS), expected, atol=1e-4)


def test_float32_in_steps_equals_numpy(tiny_gguf: Path, tiny_float32: Path) -> None:
    model = Runner(tiny_float32)
    steps = [model.forward(IDS[:5]), *(model.forward([token]) for token in IDS[5:12]), model.forward(IDS[12:])]
    np.testing.assert_allclose(np.concatenate(steps), NumpyLlama(tiny_gguf).logits(IDS), atol=1e-4)


def test_a_rewound_cache_continues_like_a_fresh_one(tiny_float32: Path) -> None:
    model = Runner(tiny_float32)
    model.forward([*IDS[:6], 11, 12, 13])
    model.length = 6
    np.testing.assert_allclose(model.forward(IDS[6:]), Runner(tiny_float32).forward(IDS)[6:], atol=1e-5)


def test_int8_stays_close_to_numpy(tiny_gguf: Path, tiny_int8: Path) -> None:
    expected = NumpyLlama(tiny_gguf).logits(IDS)
    model = Runner(tiny_int8)
    steps = [model.forward(IDS[:9]), model.forward(IDS[9:10]), model.forward(IDS[10:])]
    assert divergence(expected, np.concatenate(steps)) < 0.01


@pytest.mark.parametrize("weights", ["int8", "float32"])
def test_untied_head_grouped_queries_and_other_sizes(tmp_path: Path, weights: str) -> None:
    path = write_tiny_gguf(
        tmp_path / "wide.gguf", layers=3, hidden=96, heads=6, kv_heads=1, ffn=160, tied=False, seed=5,
        metadata={"llama.rope.freq_base": 100.0, "llama.attention.layer_norm_rms_epsilon": 0.01},
    )  # fmt: skip
    convert_gguf(path, tmp_path / "out", weights=weights)  # pyright: ignore[reportArgumentType]
    logits = Runner(tmp_path / "out").forward(IDS)
    assert divergence(NumpyLlama(path).logits(IDS), logits) < (1e-6 if weights == "float32" else 0.02)


def test_rope_factors_are_applied(tmp_path: Path) -> None:
    factors = np.linspace(1.0, 32.0, 8, dtype=np.float32)
    path = write_tiny_gguf(tmp_path / "scaled.gguf", tensors={"rope_freqs.weight": factors})
    convert_gguf(path, tmp_path / "out", weights="float32")
    np.testing.assert_allclose(Runner(tmp_path / "out").forward(IDS), NumpyLlama(path).logits(IDS), atol=1e-4)


def test_kept_layers_are_renumbered_and_run_alone(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "deep.gguf", layers=4)
    converted = convert_gguf(path, tmp_path / "out", weights="float32", keep_layers=(0, 2, 3))
    assert converted.layers == (0, 2, 3)
    model = Runner(tmp_path / "out")
    pasts = [entry.name for entry in model.session.get_inputs() if entry.name.endswith(".key")]
    assert pasts == [f"past_key_values.{n}.key" for n in range(3)]
    np.testing.assert_allclose(model.forward(IDS), NumpyLlama(path).logits(IDS, (0, 2, 3)), atol=1e-4)


@pytest.mark.parametrize(("keep", "rows"), [(None, 16), (0, 16), (1, 1), (2, 2), (16, 16), (40, 16)])
def test_logits_are_kept_for_the_last_rows_asked_for(tiny_int8: Path, keep: int | None, rows: int) -> None:
    every_row = Runner(tiny_int8).forward(IDS)
    kept = Runner(tiny_int8).forward(IDS, keep)
    assert kept.shape == (rows, len(TOKENS))
    # The head has another kernel for a lone row.
    np.testing.assert_allclose(kept, every_row[-rows:], atol=0.2 if rows == 1 else 0)


def test_inputs_and_outputs_are_those_of_the_contract(tiny_int8: Path) -> None:
    session = Runner(tiny_int8).session
    assert [(e.name, e.type, e.shape) for e in session.get_inputs()] == [
        ("input_ids", "tensor(int64)", [1, "sequence_length"]),
        ("attention_mask", "tensor(int64)", [1, "total_sequence_length"]),
        *((f"past_key_values.{n}.{what}", "tensor(float)", [1, 2, "past_length", 16])
          for n in range(2) for what in ("key", "value")),
    ]  # fmt: skip
    assert [(e.name, e.type, e.shape) for e in session.get_overridable_initializers()] == [
        ("attention_padding", "tensor(int64)", []),
        ("num_logits_to_keep", "tensor(int64)", []),
        ("position_ids", "tensor(int64)", [1, "sequence_length_given"]),
        ("attention_bias", "tensor(float)", [1, 1, "sequence_length_biased", "total_sequence_length_biased"]),
    ]
    assert [(e.name, e.type, e.shape) for e in session.get_outputs()] == [
        ("logits", "tensor(float)", [1, "logits_length", len(TOKENS)]),
        *((f"present.{n}.{what}", "tensor(float)", [1, 2, "present_length", 16])
          for n in range(2) for what in ("key", "value")),
    ]  # fmt: skip
