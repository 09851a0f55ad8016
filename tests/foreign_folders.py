"""Folders as Optimum, onnx-community and onnxruntime-genai's builder leave them, around the graphs of tiny_lm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tiny_lm
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

TURN, END = 0, 1
LETTERS = "abcdefghijklmnopqrstuvwxyzĠ"
TEMPLATE = "{% for m in messages %}<t>{{ m.content }}<e>{% endfor %}{% if add_generation_prompt %}<t>{% endif %}"

OPTIMUM = tiny_lm.Shape("growing")
GENAI = tiny_lm.Shape("shared", positions=False)


def write_tokenizer(folder: Path, letters: str = LETTERS, *, indent: int | None = None) -> None:
    """Two control tokens and a token for each letter: 29, as many as tiny_lm knows."""
    tokens = ["<t>", "<e>", *letters]
    made = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, []))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    made.decoder = ByteLevelDecoder()  # pyright: ignore[reportAttributeAccessIssue]
    made.add_special_tokens([AddedToken(text, special=True) for text in tokens[:2]])
    write_json(folder / "tokenizer.json", json.loads(made.to_str()), indent)
    settings = {"eos_token": "<e>", "bos_token": "<t>", "chat_template": TEMPLATE}
    write_json(folder / "tokenizer_config.json", settings)


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")


def write_config(folder: Path, **more: Any) -> None:
    config = {"model_type": "llama", "max_position_embeddings": tiny_lm.CONTEXT, "eos_token_id": END, **more}
    write_json(folder / "config.json", config)


def save_apart(model: onnx.ModelProto, path: Path) -> Path:
    """Save with the weights in a file beside it, named as Optimum names it. Returns the graph's path."""
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}_data", size_threshold=600)
    return path


def write_optimum(folder: Path, model: onnx.ModelProto | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    write_config(folder)
    write_json(folder / "generation_config.json", {"eos_token_id": [END]})
    save_apart(model or tiny_lm.model(OPTIMUM), folder / "model.onnx")
    return folder


def write_community(folder: Path, names: Sequence[str], model: onnx.ModelProto | None = None) -> Path:
    """Every name gets the same graph."""
    (folder / "onnx").mkdir(parents=True)
    write_tokenizer(folder)
    write_config(folder)
    for name in names:
        save_apart(model or tiny_lm.model(tiny_lm.Shape("shared")), folder / "onnx" / name)
    return folder


def write_genai(folder: Path, model: onnx.ModelProto | None = None) -> Path:
    """There is no config.json, and the graph does not say how large a head is."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    made = model or tiny_lm.model(GENAI)
    for value in [*made.graph.input, *made.graph.output]:
        if value.name.startswith(("past_key_values", "present")):
            value.type.tensor_type.shape.dim[3].dim_param = "kv_cache_dim"
    onnx.save(made, folder / "decoder.onnx")
    decoder = {"filename": "decoder.onnx", "head_size": tiny_lm.HEAD_SIZE, "session_options": {"provider_options": []}}
    model_config = {"context_length": tiny_lm.CONTEXT, "eos_token_id": [END], "type": "llama", "decoder": decoder}
    write_json(folder / "genai_config.json", {"model": model_config, "search": {"past_present_share_buffer": True}})
    return folder


def minding_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same, but for last bits that depend on how many rows a pass has."""
    (head,) = [node for node in model.graph.node if node.output[0] == "logits"]
    head.output[0] = "clean"
    model.graph.initializer.append(numpy_helper.from_array(np.array(1e-6, np.float32), "bit"))
    model.graph.node.extend(
        [
            helper.make_node("Size", ["input_ids"], ["ids"]),
            helper.make_node("Cast", ["ids"], ["ids_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["ids_float", "bit"], ["off"]),
            helper.make_node("Add", ["clean", "off"], ["logits"]),
        ]
    )
    return model
