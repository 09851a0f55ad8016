"""Graphs of a shape without a model: random weights, to see how fast the shape would be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from gguf.constants import GGMLQuantizationType

from edgespec.errors import ModelError
from edgespec.graph.builder import GRAPH_NAME, GraphBuilder, Profile
from edgespec.graph.config import DecoderConfig
from edgespec.graph.decoder import DecoderGraph
from edgespec.graph.equalize import Channels
from edgespec.graph.formats import FORMATS
from edgespec.graph.quantize import BLOCK, Rows

SyntheticFormat = Literal["int8", "int4"]
"""Of the layers; the embedding and the head are int8 in both."""

_SCALE_BYTES: Final = 2
_INT8, _INT4 = (GGMLQuantizationType.Q8_0, BLOCK, 74.0), (GGMLQuantizationType.Q4_0, BLOCK // 2, 4.6)
"""GGUF's type, the bytes of a block but for its scale, and the deviation of random values."""


class SyntheticWeights:
    """The `WeightSource` of random matrices, already in blocks of the format, so that nothing has to be rounded."""

    def __init__(self, config: DecoderConfig, weights: SyntheticFormat) -> None:
        self._shapes, self._layers = config.tensors(), _INT4 if weights == "int4" else _INT8
        self._rng = np.random.default_rng(0)

    def error(self, cause: str) -> ModelError:
        return ModelError(f"A graph of this shape cannot be built: {cause}.")

    def rows(self, name: str) -> Rows:
        count, width = (1, *self._shapes[name])[-2:]
        if len(self._shapes[name]) == 1:
            ones = np.ones((1, width), np.float32).view(np.uint8)
            return Rows(name, GGMLQuantizationType.F32, ones, width)
        kind, size, deviation = self._layers if name.startswith("blk.") else _INT8
        blocks = np.frombuffer(self._rng.bytes(count * width // BLOCK * (_SCALE_BYTES + size)), np.uint8).copy()
        scale = np.array([1.0 / (deviation * width**0.5)], "<f2")  # the products of a normed row are of its size
        blocks.reshape(-1, _SCALE_BYTES + size)[:, :_SCALE_BYTES] = scale.view(np.uint8)
        return Rows(name, kind, blocks.reshape(count, -1), width)


def write_synthetic(config: DecoderConfig, out: Path, weights: SyntheticFormat, profile: Profile = "cpu") -> Path:
    """Write a graph of the shape `config` into the directory `out`; returns the graph's file.

    Raises: ModelError for a shape that cannot be built; OSError if `out` cannot be written.
    """
    source = SyntheticWeights(config, weights)
    config.check(source.error)
    if any(shape[-1] % BLOCK for shape in config.tensors().values() if len(shape) == 2):
        raise source.error(f"its widths are no multiples of {BLOCK}")
    with GraphBuilder(out, profile) as graph:
        built = DecoderGraph(graph, source, config, FORMATS["kept" if weights == "int4" else "int8"], Channels())
        built.build(range(len(config.layers)), lambda _: None)
        graph.save("synthetic")
    return out / GRAPH_NAME


def part_of(config: DecoderConfig, layers: int, vocab_size: int) -> DecoderConfig:
    """The same shape with fewer layers and tokens; the head is then the embedding."""
    return replace(config, layers=config.layers[:layers], vocab_size=vocab_size, tied=True)
