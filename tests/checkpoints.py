"""Tiny checkpoints with random weights, written as transformers writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray
from tiny import CHAT_TEMPLATE, MERGES, TOKENS
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

SIZES: Final[dict[str, Any]] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""The embedding is padded beyond the 304 tokens, as Qwen's is."""


def write_texts(folder: Path, **settings: Any) -> None:
    """tokenizer.json and tokenizer_config.json of the tiny models' 304 tokens."""
    merges = [(first, second) for first, second in (merge.split(" ") for merge in MERGES)]
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(TOKENS)}, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in TOKENS[:3]])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json", {"eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE, **settings}
    )


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[Any]], dtype: str = "F32") -> None:
    """`tensors` as they are for "F32" and "F16"; for "BF16" the upper halves of their bits. Integers as I64."""
    header, data, floats = dict[str, Any](), bytearray(), dtype
    for name, values in tensors.items():
        dtype = "I64" if values.dtype.kind == "i" else floats
        if dtype == "BF16":
            raw = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
        else:
            raw = np.ascontiguousarray(values, {"F32": "<f4", "F16": "<f2", "I64": "<i8"}[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file with float32 only."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    return {
        name: np.frombuffer(raw[start:][slice(*entry["data_offsets"])], "<f4").reshape(entry["shape"])
        for name, entry in json.loads(raw[8:start]).items()
    }


def write_checkpoint_of_gguf(gguf: Path, folder: Path, dtype: str = "F32") -> Path:
    """The llama model in a GGUF file as a checkpoint in `folder`, made if need be, with the weights as the file means
    them. Its texts are those of the tiny models. Written with the gguf package's own reader."""
    reader = GGUFReader(gguf)
    fields: dict[str, Any] = {name.removeprefix("llama."): f.contents() for name, f in reader.fields.items()}
    heads, kv_heads = fields["attention.head_count"], fields["attention.head_count_kv"]
    tensors: dict[str, NDArray[Any]] = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            count = heads if ".attn_q." in tensor.name else kv_heads
            # llama.cpp turns neighbours together, transformers the halves of a head.
            values = values.reshape(count, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        tensors[_hugging_face_name(tensor.name)] = values
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors, dtype)
    config = {
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": int(tensors["model.embed_tokens.weight"].shape[0]),
        "hidden_size": int(fields["embedding_length"]),
        "intermediate_size": int(fields["feed_forward_length"]),
        "num_hidden_layers": int(fields["block_count"]),
        "num_attention_heads": int(heads),
        "num_key_value_heads": int(kv_heads),
        "max_position_embeddings": int(fields["context_length"]),
        "rms_norm_eps": float(fields["attention.layer_norm_rms_epsilon"]),
        "rope_theta": float(fields["rope.freq_base"]),
        "tie_word_embeddings": "lm_head.weight" not in tensors,
    }
    write_json(folder / "config.json", config)
    write_texts(folder)
    return folder


def _hugging_face_name(name: str) -> str:
    whole = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    parts = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    *layer, part, kind = name.split(".")
    return f"model.layers.{layer[1]}.{parts[part]}.{kind}" if layer else f"{whole[part]}.{kind}"
