"""A tiny llama model with random weights as a GGUF file: real in every part, and quick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType, GGUFWriter
from gguf.quants import quantize
from tokenizers.pre_tokenizers import ByteLevel

END_OF_TEXT, TURN_START, TURN_END = 0, 1, 2
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MERGES: Final = [
    "Ġ t", "h e", "i n", "Ġ a", "r e", "o n", "Ġt he", "e r", "Ġ s", "a t", "Ġ w",
    "o u", "Ġ o", "e n", "i s", "i t", "Ġ b", "Ġ c", "o r", "in g", "e s", "a n",
    "l l", "Ġ f", "a r", "Ġa n", "Ġan d", "Ġo f", "Ġ in", "Ġ is", "e d", "Ġt o", "l e",
    "s t", "Ġ m", "Ġ p", "Ġ d", "Ġ h", "Ġ y", "Ġy ou", "u s", "e l", "a s", "i c",
    "Ġw h",
]  # fmt: skip
TOKENS: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *sorted(ByteLevel.alphabet()),
    *(merge.replace(" ", "") for merge in MERGES),
)


def write_tiny_gguf(
    path: Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    ffn: int = 128,
    context_length: int = 256,
    tied: bool = True,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray[Any, Any] | None] | None = None,
) -> Path:
    """Write a model of 304 tokens to `path` and return it. The same arguments give the same bytes.

    Its tokenizer is byte-level BPE cut as SmolLM2's is; 2 (<|im_end|>) ends an answer. `metadata` and `tensors`
    (float32, by their GGUF names) replace or add entries; None leaves one out.
    """
    writer = GGUFWriter(path, "llama")
    for key, value in {**_metadata(layers, hidden, heads, kv_heads, ffn, context_length), **(metadata or {})}.items():
        if value is not None and key != "general.architecture":
            _add(writer, key, value)
    if metadata and "general.architecture" in metadata:
        writer.kv_data[0]["general.architecture"].value = metadata["general.architecture"]
    weights = {**_tensors(np.random.default_rng(seed), layers, hidden, heads, kv_heads, ffn, tied), **(tensors or {})}
    for name, value in weights.items():
        if value is not None:
            kind = _type(name)
            writer.add_tensor(name, quantize(np.ascontiguousarray(value, np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(
    layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, context_length: int
) -> dict[str, str | int | float | list[Any]]:
    return {
        "general.name": "Tiny",
        "general.license": "apache-2.0",
        "llama.block_count": layers,
        "llama.context_length": context_length,
        "llama.embedding_length": hidden,
        "llama.feed_forward_length": ffn,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": hidden // heads,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": list(TOKENS),
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(TOKENS) - 3),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": TURN_START,
        "tokenizer.ggml.eos_token_id": TURN_END,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _tensors(
    random: np.random.Generator, layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, tied: bool
) -> dict[str, np.ndarray[Any, Any]]:
    """Weights that are large against the embedding, so that the model does not just repeat its last token."""
    keys = hidden // heads * kv_heads

    def matrix(rows: int, width: int) -> np.ndarray[Any, Any]:
        return random.normal(0.0, 2.0 / np.sqrt(width), (rows, width))

    def norm() -> np.ndarray[Any, Any]:
        return random.uniform(0.5, 1.5, hidden)

    tensors = {"token_embd.weight": random.normal(0.0, 0.3, (len(TOKENS), hidden)), "output_norm.weight": norm()}
    if not tied:
        tensors["output.weight"] = random.normal(0.0, 0.3, (len(TOKENS), hidden))
    for n in range(layers):
        tensors |= {
            f"blk.{n}.attn_norm.weight": norm(),
            f"blk.{n}.attn_q.weight": matrix(hidden, hidden),
            f"blk.{n}.attn_k.weight": matrix(keys, hidden),
            f"blk.{n}.attn_v.weight": matrix(keys, hidden),
            f"blk.{n}.attn_output.weight": matrix(hidden, hidden),
            f"blk.{n}.ffn_norm.weight": norm(),
            f"blk.{n}.ffn_gate.weight": matrix(ffn, hidden),
            f"blk.{n}.ffn_up.weight": matrix(ffn, hidden),
            f"blk.{n}.ffn_down.weight": matrix(hidden, ffn),
        }
    return tensors


def _type(name: str) -> Type:
    """A mixture, as real files have one."""
    kinds = {
        "token_embd": Type.Q8_0,
        "attn_q": Type.Q4_1,
        "attn_k": Type.Q8_0,
        "attn_output": Type.F16,
        "ffn_gate": Type.Q4_0,
        "ffn_up": Type.Q5_1,
        "ffn_down": Type.Q4_1,
    }
    return next((kind for part, kind in kinds.items() if part in name), Type.F32)


def _add(writer: GGUFWriter, key: str, value: str | int | float | list[Any]) -> None:
    kinds = {
        str: GGUFValueType.STRING,
        int: GGUFValueType.UINT32,
        float: GGUFValueType.FLOAT32,
        bool: GGUFValueType.BOOL,
    }
    if isinstance(value, list):
        element = GGUFValueType.INT32 if isinstance(value[0], int) else kinds[type(value[0])]
        writer.add_key_value(key, value, GGUFValueType.ARRAY, sub_type=element)
    else:
        writer.add_key_value(key, value, kinds[type(value)])
