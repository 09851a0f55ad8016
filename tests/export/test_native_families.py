"""Every family's graph computes what transformers computes, in one pass, row by row, and a few rows at a time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import SIZES, write_texts
from numpy.typing import NDArray

from edgespec.graph import convert_checkpoint
from edgespec.runtime.model import OnnxCausalLM

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

IDS = [(i * i * 7 + i * 37 + 5) % 304 for i in range(60)]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONG = {
    "type": "longrope",
    "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6],
    "long_factor": [1.0, 1.5, 3.0, 4.0, 6.0, 12.0, 24.0, 48.0],
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 2": ("Llama", {}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3": ("Llama", {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "tie_word_embeddings": True}),
    "llama, linear": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "head_dim": 32}),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "mistral without a window": ("Mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("Qwen2", {}),
    "qwen2, windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
    "qwen2, yarn": ("Qwen2", {"rope_scaling": YARN}),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "smollm3": ("SmolLM3", {}),
    "granite": (
        "Granite",
        {
            "embedding_multiplier": 6.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
            "logits_scaling": 4.0,
        },
    ),
    "phi3": ("Phi3", {"original_max_position_embeddings": 128, "sliding_window": 12}),
    "phi4 mini": (
        "Phi3",
        {
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "partial_rotary_factor": 0.5,
            "original_max_position_embeddings": 32,
            "rope_scaling": LONG,
            "tie_word_embeddings": True,
        },
    ),
    "gemma2": (
        "Gemma2",
        {
            "head_dim": 16,
            "sliding_window": 8,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 4.0,
        },
    ),
    "gemma3": (
        "Gemma3Text",
        {
            "head_dim": 16,
            "sliding_window": 8,
            "query_pre_attn_scalar": 24,
            "num_hidden_layers": 7,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "gemma3 with a soft-cap": ("Gemma3Text", {"head_dim": 32, "sliding_window": 8, "final_logit_softcapping": 4.0}),
}


def build(name: str, folder: Path) -> Any:
    """A model with lively weights, saved in `folder`."""
    family, changes = FAMILIES[name]
    config = getattr(transformers, f"{family}Config")(**(SIZES | changes))
    config._attn_implementation = "eager"
    torch.manual_seed(3)
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config).eval()
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name:
            centre = 0.0 if "gemma" in config.model_type else 1.0
            torch.nn.init.uniform_(parameter, centre - 0.5, centre + 0.5)
        elif "embed" in parameter_name or "lm_head" in parameter_name:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
        else:
            torch.nn.init.normal_(parameter, 0.0, 0.2)
    model.save_pretrained(folder, safe_serialization=True)
    write_texts(folder)
    return model


def reference(model: Any) -> NDArray[np.float32]:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].float().numpy()


@pytest.fixture(params=FAMILIES)
def converted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[NDArray[np.float32], Path]:
    """What transformers says of IDS, and a graph of the same weights."""
    model = build(request.param, tmp_path / "checkpoint")
    convert_checkpoint(tmp_path / "checkpoint", tmp_path / "out", weights="float32")
    return reference(model), tmp_path / "out" / "model.onnx"


def test_one_pass_and_steps_equal_transformers(converted: tuple[NDArray[np.float32], Path]) -> None:
    expected, graph = converted
    assert expected.std() > 0.3, "the reference is flat: nothing would be proven"
    model = OnnxCausalLM.open(graph, context_length=128, vocab_size=SIZES["vocab_size"])
    np.testing.assert_allclose(model.forward(IDS), expected, atol=1e-3)
    model.rewind(0)
    ends = [20, *range(21, 41), 45, len(IDS)]
    steps = [model.forward(IDS[start:end]).copy() for start, end in pairwise([0, *ends])]
    np.testing.assert_allclose(np.concatenate(steps), expected, atol=1e-3)


def test_long_rope_goes_by_the_context_that_the_cache_has_room_for(tmp_path: Path) -> None:
    """transformers goes by the length of the sequence, so that its short and its long form are asked apart."""
    hugging_face = build("phi4 mini", tmp_path / "checkpoint")
    convert_checkpoint(tmp_path / "checkpoint", tmp_path / "out", weights="float32")
    with torch.no_grad():
        short = hugging_face(torch.tensor([IDS[:32]])).logits[0].float().numpy()
    graph = tmp_path / "out" / "model.onnx"
    model = OnnxCausalLM.open(graph, context_length=32, vocab_size=SIZES["vocab_size"])
    np.testing.assert_allclose(model.forward(IDS[:32]), short, atol=1e-3)
    longer = OnnxCausalLM.open(graph, context_length=33, vocab_size=SIZES["vocab_size"])
    assert np.abs(longer.forward(IDS[:32]) - short).max() > 0.1
