"""Models' sizes, from what a user would write."""

from __future__ import annotations

import pytest

from edgespec.bundle.catalog import load_catalog
from edgespec.bundle.hub import HubReference
from edgespec.errors import UsageError
from edgespec.shapes import find_shape, read_shapes

QWEN_4B = "layers=36,hidden=2560,ffn=9728,heads=32,kv_heads=8,head_size=128,vocab=151936"


def test_the_shapes_have_as_many_parameters_as_was_published() -> None:
    published = {
        "smollm2-135m": 134.5e6,
        "smollm2-360m": 361.8e6,
        "qwen3-0.6b": 0.596e9,
        "qwen3-1.7b": 1.72e9,
        "qwen3-4b": 4.02e9,
        "qwen3-8b": 8.19e9,
        "qwen3-14b": 14.77e9,
        "llama-3.2-1b": 1.236e9,
    }
    shapes = read_shapes()
    for name, parameters in published.items():
        assert shapes[name].parameters == pytest.approx(parameters, rel=0.005), name


def test_every_model_of_the_catalog_has_its_shape() -> None:
    """A download has two bytes a parameter; two of them hold their embedding twice."""
    shapes = read_shapes()
    for name, pair in load_catalog().pairs.items():
        if isinstance(pair.source, HubReference):
            config = shapes[name].config
            embedding = config.vocab_size * config.hidden_size
            found = {shapes[name].parameters, shapes[name].parameters + embedding}
            assert any(pair.download / 2 == pytest.approx(n, rel=0.01) for n in found), name
        assert shapes[name].weight_bytes(8) + shapes[name].cache_bytes(4096) == pytest.approx(pair.memory, rel=0.3), (
            name
        )


@pytest.mark.parametrize("text", ["4B", "4b", "0.6B", "1.7B", "135M", "350m", "8B", "30B", "70B", "50M"])
def test_a_size_is_a_known_model_with_more_or_fewer_layers(text: str) -> None:
    parameters = float(text[:-1]) * {"M": 1e6, "B": 1e9}[text[-1].upper()]
    shape = find_shape(text)
    assert shape.name.startswith(f"{text} (like ")
    assert abs(shape.parameters - parameters) <= max(shape.layer_parameters, 0.3 * parameters)


def test_a_draft_gets_the_vocabulary_of_its_target() -> None:
    target = find_shape("4B")
    draft = find_shape("0.3B", vocab_size=target.config.vocab_size)
    assert draft.config.vocab_size == target.config.vocab_size
    assert draft.parameters == pytest.approx(0.3e9, rel=0.1)
    with pytest.raises(UsageError, match="50M parameters cannot have 151,936 tokens"):
        find_shape("50M", vocab_size=target.config.vocab_size)


def test_a_shape_may_be_given_by_its_numbers() -> None:
    given, known = find_shape(QWEN_4B), find_shape("qwen3-4b")
    assert given.parameters == pytest.approx(known.parameters, rel=1e-4)
    assert given.cache_bytes(100) == known.cache_bytes(100) == 2 * 36 * 8 * 128 * 100 * 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("qwen4-4b", "is no model's size"),
        ("4", "is no model's size"),
        ("-4B", "is no model's size"),
        ("0B", "cannot be judged"),
        ("5000B", "cannot be judged"),
        ("20M", "cannot have 49,152 tokens"),
        ("layers=36", "exactly the numbers"),
        (QWEN_4B + ",colour=1", "see colour"),
        (QWEN_4B.replace("36", "many"), "is no number"),
        (QWEN_4B.replace("36", "0"), "a number that no model has"),
        (QWEN_4B.replace("36", "999999"), "a number that no model has"),
        (QWEN_4B.replace("kv_heads=8", "kv_heads=7"), "do not fit together"),
        (QWEN_4B.replace("2560", "2561"), "must be 32s"),
    ],
)
def test_what_is_no_shape_is_refused_with_the_forms_that_are(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        find_shape(text)
