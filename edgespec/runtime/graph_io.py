"""What a graph takes and gives, found by name, type and shape, never assumed."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from edgespec.errors import ModelError
from edgespec.runtime.onnx_nodes import consumers

CacheMode = Literal["shared", "growing"]
"""shared: GroupQueryAttention writes into one fixed buffer. growing: Concat makes a longer tensor each pass."""

_PAST = re.compile(r"^past_key_values\.(\d+)\.(key|value)$")
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
_INPUTS = {
    "input_ids": ("tensor(int64)", 2),
    "attention_mask": ("tensor(int64)", 2),
    "position_ids": ("tensor(int64)", 2),
    "num_logits_to_keep": ("tensor(int64)", 0),
    "attention_padding": ("tensor(int64)", 0),
    "context_length": ("tensor(int64)", 0),
    "attention_bias": ("tensor(float)", 4),
}
"""The inputs that are understood, their type, and how many dimensions they have."""
_NEVER_REQUIRED = "attention_bias"
"""Only our own graphs, where it is optional, say what it means."""

_OBSTACLES = (
    (r"use_cache_branch", "it has a branch of its own for the first pass (use_cache_branch), as old exports have"),
    (r"encoder|cross|\.decoder\.", "it is the decoder of an encoder-decoder model, which takes {name}"),
    (r"block_table|slot_mapping|paged|cu_?seq|cumulative_seq", "it takes paged inputs ({name})"),
    (r"conv|ssm|recurrent|state", "it keeps recurrent or convolution state ({name}), which cannot be rewound"),
    (r"embeds|pixel|image|audio", "it takes more than token ids: {name}"),
    (r"", "it wants an input that is not understood: {name}"),
)
"""Why an input by such a name cannot be given; the first that is found in it says so."""


class Value(Protocol):
    """What ONNX Runtime says of an input or output; a dimension is an int, or a name (or None) where it is free."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def shape(self) -> Sequence[int | str | None]: ...


@dataclass(frozen=True, slots=True)
class CacheTensor:
    """One layer's keys or values: `past` goes in, `present` comes out, [1, kv_heads, positions, head_size]."""

    past: str
    present: str
    kv_heads: int
    head_size: int
    dtype: np.dtype[np.generic]


@dataclass(frozen=True, slots=True)
class GraphIO:
    """The inputs and outputs of a causal language model that can be driven here. hidden_size: floats of a row's
    hidden states for a head to read, 0 without."""

    cache: tuple[CacheTensor, ...]
    mode: CacheMode
    attention_mask: bool
    position_ids: bool
    logits_to_keep: bool
    attention_padding: bool
    context_length: bool
    trees: bool
    hidden_size: int
    hidden_dtype: np.dtype[np.generic]
    logits_dtype: np.dtype[np.generic]
    vocab_size: int


def read_graph_io(
    inputs: Sequence[Value],
    overridable: Sequence[Value],
    outputs: Sequence[Value],
    graph: Path,
    head_size: int | None = None,
) -> GraphIO:
    """Describe a loaded graph. `head_size` is what a cache's last dimension is where the graph leaves it open.

    Raises: ModelError, with the reason, for a graph that cannot be a target or draft here.
    """
    given = {v.name: v for v in inputs}
    made = {v.name: v for v in outputs}
    for name in ("input_ids", "logits"):
        if name not in (given if name == "input_ids" else made):
            raise _refuse(graph, f"it has no {name}")
    _check_inputs([v for v in [*inputs, *overridable] if not _PAST.match(v.name)], required=given, graph=graph)
    if isinstance(count := given["input_ids"].shape[1], int):
        raise _refuse(graph, f"it takes {count} tokens a pass, no more and no less")
    logits = made["logits"]
    vocab = logits.shape[-1]
    if len(logits.shape) != 3 or not isinstance(vocab, int):
        raise _refuse(graph, f"its logits have the shape {list(logits.shape)} instead of [1, rows, vocabulary]")
    if logits.shape[1] == 1:
        raise _refuse(graph, "it gives logits for the last row only, so drafts cannot be verified")
    cache = tuple(_cache_tensor(v, made, graph, head_size) for v in inputs if _PAST.match(v.name))
    if not cache:
        raise _refuse(graph, "it has no KV cache (past_key_values.N.key)")
    optional = {v.name for v in overridable}
    mode = _cache_mode(graph, cache[0].past)
    return GraphIO(
        cache=cache,
        mode=mode,
        attention_mask="attention_mask" in given,
        position_ids="position_ids" in given,
        logits_to_keep="num_logits_to_keep" in {*given, *optional},
        attention_padding="attention_padding" in optional,
        context_length="context_length" in optional,
        trees=mode == "shared" and {"attention_bias", "position_ids"} <= optional,
        hidden_size=_hidden_size(made.get("hidden_states")),
        hidden_dtype=np.dtype(np.float16 if _is_half(made.get("hidden_states")) else np.float32),
        logits_dtype=_dtype(logits, graph),
        vocab_size=vocab,
    )


def _hidden_size(states: Value | None) -> int:
    """Only our own graphs name an output so; anything else of that name is left alone."""
    if states is None or states.type not in ("tensor(float)", "tensor(float16)") or len(states.shape) != 3:
        return 0
    size = states.shape[-1]
    return size if isinstance(size, int) else 0


def _is_half(states: Value | None) -> bool:
    return states is not None and states.type == "tensor(float16)"


def _check_inputs(values: Sequence[Value], required: Container[str], graph: Path) -> None:
    for v in values:
        if v.name not in _INPUTS or (v.name == _NEVER_REQUIRED and v.name in required):
            if v.name in required:
                obstacle = next(text for pattern, text in _OBSTACLES if re.search(pattern, v.name))
                raise _refuse(graph, obstacle.format(name=v.name))
        elif (v.type, len(v.shape)) != _INPUTS[v.name]:
            raise _refuse(graph, f"its {v.name} is a {v.type} of shape {list(v.shape)}")


def _cache_tensor(past: Value, outputs: dict[str, Value], graph: Path, head_size: int | None) -> CacheTensor:
    present = past.name.replace("past_key_values", "present")
    if present not in outputs:
        raise _refuse(graph, f"{past.name} has no counterpart {present}")
    _, heads, _, size = (*past.shape, None, None, None, None)[:4]
    size = size if isinstance(size, int) else head_size
    if len(past.shape) != 4 or not isinstance(heads, int) or not isinstance(size, int):
        raise _refuse(graph, f"{past.name} has the shape {list(past.shape)} instead of [1, heads, positions, size]")
    return CacheTensor(past.name, present, heads, size, _dtype(past, graph))


def _dtype(value: Value, graph: Path) -> np.dtype[np.generic]:
    if value.type not in _TYPES:
        raise _refuse(graph, f"{value.name} is a {value.type}")
    return np.dtype(_TYPES[value.type])


def _cache_mode(graph: Path, past_key: str) -> CacheMode:
    """What consumes the past keys decides; the session does not say, so the graph file itself is asked."""
    found = consumers(graph, past_key)
    if found == {"GroupQueryAttention"}:
        return "shared"
    # Whatever else looks at the past, its length most likely, must not be shown a buffer that is longer.
    if found & {"Concat", "GroupQueryAttention"}:
        return "growing"
    raise _refuse(graph, f"its KV cache feeds {', '.join(sorted(found)) or 'nothing'}, which cannot be rewound here")


def _refuse(graph: Path, reason: str) -> ModelError:
    return ModelError(f"{graph} cannot run here: {reason}. Export the model with `python -m export`, or pull another.")
