"""The session of a recurrent head: its arithmetic, in whatever order it is asked; what is no such head is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import States
from recurrent import begin, go_on, random_head, step

from edgespec.decoding.drafters.guided import Belief
from edgespec.errors import GenerationError, ModelError
from edgespec.graph.formats import WeightsName
from edgespec.graph.recurrent import RecurrentWeights, write_recurrent
from edgespec.runtime.recurrent import OnnxRecurrentHead, hidden_size_read

TAPPED, TOKENS = 96, 200
WEIGHTS = random_head(TAPPED, TOKENS)


def opened(weights: RecurrentWeights, folder: Path, name: WeightsName = "float32") -> OnnxRecurrentHead:
    return OnnxRecurrentHead.open(write_recurrent(weights, folder, name), vocab_size=TOKENS)


def states(seed: int) -> States:
    return np.random.default_rng(seed).normal(0.0, 3.0, (1, TAPPED)).astype(np.float32).view(States)


@pytest.mark.parametrize(("name", "tolerance"), [("float32", 1e-5), ("int8", 0.05)])
def test_every_step_is_the_arithmetic_of_the_head(tmp_path: Path, name: WeightsName, tolerance: float) -> None:
    head, w = opened(WEIGHTS, tmp_path, name), WEIGHTS.tensors
    for turn, tokens in enumerate([(5, 9, 9, 0, 199), (3,), (8, 8), (1, 2, 3, 4)]):
        carried = begin(w, np.asarray(states(turn))[0])
        for i, token in enumerate(tokens):
            found = head.forward(token, states(turn) if i == 0 else None)
            state, expected = step(w, carried, token)
            np.testing.assert_allclose(found, expected, atol=tolerance)
            assert expected.max() > 3 * tolerance
            carried = go_on(w, state)


def test_it_names_its_tokens_and_how_lookups_are_to_be_believed(tmp_path: Path) -> None:
    head = opened(WEIGHTS, tmp_path, "int8")
    np.testing.assert_array_equal(head.token_ids, WEIGHTS.token_ids)
    assert head.belief == pytest.approx(Belief(0.9, 0.4, 0.5, 0.9, 1.3, -0.3))
    assert hidden_size_read(tmp_path / "model.onnx") == TAPPED


def test_a_token_that_there_is_not_fails_the_pass_and_nothing_else(tmp_path: Path) -> None:
    head = opened(WEIGHTS, tmp_path)
    before = head.forward(7, states(1)).copy()
    with pytest.raises(GenerationError, match="A pass of the head failed"):
        head.forward(TOKENS, states(1))
    np.testing.assert_array_equal(head.forward(7, states(1)), before)


def test_what_is_no_head_for_the_model_is_refused(tmp_path: Path) -> None:
    many, strange = random_head(TAPPED, TOKENS + 1), replace(WEIGHTS, belief=np.zeros(5, np.float32))
    shorter = replace(WEIGHTS, token_ids=WEIGHTS.token_ids[:-1])
    for n, wrong in enumerate((replace(many, token_ids=np.arange(64) + TOKENS - 63), strange, shorter)):
        folder = tmp_path / f"wrong-{n}"
        folder.mkdir()
        with pytest.raises(ModelError, match=f"wrong-{n} holds no head for this model; get it again"):
            opened(wrong, folder)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ModelError):
        hidden_size_read(tmp_path / "text.onnx")
