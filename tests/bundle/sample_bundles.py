"""What the small bundles of these tests are made of; no model is behind them."""

from __future__ import annotations

from pathlib import Path

from edgespec.bundle import Manifest, Quality, Source
from edgespec.bundle.bundle import record_files

FILES = {
    "model.onnx": b"a graph",
    "model.onnx.data": bytes(range(256)) * 64,
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
}


def describe(name: str, directory: Path, files: tuple[str, ...]) -> Manifest:
    return Manifest(
        name=name,
        source=Source("gguf", "/somewhere/tiny.gguf", None, "0" * 64),
        license="Apache-2.0",
        architecture="llama",
        files=record_files(directory, files),
        graph="model.onnx",
        context_length=256,
        vocab_size=300,
        eos_ids=(2,),
        layers=(0, 1),
        recipe="int8",
        quality=Quality(0.004, 0.98, 1000),
    )
