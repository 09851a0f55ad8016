"""What stands in the place of a model whose memory was given back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgespec.decoding.protocols import Logits
from edgespec.errors import GenerationError


@dataclass(frozen=True, slots=True)
class ClosedModel:
    """decoding's CausalLM, without passes."""

    vocab_size: int
    context_length: int
    length: int = 0

    def forward(self, ids: Sequence[int], rows: int | None = None) -> Logits:
        raise GenerationError("This conversation was closed; open the model again.")

    def forward_exact(self, token: int) -> Logits:
        return self.forward([token])

    def rewind(self, length: int) -> None:
        """There is nothing to forget."""
