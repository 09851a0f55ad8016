"""config.json in the forms that it comes in: with values left out, and as transformers 5 writes it."""

from __future__ import annotations

from typing import Any

import pytest
from checkpoints import SIZES

from edgespec.graph.config import DecoderConfig, LayerConfig, Rotary
from edgespec.graph.families import read_family
from edgespec.graph.settings import Settings

COMMON = SIZES | {"hidden_act": "silu", "hidden_activation": "gelu_pytorch_tanh"}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


def read(family: str, **settings: Any) -> DecoderConfig:
    return read_family(Settings(COMMON | {"model_type": family} | settings, "config.json"))


def rotary(config: DecoderConfig, layer: int = 0) -> Rotary:
    found = config.layers[layer].rotary
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("family", "four", "five"),
    [
        ("llama", {"rope_theta": 5e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        (
            "llama",
            {"rope_theta": 5e5, "rope_scaling": LLAMA3},
            {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
        ),
        (
            "phi3",
            {"original_max_position_embeddings": 32, "rope_scaling": LONG},
            {"rope_parameters": LONG | {"original_max_position_embeddings": 32, "rope_theta": 1e4}},
        ),
        (
            "gemma3_text",
            {"head_dim": 16, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            {
                "head_dim": 16,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
                },
            },
        ),
    ],
)
def test_rotation_may_stand_in_two_places(family: str, four: dict[str, Any], five: dict[str, Any]) -> None:
    assert read(family, **four) == read(family, **five)


def test_a_llama_of_the_first_days_rotates_by_ten_thousand() -> None:
    assert rotary(read("llama")).frequencies[1] == pytest.approx(1e4 ** (-2 / 16))


def test_every_fourth_layer_of_smollm3_knows_no_positions() -> None:
    turned = [layer.rotary is not None for layer in read("smollm3", num_hidden_layers=9).layers]
    assert turned == [True, True, True, False] * 2 + [True]
    assert read("smollm3", no_rope_layers=[0, 1, 1, 0]).layers[0] == LayerConfig(None)


def test_windows_are_where_the_family_has_them() -> None:
    def windows(family: str, **settings: Any) -> list[int | None]:
        return [layer.window for layer in read(family, **settings).layers]

    assert windows("mistral") == [None] * 4
    assert windows("mistral", sliding_window=32) == [32] * 4
    assert windows("mistral", sliding_window=128) == [None] * 4, "it holds the whole context"
    assert windows("qwen2", sliding_window=32) == [None] * 4
    assert windows("qwen2", sliding_window=32, use_sliding_window=True, max_window_layers=3) == [None] * 3 + [32]
    assert windows("gemma2", sliding_window=32) == [32, None] * 2
    assert windows("gemma3_text", sliding_window=32, sliding_window_pattern=2) == [32, None] * 2
    assert windows("gemma3_text", sliding_window=32, num_hidden_layers=7) == [32] * 5 + [None, 32]


def test_the_language_model_of_a_gemma_that_sees_says_little() -> None:
    small = {key: COMMON[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    config = read_family(Settings(small | {"model_type": "gemma3_text", "sliding_window": 1024}, "config.json"))
    assert (config.heads, config.kv_heads, config.head_size, config.vocab_size) == (8, 4, 256, 262208)
    assert (config.context_length, config.attention_scale, config.embedding_scale) == (131072, 1 / 16, 8.0)
    assert config.tied
    assert config.activation == "gelu_tanh"


def test_long_rope_needs_a_longer_context_than_the_original() -> None:
    short = rotary(read("phi3", original_max_position_embeddings=128, rope_scaling=LONG))
    assert short.magnitude == 1.0
    long = rotary(read("phi3", original_max_position_embeddings=32, rope_scaling=LONG))
    assert long.magnitude > 1.0
    assert long.long_frequencies == tuple(value / 2 for value in long.frequencies)
