"""Every family's graph computes what transformers computes, in one pass, row by row, and a few rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import SIZES, write_texts
from numpy.typing import NDArray

from edgespec.decoding.exactness import splits_agree
from edgespec.graph import convert_checkpoint, reference_logits
from edgespec.graph.checkpoint import CheckpointWeights
from edgespec.graph.families import read_family
from edgespec.graph.forward import Forward
from edgespec.graph.settings import Settings
from edgespec.model_folder import ModelFolder
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


def build(name: str, folder: Path, **sizes: Any) -> Any:
    """A model with lively weights, saved in `folder`; `sizes` are other than SIZES."""
    family, changes = FAMILIES[name]
    config = getattr(transformers, f"{family}Config")(**(SIZES | changes | sizes))
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


@dataclass(frozen=True)
class Case:
    """A checkpoint, and what transformers makes of IDS: logits, and the last layer's output behind the last norm."""

    checkpoint: Path
    logits: NDArray[np.float32]
    hidden: NDArray[np.float32]

    def graph(self, **options: Any) -> Path:
        """The checkpoint converted."""
        out = self.checkpoint.parent / "-".join(options.values())
        if not out.exists():
            convert_checkpoint(self.checkpoint, out, **options)
        return out / "model.onnx"


def open_graph(graph: Path, context_length: int = 128) -> OnnxCausalLM:
    return OnnxCausalLM.open(graph, context_length=context_length, vocab_size=SIZES["vocab_size"])


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("family")
    model = build(request.param, folder / "checkpoint")
    with torch.no_grad():
        out = model(torch.tensor([IDS]), output_hidden_states=True)
    return Case(folder / "checkpoint", out.logits[0].numpy(), out.hidden_states[-1][0].numpy())


def test_one_pass_and_steps_equal_transformers(case: Case) -> None:
    assert case.logits.std() > 0.3, "the reference is flat: nothing would be proven"
    model = open_graph(case.graph(weights="float32"))
    np.testing.assert_allclose(model.forward(IDS), case.logits, atol=1e-3)
    model.rewind(0)
    ends = [20, *range(21, 41), 45, len(IDS)]
    steps = [model.forward(IDS[start:end]).copy() for start, end in pairwise([0, *ends])]
    np.testing.assert_allclose(np.concatenate(steps), case.logits, atol=1e-3)
    model.rewind(17)
    np.testing.assert_allclose(model.forward(IDS[17:]), case.logits[17:], atol=1e-3)


def test_channels_are_evened_out_by_the_same_model(case: Case) -> None:
    """The pass in NumPy that measures them ends where transformers does."""
    config = read_family(Settings(ModelFolder.read(case.checkpoint).config, "config.json"))
    weights = CheckpointWeights(case.checkpoint, config)
    forward = Forward(weights, config, IDS)
    assert len(list(forward.readings(range(len(config.layers))))) == 4 * len(config.layers)
    np.testing.assert_allclose(forward._norm(forward._x, "output_norm.weight"), case.hidden, atol=1e-3)


def test_the_reference_for_quality_is_the_model(case: Case) -> None:
    """Several texts at once, none of which sees another."""
    texts = [(IDS, 25), (IDS[:30], 1), (IDS[:41], 40)]
    found = list(reference_logits(case.checkpoint, texts, 300, lambda _: None))
    for logits, (ids, start) in zip(found, texts, strict=True):
        np.testing.assert_allclose(logits, case.logits[start - 1 : len(ids) - 1, :300], atol=1e-3)


def test_int8_stays_close_and_exact(case: Case) -> None:
    model = open_graph(case.graph(weights="int8"))
    assert np.square(model.forward(IDS) - case.logits).mean() < 0.02 * case.logits.var()
    model.rewind(0)
    assert splits_agree(model)


def test_half_precision_stays_close(case: Case) -> None:
    """The graph for CUDA, on the CPU."""
    model = open_graph(case.graph(weights="float32", profile="cuda"))
    steps = [model.forward(IDS[start:end]).copy() for start, end in pairwise([0, 30, 31, 32, len(IDS)])]
    assert np.square(np.concatenate(steps) - case.logits).mean() < 1e-4 * case.logits.var()
    quantized = open_graph(case.graph(weights="int8", profile="cuda"))
    assert np.square(quantized.forward(IDS) - case.logits).mean() < 0.02 * case.logits.var()


@pytest.mark.parametrize("name", ["llama 3", "qwen3", "granite", "gemma3"])
def test_the_hidden_states_for_heads_are_transformers(name: str, tmp_path: Path) -> None:
    """Behind 2 of eight layers, 4 and 5."""
    hugging_face = build(name, tmp_path / "checkpoint", num_hidden_layers=8)
    convert_checkpoint(tmp_path / "checkpoint", tmp_path / "out", weights="float32")
    with torch.no_grad():
        states = hugging_face(torch.tensor([IDS]), output_hidden_states=True).hidden_states
    model = open_graph(tmp_path / "out" / "model.onnx")
    for start, end in pairwise([0, 20, 21, 25, len(IDS)]):
        model.forward(IDS[start:end])
    expected = np.concatenate([states[tap][0].numpy() for tap in (2, 4, 5)], axis=-1)
    np.testing.assert_allclose(model.hidden_states(0, len(IDS)).read(), expected, atol=1e-3, rtol=1e-4)


def test_long_rope_goes_by_the_context_that_the_cache_has_room_for(tmp_path: Path) -> None:
    """transformers goes by the length of the sequence, so that its short and its long form are asked apart."""
    hugging_face = build("phi4 mini", tmp_path / "checkpoint")
    convert_checkpoint(tmp_path / "checkpoint", tmp_path / "out", weights="float32")
    with torch.no_grad():
        short = hugging_face(torch.tensor([IDS[:32]])).logits[0].numpy()
    graph = tmp_path / "out" / "model.onnx"
    np.testing.assert_allclose(open_graph(graph, 32).forward(IDS[:32]), short, atol=1e-3)
    assert np.abs(open_graph(graph, 33).forward(IDS[:32]) - short).max() > 0.1


def test_a_sum_that_half_precision_cannot_hold_is_held_smaller(tmp_path: Path) -> None:
    """Gemma's layers add up to more than float16 has."""
    hugging_face = build("gemma3", tmp_path / "checkpoint")
    for name, parameter in hugging_face.named_parameters():
        if "post_" in name:
            torch.nn.init.uniform_(parameter, 10000.0, 30000.0)
    hugging_face.save_pretrained(tmp_path / "checkpoint")
    convert_checkpoint(tmp_path / "checkpoint", tmp_path / "out", weights="float32", profile="cuda")
    with torch.no_grad():
        out = hugging_face(torch.tensor([IDS]), output_hidden_states=True)
    assert out.hidden_states[-2].abs().max() > 1e5
    expected, found = out.logits[0].numpy(), open_graph(tmp_path / "out" / "model.onnx").forward(IDS)
    assert np.square(found - expected).mean() < 1e-3 * expected.var()
