"""What a model's weights say in float32, without a graph and without holding them: what quality is measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgespec.graph.checkpoint import CheckpointWeights
from edgespec.graph.config import DecoderConfig
from edgespec.graph.families import read_family
from edgespec.graph.forward import READINGS, Forward
from edgespec.graph.gguf_families import read_config
from edgespec.graph.gguf_model import GGUFWeights
from edgespec.graph.gguf_reader import GGUFFile
from edgespec.graph.settings import Settings
from edgespec.graph.weights import WeightSource
from edgespec.model_folder import ModelFolder


def reference_logits(
    source: Path, texts: Sequence[tuple[Sequence[int], int]], vocab_size: int, progress: Callable[[float], None]
) -> Iterator[NDArray[np.float32]]:
    """For each text, (ids, start): the logits that follow its tokens from `start` - 1 on, but not the last one's,
    [len(ids) - start, vocab_size]. source: a GGUF file, or a checkpoint's folder.

    Raises: ModelError if it is damaged, or of a family that is not known here.
    """
    config, weights = open_weights(source)
    forward, layers = Forward(weights, config, *(ids for ids, _ in texts)), range(len(config.layers))
    for done, _ in enumerate(forward.readings(layers), 1):
        progress(done / (READINGS * len(layers)))
    first = 0
    for ids, start in texts:
        yield forward.logits(slice(first + start - 1, first + len(ids) - 1), vocab_size)
        first += len(ids)


def open_weights(source: Path) -> tuple[DecoderConfig, WeightSource]:
    """A GGUF file or a checkpoint's folder: what it describes, and its weights. Raises: ModelError as above."""
    if source.is_dir():
        config = read_family(Settings(ModelFolder.read(source).config, f"config.json of {source.name}"))
        return config, CheckpointWeights(source, config)
    file = GGUFFile(source)
    config = read_config(file)
    return config, GGUFWeights(file, config)
