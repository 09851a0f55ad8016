"""Predictions for a pair that is not here: the arithmetic exactly, the timing against a model that is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edgespec import pairing
from edgespec.bundle import Bundle
from edgespec.decoding.calibrate import measure_costs
from edgespec.engine import Resources, open_model
from edgespec.graph.synthetic import SyntheticFormat, part_of, write_synthetic
from edgespec.pairing import Prediction, extrapolate, predict, time_shape, weigh
from edgespec.runtime.model import OnnxCausalLM
from edgespec.shapes import find_shape

SMALL = find_shape("layers=3,hidden=64,ffn=128,heads=2,kv_heads=1,head_size=32,vocab=512")
SMALLER = find_shape("layers=1,hidden=64,ffn=128,heads=2,kv_heads=1,head_size=32,vocab=512")


def test_times_grow_with_the_layers_and_with_the_rows_of_the_head() -> None:
    config = SMALL.config  # 3 layers, 512 tokens
    assert extrapolate([4.0, 6.0], 2, [7.0, 11.0], 128, config) == [
        2.0 * 3 + (7.0 - 2.0) * 512 / 128,
        3.0 * 3 + (11.0 - 3.0) * 512 / 128,
    ]
    assert extrapolate([4.0], 1, [3.0], 128, config) == [12.0]  # a head that was quicker than nothing takes no time


def test_what_follows_from_costs() -> None:
    found = weigh([10.0, 12.0, 11.0, 16.0], 1.0, memory=5, available=7)
    assert found.passes == (10.0, 12.0, 12.0, 16.0)
    assert [(a, k) for a, k, _ in found.speedups] == [(0.5, 2), (0.6, 2), (0.7, 2), (0.8, 2)]
    assert [s for *_, s in found.speedups] == pytest.approx([17.5 / 14, 19.6 / 14, 21.9 / 14, 24.4 / 14])
    assert found.enough == 0.35  # (1 + a + a * a) * 10 / 14 >= 1.05
    assert found.fits


@pytest.mark.parametrize(
    ("enough", "says"),
    [
        (None, "cannot win here"),
        (0.45, r"can win here.*more than 45% of the tested proposals are accepted, as those of good"),
        (0.75, r"may win here.*75%.*only those of the best"),
        (0.9, r"hardly win here.*90%"),
    ],
)
def test_the_verdict_is_plain(enough: float | None, says: str) -> None:
    assert re.search(says, Prediction(1, 2, (1.0,), 0.1, (), enough).verdict)


def test_what_does_not_fit_into_memory_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "time_shape", None)
    target, draft = find_shape("qwen3-4b"), find_shape("qwen3-0.6b")
    found = predict(target, draft, 7_000_000_000, device="cpu", weights="int8")
    needed = 150e6 + 1.125 * (4.022e9 + 0.596e9) + 2 * 4 * 4096 * 8 * 128 * (36 + 28)
    assert found.memory == pytest.approx(needed, rel=1e-3)
    assert not found.fits
    smaller = predict(target, draft, 1, device="cpu", weights="int4")
    layers = 36 * target.layer_parameters + 28 * draft.layer_parameters
    assert found.memory - smaller.memory == pytest.approx(layers / 2)
    assert (found.passes, found.speedups, found.enough) == ((), (), None)
    assert found.verdict == "it does not fit: 7.5 GB are needed and 7.0 GB are available"


def test_a_pair_is_timed_without_any_model_here() -> None:
    shares: list[float] = []
    found = predict(SMALL, SMALLER, 1 << 40, device="cpu", weights="int8", progress=shares.append)
    assert len(found.passes) == 9
    assert list(found.passes) == sorted(found.passes)
    assert 0.0 < found.draft_ms < 100.0
    assert [a for a, *_ in found.speedups] == [0.5, 0.6, 0.7, 0.8]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert predict(SMALL, None, 1 << 40, device="cpu", weights="int8").draft_ms == 0.0


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_synthetic_graph_is_a_graph_of_that_shape(tmp_path: Path, weights: SyntheticFormat) -> None:
    graph = write_synthetic(part_of(SMALL.config, 2, 64), tmp_path, weights)
    model = OnnxCausalLM.open(graph, context_length=32, vocab_size=64)
    logits = model.forward([1, 2, 3]).copy()
    assert logits.shape == (3, 64)
    assert np.isfinite(logits).all()
    assert logits.std(axis=1).min() > 0.01
    model.rewind(1)
    assert np.array_equal(model.forward([2, 3]), logits[1:])


@pytest.mark.slow
@pytest.mark.parametrize("part", [1 << 30, 32_000_000], ids=["whole", "extrapolated"])
def test_the_prediction_is_near_what_a_real_model_takes(
    default_bundle: Bundle, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a factor: machines that run tests have other things to do."""
    monkeypatch.setattr(pairing, "_PART", part)
    model = open_model(default_bundle, Resources(context_length=1100, device="cpu"))
    ratios: list[list[float]] = []
    for _ in range(2):
        predicted = time_shape(find_shape("smollm2-135m").config, 9, "int8", "cpu")
        real = measure_costs(model, [], k_max=8).at(pairing.CONTEXT, exact=False)
        ratios.append([p / r for p, r in zip(predicted, real, strict=True)])
    ratio = np.median(np.array(ratios))
    assert 0.5 < ratio < 2.0
