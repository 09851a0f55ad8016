"""An EDGESPEC_HOME with tiny models that were converted for real."""

from __future__ import annotations

from pathlib import Path

from tiny import MERGES, TOKENS, write_tiny_gguf

from edgespec.bundle import Store
from edgespec.pull import pull


def fill_home(home: Path) -> Path:
    """Put four bundles into `home` and return it: `tiny`, its first layer `skip`, `short` with a context of 48 tokens,
    and `other`, whose tokenizer is another one. All keep chosen layers, so that no quality is measured."""
    store = Store(home / "models")
    gguf = str(write_tiny_gguf(home / "tiny.gguf"))
    pull(gguf, store, name="tiny", keep_layers=[0, 1])
    pull(gguf, store, name="skip", keep_layers=[0])
    short = write_tiny_gguf(home / "short.gguf", seed=1, context_length=48)
    pull(str(short), store, name="short", keep_layers=[0])
    metadata = {"tokenizer.ggml.tokens": [*TOKENS[:-1], "ous"], "tokenizer.ggml.merges": [*MERGES[:-1], "ou s"]}
    other = write_tiny_gguf(home / "other.gguf", seed=2, metadata=metadata)
    pull(str(other), store, name="other", keep_layers=[0])
    return home
