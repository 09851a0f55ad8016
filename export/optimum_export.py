"""Any causal language model that Optimum can export -> bundle files: its graph, then its weights in blocks of 32.

For architectures that edgespec/graph does not build itself. Optimum's graph computes attention out of small operators
over a cache that grows by Concat; where that can be shown to be plain causal attention it is fused (fuse_attention.py).
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from edgespec.decoding.protocols import Logits
from edgespec.errors import ModelError
from edgespec.graph import Converted
from edgespec.graph.builder import DATA_NAME, GRAPH_NAME
from edgespec.graph.convert import TEMPLATE_NAME, TOKENIZER_NAME
from edgespec.model_folder import ModelFolder
from edgespec.runtime.model import OnnxCausalLM
from export.fuse_attention import fuse_attention
from export.graph_weights import gather_from_head, gemm_to_matmul, matmuls, tied_gather

Progress = Callable[[str, float], None]
WeightsName = Literal["int8", "int4", "float32"]
Attention = Literal["fused", "exported"]

_ROOT = Path(__file__).resolve().parents[1]
_BLOCK, _ACCURACY_LEVEL = 32, 4
_RECIPES = {
    "int8": "int8 symmetric block 32, accuracy level 4",
    "int4": "int4 symmetric block 32, int8 head, accuracy level 4",
    "float32": "float32",
}
_COMPARED = 48
_CLOSE = 1e-3
"""Tokens over which a fused graph is compared with the exported one in float32, and how far its logits may be off."""


def export_with_optimum(
    folder: Path,
    out: Path,
    *,
    weights: WeightsName = "int8",
    attention: Attention = "fused",
    progress: Progress = lambda _stage, _fraction: None,
) -> Converted:
    """Write the model in `folder`, a checkpoint in safetensors, as bundle files into `out`, made if need be.

    The graph is Optimum's `text-generation-with-past` (optimum-onnx 0.1): input_ids, attention_mask, usually
    position_ids int64 [1,S] or [1,past+S], past_key_values.N.key/value float32 [1,Hkv,P,D] -> logits float32 [1,S,V],
    present.N.key/value. int8 and int4 replace the weights of its matrix products by `MatMulNBits` without zero points;
    the output head has 8 bits in both, and gives the embedding too where the two are tied. `attention` "fused" makes
    GroupQueryAttention of it where the two are equal, and leaves it as it was exported elsewhere. No code of the
    model's own is run and no pickle is read. The whole model is held in memory in float32, some of it twice.

    Raises: ModelError if the folder is not such a checkpoint, or neither Optimum nor the runtime here can do it.
    """
    model = ModelFolder.read(folder)
    eos_ids, context = model.end_of_text_ids(), model.context_length()
    if context is None:
        raise ModelError(f"{folder / 'config.json'} does not say how long the context is; add max_position_embeddings.")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} has no weights in safetensors, the only format read; convert or fetch them so.")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".optimum-") as scratch:
        progress("Exporting with Optimum", 0.0)
        exported = _export(folder, Path(scratch), str(model.config.get("model_type")))
        graph = _fused(exported, model, context) if attention == "fused" else None
        recipe = f"{_RECIPES[weights]}, Optimum's graph{', fused attention' if graph else ''}"
        graph = graph or onnx.load(exported)
        progress("Quantizing the weights", 0.0)
        if weights != "float32":
            graph = _quantized(graph, 4 if weights == "int4" else 8)
        _save(graph, out)
    shutil.copyfile(folder / "tokenizer.json", out / TOKENIZER_NAME)
    files = [GRAPH_NAME, DATA_NAME, TOKENIZER_NAME]
    if template := model.chat_template():
        (out / TEMPLATE_NAME).write_text(template, encoding="utf-8", newline="")
        files.append(TEMPLATE_NAME)
    # A graph that cannot be driven is refused here, with the reason, rather than when somebody wants to chat.
    OnnxCausalLM.open(out / GRAPH_NAME, context_length=min(context, 16), vocab_size=model.shared_vocab_size())
    progress("Quantizing the weights", 1.0)
    return Converted(
        architecture=str(model.config.get("model_type")),
        name=folder.resolve().name,
        license=None,
        context_length=context,
        vocab_size=model.shared_vocab_size(),
        eos_ids=eos_ids,
        layers=tuple(range(sum(value.name.endswith(".key") for value in graph.graph.input))),
        recipe=recipe,
        files=tuple(files),
    )


def _export(folder: Path, scratch: Path, architecture: str) -> Path:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "export.optimum_worker",
        str(folder.resolve()),
        str(scratch.resolve()),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    worker = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, check=False)
    if worker.returncode != 0:
        said = worker.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {worker.returncode}"]
        raise ModelError(f"Optimum cannot export a {architecture} model: {said[-1]}")
    return scratch / "model.onnx"


def _fused(exported: Path, model: ModelFolder, context: int) -> onnx.ModelProto | None:
    """The graph with fused attention; None if it is not of the form for that, or its logits differ."""
    heads = model.config.get("num_attention_heads", model.config.get("n_head"))
    graph = onnx.load(exported)
    scratch = exported.parent
    if not isinstance(heads, int) or not fuse_attention(graph, heads, context, scratch):
        return None
    _save(graph, scratch / "fused")
    ids = [(i * 7919 + 13) % model.shared_vocab_size() for i in range(min(_COMPARED, context))]
    logits: list[Logits] = []
    for path in (exported, scratch / "fused" / GRAPH_NAME):
        lm = OnnxCausalLM.open(path, context_length=len(ids), vocab_size=model.shared_vocab_size())
        half = len(ids) // 2
        passes = [ids[:half], *([token] for token in ids[half:-4]), ids[-4:]]
        logits.append(np.concatenate([lm.forward(part).copy() for part in passes]))
    # Saving has taken the weights out of `graph`.
    same = np.abs(logits[0] - logits[1]).max() <= _CLOSE
    return onnx.load(scratch / "fused" / GRAPH_NAME) if same else None


def _quantized(model: onnx.ModelProto, bits: int) -> onnx.ModelProto:
    gemm_to_matmul(model)
    *layers, head = matmuls(model)
    tied, weights = tied_gather(model, head), head.input[1]
    model = _blocks(model, 8, {node.name for node in layers})
    if tied is not None:
        gather_from_head(model, tied, weights, _BLOCK)
    return _blocks(model, bits, set())


def _blocks(model: onnx.ModelProto, bits: int, leave: set[str]) -> onnx.ModelProto:
    """Every product with a fixed matrix in blocks, but those named `leave`; weights that nobody uses any more go."""
    quantizer = MatMulNBitsQuantizer(
        model, bits, _BLOCK, is_symmetric=True, accuracy_level=_ACCURACY_LEVEL, nodes_to_exclude=list(leave)
    )
    logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.WARNING)  # it tells of every node
    quantizer.process()
    done: Any = quantizer.model  # onnxruntime's wrapper of a ModelProto
    return done.model


def _save(model: onnx.ModelProto, out: Path) -> None:
    out.mkdir(exist_ok=True)
    for name in (GRAPH_NAME, DATA_NAME):
        (out / name).unlink(missing_ok=True)  # onnx appends to a file that it finds
    onnx.save(model, out / GRAPH_NAME, save_as_external_data=True, location=DATA_NAME, size_threshold=1024)
