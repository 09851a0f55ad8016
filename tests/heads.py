"""Tiny EAGLE-3 heads with random weights, written as they are published, and their arithmetic in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from checkpoints import write_json, write_safetensors
from numpy.typing import NDArray

Array = NDArray[np.float32]
Layout = Literal["midlayer", "layers.0"]

HIDDEN, FFN, HEADS, KV_HEADS, SIZE, CONTEXT, EPSILON, BASE = 64, 96, 4, 2, 16, 128, 1e-5, 1e4
TARGET_VOCAB: Final = 304
TOKEN_IDS: Final = np.arange(1, 300, 3)
"""The target's token for each of the head's."""


def weights(seed: int = 0) -> dict[str, Array]:
    """By the names that the authors of EAGLE-3 give them, without `midlayer`."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return random.normal(0.0, 0.15, shape).astype(np.float32)

    return {
        "self_attn.q_proj": normal(HEADS * SIZE, 2 * HIDDEN),
        "self_attn.k_proj": normal(KV_HEADS * SIZE, 2 * HIDDEN),
        "self_attn.v_proj": normal(KV_HEADS * SIZE, 2 * HIDDEN),
        "self_attn.o_proj": normal(HIDDEN, HEADS * SIZE),
        "mlp.gate_proj": normal(FFN, HIDDEN),
        "mlp.up_proj": normal(FFN, HIDDEN),
        "mlp.down_proj": normal(HIDDEN, FFN),
        "input_layernorm": 1 + normal(HIDDEN),
        "hidden_norm": 1 + normal(HIDDEN),
        "post_attention_layernorm": 1 + normal(HIDDEN),
        "fc": normal(HIDDEN, 3 * HIDDEN),
        "norm": 1 + normal(HIDDEN),
        "lm_head": normal(len(TOKEN_IDS), HIDDEN),
    }


def write_head(
    folder: Path,
    made: Mapping[str, Array],
    *,
    layout: Layout = "midlayer",
    token_ids: Sequence[int] | NDArray[np.int64] = TOKEN_IDS,
    tensors: Mapping[str, NDArray[Any] | None] | None = None,
    window: int | None = None,
    **settings: Any,
) -> Path:
    """Write config.json and model.safetensors. `tensors` replace or add some, None leaves one out; `settings` likewise
    in config.json, `window` wherever the layout has it."""
    folder.mkdir(parents=True, exist_ok=True)
    stored: dict[str, NDArray[Any] | None] = {
        f"{name}.weight" if name in ("fc", "norm", "lm_head") else f"{layout}.{name}.weight": values
        for name, values in made.items()
    }
    known = np.zeros(TARGET_VOCAB, np.int64)
    known[[t for t in token_ids if 0 <= t < TARGET_VOCAB]] = 1
    stored |= {"d2t": np.asarray(token_ids, np.int64) - np.arange(len(token_ids)), "t2d": known, **(tensors or {})}
    write_safetensors(folder / "model.safetensors", {name: t for name, t in stored.items() if t is not None})
    layer: dict[str, Any] = {
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": SIZE,
        "num_hidden_layers": 1,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPSILON,
        "rope_theta": BASE,
        "vocab_size": TARGET_VOCAB,
        "sliding_window": window,
    }
    if layout == "layers.0":
        config = {"architectures": ["Eagle3LlamaForCausalLM"], "transformer_layer_config": layer}
    else:
        config = {"architectures": ["LlamaForCausalLMEagle3"], **layer}
    config = config | {"draft_vocab_size": len(token_ids)} | settings
    write_json(folder / "config.json", {key: value for key, value in config.items() if value is not None})
    return folder


class NumpyHead:
    """The same head, in float64 and without a cache: the rows of a text, each on the state of its own position or of
    the row before.

    window: how many rows a row attends to. normed: whether the normed feature is what is added to.
    """

    def __init__(self, made: Mapping[str, Array], *, window: int | None = None, normed: bool = False) -> None:
        self._w = {name: values.astype(np.float64) for name, values in made.items()}
        self._window, self._normed = window or CONTEXT, normed
        self._keys: list[NDArray[np.float64]] = []
        self._values: list[NDArray[np.float64]] = []
        self._state = np.zeros(HIDDEN)

    def row(self, embedding: Array, state: Array | None) -> NDArray[np.float64]:
        """The logits of one more row."""
        w, position = self._w, len(self._keys)
        feature = self._state if state is None else w["fc"] @ state
        normed = _norm(feature) * w["hidden_norm"]
        x = np.concatenate([_norm(embedding) * w["input_layernorm"], normed])
        query = _turned((w["self_attn.q_proj"] @ x).reshape(HEADS, SIZE), position)
        self._keys.append(_turned((w["self_attn.k_proj"] @ x).reshape(KV_HEADS, SIZE), position))
        self._values.append((w["self_attn.v_proj"] @ x).reshape(KV_HEADS, SIZE))
        group = HEADS // KV_HEADS
        keys, values = (np.stack(s[-self._window :]).repeat(group, axis=1) for s in (self._keys, self._values))
        scores = np.einsum("hd,thd->ht", query, keys) / np.sqrt(SIZE)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        heard = w["self_attn.o_proj"] @ np.einsum("ht,thd->hd", shares, values).reshape(-1)
        middle = (normed if self._normed else feature) + heard
        read = _norm(middle) * w["post_attention_layernorm"]
        gate = w["mlp.gate_proj"] @ read
        self._state = middle + w["mlp.down_proj"] @ (gate / (1 + np.exp(-gate)) * (w["mlp.up_proj"] @ read))
        return w["lm_head"] @ (_norm(self._state) * w["norm"])

    def rewind(self, length: int) -> None:
        del self._keys[length:], self._values[length:]


def _norm(x: NDArray[Any]) -> NDArray[np.float64]:
    return x / np.sqrt(np.square(x, dtype=np.float64).mean() + EPSILON)


def _turned(x: NDArray[np.float64], position: int) -> NDArray[np.float64]:
    turns = position * BASE ** (-np.arange(0, SIZE, 2) / SIZE)
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * np.cos(turns) - b * np.sin(turns), b * np.cos(turns) + a * np.sin(turns)], axis=-1)
