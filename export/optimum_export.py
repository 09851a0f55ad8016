"""Any causal language model that Optimum can export -> bundle files: its graph, then its weights in blocks of 32.

For architectures that edgespec/graph does not build itself. Optimum's graph computes attention out of small operators
over a cache that grows by Concat; the fusions of ONNX Runtime and of onnxscript leave it so (docs/decisions), and it
runs as it is.
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

import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from edgespec.errors import ModelError
from edgespec.graph import Converted
from edgespec.graph.builder import DATA_NAME, GRAPH_NAME
from edgespec.graph.convert import TEMPLATE_NAME, TOKENIZER_NAME
from edgespec.model_folder import ModelFolder
from edgespec.runtime.model import OnnxCausalLM
from export.graph_weights import gather_from_head, gemm_to_matmul, matmuls, tied_gather

Progress = Callable[[str, float], None]
WeightsName = Literal["int8", "int4", "float32"]

_ROOT = Path(__file__).resolve().parents[1]
_BLOCK, _ACCURACY_LEVEL = 32, 4
_RECIPES = {
    "int8": "int8 symmetric block 32, accuracy level 4, Optimum's graph",
    "int4": "int4 symmetric block 32, int8 head, accuracy level 4, Optimum's graph",
    "float32": "float32, Optimum's graph",
}


def export_with_optimum(
    folder: Path, out: Path, *, weights: WeightsName = "int8", progress: Progress = lambda _stage, _fraction: None
) -> Converted:
    """Write the model in `folder`, a checkpoint in safetensors, as bundle files into `out`, made if need be.

    The graph is Optimum's `text-generation-with-past` (optimum-onnx 0.1): input_ids, attention_mask, usually
    position_ids int64 [1,S] or [1,past+S], past_key_values.N.key/value float32 [1,Hkv,P,D] -> logits float32 [1,S,V],
    present.N.key/value. int8 and int4 replace the weights of its matrix products by `MatMulNBits` without zero points;
    the output head has 8 bits in both, and gives the embedding too where the two are tied. No code of the model's own
    is run and no pickle is read. The whole model is held in memory in float32, some of it twice.

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
        graph = onnx.load(_export(folder, Path(scratch), str(model.config.get("model_type"))))
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
        recipe=_RECIPES[weights],
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
    for name in (GRAPH_NAME, DATA_NAME):
        (out / name).unlink(missing_ok=True)  # onnx appends to a file that it finds
    onnx.save(model, out / GRAPH_NAME, save_as_external_data=True, location=DATA_NAME, size_threshold=1024)
