"""What the graph asks of a model's weights, wherever they are kept."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgespec.errors import ModelError
from edgespec.graph.quantize import Rows, float_chunks


class WeightSource(Protocol):
    """Tensors by the canonical names of `DecoderConfig.tensors`.

    The rows of attn_q and attn_k are in the order of `Rotary`: the halves of a head turn together. Norm gains are what
    multiplies: a model that stores the gain less one has it added here.
    """

    def error(self, cause: str) -> ModelError:
        """What to raise when the source's content cannot be used."""
        ...

    def rows(self, name: str) -> Rows:
        """A tensor; one of one dimension is a single row. Raises: ModelError if it is missing or misshapen."""
        ...


def vector(weights: WeightSource, name: str) -> NDArray[np.float32]:
    """A one-dimensional tensor as float32 [size]. Raises: ModelError as `float_chunks` and `rows`."""
    return np.concatenate(list(float_chunks([weights.rows(name)]))).reshape(-1)
