"""Rotary positions (Su et al. 2021, arXiv:2104.09864): how fast each pair of a head's values turns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgespec.graph.config import LlamaConfig
from edgespec.graph.gguf_reader import GGUFFile
from edgespec.graph.quantize import vector


def rotation_frequencies(file: GGUFFile, config: LlamaConfig) -> NDArray[np.float64]:
    """Radians per position for each pair of a head, [head size / 2]; rope_freqs.weight divides them if present.

    Raises: ModelError for divisors that are not positive.
    """
    size = config.head_size
    frequencies = config.rope_base ** (-np.arange(0, size, 2) / size)
    if "rope_freqs.weight" in file.tensors:
        divisors = vector(file.tensor("rope_freqs.weight", size // 2))
        if not (divisors > 0).all():
            raise file.error("the tensor rope_freqs.weight has values that are not positive")
        frequencies = frequencies / divisors
    return frequencies
