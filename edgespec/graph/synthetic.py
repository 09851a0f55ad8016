"""Graphs of a shape without a model: random weights, to see how fast the shape would be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from gguf.constants import GGMLQuantizationType

from edgespec.errors import ModelError
from edgespec.graph.builder import GRAPH_NAME, GraphBuilder, Profile
from edgespec.graph.config import DecoderConfig
from edgespec.graph.decoder import DecoderGraph
from edgespec.graph.equalize import Channels
from edgespec.graph.formats import FORMATS
from edgespec.graph.quantize import BLOCK, Rows

_SCALE_BYTES: Final = 2
_DEVIATION: Final = 74.0
"""Of a byte that is read as an int8."""


class SyntheticWeights:
    """The `WeightSource` of random matrices: already int8 (GGUF's Q8_0), so that nothing has to be rounded."""

    def __init__(self, config: DecoderConfig) -> None:
        self._shapes = config.tensors()
        self._rng = np.random.default_rng(0)

    def error(self, cause: str) -> ModelError:
        return ModelError(f"A graph of this shape cannot be built: {cause}.")

    def rows(self, name: str) -> Rows:
        count, width = (1, *self._shapes[name])[-2:]
        if len(self._shapes[name]) == 1:
            ones = np.ones((1, width), np.float32).view(np.uint8)
            return Rows(name, GGMLQuantizationType.F32, ones, width)
        blocks = np.frombuffer(self._rng.bytes(count * width // BLOCK * (_SCALE_BYTES + BLOCK)), np.uint8).copy()
        scale = np.array([1.0 / (_DEVIATION * width**0.5)], "<f2")  # the products of a normed row are of its size
        blocks.reshape(-1, _SCALE_BYTES + BLOCK)[:, :_SCALE_BYTES] = scale.view(np.uint8)
        return Rows(name, GGMLQuantizationType.Q8_0, blocks.reshape(count, -1), width)


def write_synthetic(config: DecoderConfig, out: Path, profile: Profile = "cpu") -> Path:
    """Write an int8 graph of the shape `config` into the directory `out`; returns the graph's file.

    Raises: ModelError for a shape that cannot be built; OSError if `out` cannot be written.
    """
    weights = SyntheticWeights(config)
    config.check(weights.error)
    if any(shape[-1] % BLOCK for shape in config.tensors().values() if len(shape) == 2):
        raise weights.error(f"its widths are no multiples of {BLOCK}")
    with GraphBuilder(out, profile) as graph:
        built = DecoderGraph(graph, weights, config, FORMATS["int8"], Channels())
        built.build(range(len(config.layers)), lambda _: None)
        graph.save("synthetic")
    return out / GRAPH_NAME


def part_of(config: DecoderConfig, layers: int, vocab_size: int) -> DecoderConfig:
    """The same shape with fewer layers and tokens; the head is then the embedding."""
    return replace(config, layers=config.layers[:layers], vocab_size=vocab_size, tied=True)
