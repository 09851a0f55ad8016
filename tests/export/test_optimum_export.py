"""What Optimum exports computes what transformers computes, is quantized with care, and opens as it is too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from checkpoints import SIZES, write_texts

from edgespec.chat.events import Answer
from edgespec.chat.session import Settings
from edgespec.engine import open_chat
from edgespec.errors import ModelError
from edgespec.graph import Converted
from edgespec.runtime.model import OnnxCausalLM

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("optimum.exporters.onnx")

from export.optimum_export import export_with_optimum  # noqa: E402

IDS = [(i * i * 7 + i * 37 + 5) % 304 for i in range(60)]
VOCAB = SIZES["vocab_size"]
FAMILIES: dict[str, dict[str, Any]] = {
    "GPTNeoX": {"rotary_pct": 0.5},
    "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 96},
    "Cohere": {"num_hidden_layers": 2},
    "Mistral": {"sliding_window": 8},
}
"""One with a fused projection and partial rotary, one of Gemm and learnt positions with tied weights, one whose graph
scales its logits, and one whose rows do not see all that is before them, so that its attention cannot be fused."""

OTHERS: dict[str, dict[str, Any]] = {"Llama": {"vocab_size": 304}, "Starcoder2": {}}


def build(family: str, folder: Path) -> Any:
    sizes = {k: v for k, v in SIZES.items() if family != "GPT2" or not k.startswith(("hidden", "num", "max", "inter"))}
    config = getattr(transformers, f"{family}Config")(**(sizes | {**FAMILIES, **OTHERS}[family]))
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.3 if "emb" in name or "wte" in name else 0.2)
    model.save_pretrained(folder, safe_serialization=True)
    write_texts(folder)
    return model


def reference(model: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].float().numpy()


def answer_of(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """What transformers generates greedily, the end included."""
    with torch.no_grad():
        ids = model.generate(
            torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False, eos_token_id=2, pad_token_id=0
        )
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_one_pass_steps_and_answers_equal_transformers(family: str, tmp_path: Path) -> None:
    model = build(family, tmp_path / "checkpoint")
    expected = reference(model)
    assert expected.std() > 0.1, "the reference is flat: nothing would be proven"
    made = export_with_optimum(tmp_path / "checkpoint", tmp_path / "out", weights="float32")
    assert made == Converted(
        architecture=model.config.model_type,
        name="checkpoint",
        license=None,
        context_length=128,
        vocab_size=304,
        eos_ids=(2,),
        layers=tuple(range(model.config.num_hidden_layers)),
        recipe="float32, Optimum's graph" + (", fused attention" if family != "Mistral" else ""),
        files=("model.onnx", "model.onnx.data", "tokenizer.json", "chat_template.jinja"),
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(made.files)
    ours = OnnxCausalLM.open(tmp_path / "out" / "model.onnx", context_length=128, vocab_size=VOCAB)
    np.testing.assert_allclose(ours.forward(IDS), expected, atol=1e-3)
    ours.rewind(30)
    steps = [ours.forward(IDS[i : i + 1]).copy() for i in range(30, 45)] + [ours.forward(IDS[45:]).copy()]
    np.testing.assert_allclose(np.concatenate(steps), expected[30:], atol=1e-3)
    prompt, history = IDS[:12], list(IDS[:12])
    ours.rewind(0)
    while len(history) < 44 and 2 not in history[12:]:
        history.append(int(ours.forward(history[ours.length :], 1)[0].argmax()))
    assert history[12:] == answer_of(model, prompt, 32)


@pytest.mark.parametrize(("weights", "least"), [("int8", 0.999), ("int4", 0.93)])
def test_weights_in_blocks(weights: Literal["int8", "int4"], least: float, tmp_path: Path) -> None:
    model = build("GPT2", tmp_path / "checkpoint")
    stages: list[str] = []
    export_with_optimum(
        tmp_path / "checkpoint", tmp_path / "out", weights=weights, progress=lambda stage, _: stages.append(stage)
    )
    assert list(dict.fromkeys(stages)) == ["Exporting with Optimum", "Quantizing the weights"]
    graph = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    options = [{a.name: a.i for a in node.attribute} for node in products]
    assert {(o["block_size"], o["accuracy_level"]) for o in options} == {(32, 4)}
    bits = [o["bits"] for o in options]
    assert (Counter(bits[:-1]), bits[-1]) == ({4 if weights == "int4" else 8: 8}, 8)
    assert all(len(node.input) == 3 for node in products)  # no zero points
    assert not [node for node in graph.node if node.op_type == "Gemm"]
    # The embedding is the head's own tensor, and no copy in float32 is left.
    (lookup,) = [node for node in graph.node if node.op_type == "GatherBlockQuantized"]
    assert lookup.input[0] == products[-1].input[1]
    assert not [t for t in graph.initializer if list(t.dims) in ([VOCAB, 64], [64, VOCAB])]
    ours = OnnxCausalLM.open(tmp_path / "out" / "model.onnx", context_length=128, vocab_size=VOCAB)
    agreement = [np.corrcoef(a, b)[0, 1] for a, b in zip(ours.forward(IDS), reference(model), strict=True)]
    assert np.mean(agreement) > least


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    build("Starcoder2", folder)
    with pytest.raises(ModelError, match=r"Optimum cannot export a starcoder2 model: .*unsupported architecture"):
        export_with_optimum(folder, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no weights in safetensors, the only format read"):
        export_with_optimum(folder, tmp_path / "out")


def test_a_folder_as_optimum_leaves_it_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPEC_HOME", str(tmp_path / "home"))
    model = build("Llama", tmp_path / "checkpoint")
    command = [sys.executable, "-W", "ignore", "-m", "export.optimum_worker", "checkpoint", "exported"]
    root = str(Path(__file__).parents[2])
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": root})
    notices: list[str] = []
    for draft in ("none", "ngram"):
        settings = Settings(max_tokens=24)
        chat = open_chat(str(tmp_path / "exported"), draft=draft, settings=settings, notice=notices.append)
        assert (chat.context_length, chat.exact) == (128, True)
        *_, answer = chat.send("hello there")
        assert isinstance(answer, Answer)
        prompt = chat._template.render_ids(chat.messages[:1])
        assert list(answer.tokens) == answer_of(model, prompt, 24)
    assert set(notices) == {"exported: running model.onnx"}
