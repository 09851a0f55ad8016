"""Tiny graphs, built once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_lm

from edgespec.runtime.model import OnnxCausalLM

Open = Callable[[tiny_lm.Shape], OnnxCausalLM]


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tiny_lm.Shape], Path]:
    directory = tmp_path_factory.mktemp("graphs")

    def graph(shape: tiny_lm.Shape) -> Path:
        path = directory / f"{shape}.onnx"
        return path if path.exists() else tiny_lm.save(directory, tiny_lm.model(shape), path.name)

    return graph


@pytest.fixture(scope="session")
def open_tiny(graphs: Callable[[tiny_lm.Shape], Path]) -> Open:
    """A fresh model, with an empty cache, of any shape."""

    def opened(shape: tiny_lm.Shape) -> OnnxCausalLM:
        return OnnxCausalLM.open(graphs(shape), context_length=tiny_lm.CONTEXT, vocab_size=tiny_lm.VOCAB)

    return opened
