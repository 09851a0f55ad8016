"""The weights of a checkpoint as transformers writes it: one safetensors file, or shards and an index."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from gguf.constants import GGMLQuantizationType
from tokenizers import Tokenizer

from edgespec.errors import ModelError
from edgespec.graph.config import DecoderConfig
from edgespec.graph.gguf_reader import Tensor, shown
from edgespec.graph.quantize import Rows, float_chunks
from edgespec.graph.safetensors_reader import SafetensorsFile
from edgespec.graph.settings import Settings
from edgespec.model_folder import ModelFolder, read_object

SINGLE_NAME: Final = "model.safetensors"
INDEX_NAME: Final = "model.safetensors.index.json"

_WHOLE: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_PARTS: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_POST_NORMED: Final = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_STACKED: Final = {
    "attn_q": "self_attn.qkv_proj",
    "attn_k": "self_attn.qkv_proj",
    "attn_v": "self_attn.qkv_proj",
    "ffn_gate": "mlp.gate_up_proj",
    "ffn_up": "mlp.gate_up_proj",
}
_OTHER_SENSES: Final = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\..+")
_COMPUTED: Final = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""What a chat needs nothing of: the eyes of Gemma 3, and a buffer of old checkpoints that config.json describes."""

_CARD_CHARACTERS: Final = 1 << 16
_LICENSE: Final = re.compile(r"^license:[ \t]*[\"']?([A-Za-z0-9._-]{1,60})", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor is stored: all of `name`, which has `shape`, or the rows from `start` on."""

    name: str
    shape: tuple[int, ...]
    start: int = 0


class CheckpointWeights:
    """The `WeightSource` of a checkpoint's folder."""

    def __init__(self, folder: Path, config: DecoderConfig) -> None:
        """Raises: ModelError if a file is damaged or missing, and for tensors that are missing, misshapen, or play a
        part in the model that is not known."""
        self._folder, self._config, self._shapes = folder, config, config.tensors()
        self._files = open_shards(folder)
        self._stored = {_text_name(name): name for file in self._files for name in file}
        self._file_of = {name: file for file in self._files for name in file}
        known = {self._place(name).name for name in self._shapes} | ({"lm_head.weight"} if config.tied else set())
        for name, stored in self._stored.items():
            if name not in known and not _COMPUTED.fullmatch(name) and not _OTHER_SENSES.fullmatch(name):
                raise self.error(
                    f"it has a tensor {shown(stored)}, which {config.architecture} models of its kind do not have"
                )
        for name in self._shapes:
            self._tensor(self._place(name))

    def error(self, cause: str) -> ModelError:
        return ModelError(f"{self._folder.name} cannot be converted: {cause}; use another model.")

    def rows(self, name: str) -> Rows:
        for file in self._files:
            file.let_go()
        place, shape = self._place(name), self._shapes[name]
        rows = Rows.of(self._tensor(place))
        if len(shape) == 2:
            return replace(rows, data=rows.data[place.start : place.start + shape[0]])
        return _plus_one(rows) if self._config.architecture.startswith("gemma") and "norm" in name else rows

    def _tensor(self, place: _Place) -> Tensor:
        stored = self._stored.get(place.name)
        if stored is None:
            raise self.error(f"the tensor {place.name} is missing")
        return self._file_of[stored].tensor(stored, *place.shape)

    def _place(self, name: str) -> _Place:
        """In Phi-3, query, key and value are stacked in one tensor, and so are gate and up."""
        config, shape = self._config, self._shapes[name]
        *layer, part, kind = name.split(".")
        prefix = f"model.layers.{layer[1]}." if layer else ""
        if config.architecture == "phi3" and part in _STACKED:
            sizes = {"attn_q": config.query_size, "attn_k": config.key_size, "attn_v": config.key_size}
            sizes |= {"ffn_gate": config.ffn_size, "ffn_up": config.ffn_size}
            stack = [other for other in _STACKED if _STACKED[other] == _STACKED[part]]
            start = sum(sizes[other] for other in stack[: stack.index(part)])
            total = sum(sizes[other] for other in stack)
            return _Place(f"{prefix}{_STACKED[part]}.{kind}", (total, config.hidden_size), start)
        names = _WHOLE | _PARTS | (_POST_NORMED if config.post_norms else {})
        return _Place(f"{prefix}{names[part]}.{kind}", shape)


def open_shards(folder: Path) -> list[SafetensorsFile]:
    """The safetensors files of a folder: the one, or those that its index names.

    Raises: ModelError if there are none, for a damaged one, and for an index that leads out of the folder or does not
    tell where the tensors are.
    """
    if not (folder / INDEX_NAME).is_file():
        if not (folder / SINGLE_NAME).is_file():
            raise ModelError(
                f"{folder} has neither {SINGLE_NAME} nor {INDEX_NAME}; other weights (pickled ones, say) are not read."
            )
        return [SafetensorsFile(folder / SINGLE_NAME)]
    index = Settings(read_object(folder / INDEX_NAME), f"{INDEX_NAME} of {folder.name}")
    places = index.section("weight_map") or Settings({}, index.where)
    names = sorted({places.text(key) for key in places.values})
    if not names or any(name != Path(name).name or not name.endswith(".safetensors") for name in names):
        raise index.error("it does not name the files of its folder")
    files = [SafetensorsFile(folder / name) for name in names]
    found = [(name, file.path.name) for file in files for name in file]
    if dict(found) != places.values or len(found) != len(places.values):
        raise index.error("its files hold other tensors than it says")
    return files


def read_tokenizer(folder: ModelFolder, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model with `vocab_size` embeddings. It may have been given special tokens beyond them that no
    text contains (Gemma 3 has one for images).

    Raises: ModelError if tokenizer.json cannot be read, or has words that the model does not know.
    """
    name = folder.directory.name
    try:
        tokenizer = Tokenizer.from_file(str(folder.directory / "tokenizer.json"))
    except Exception:  # the library raises Exception itself
        raise ModelError(f"tokenizer.json of {name} cannot be read; fetch or copy it again.") from None
    words: dict[str, int] = tokenizer.get_vocab(with_added_tokens=False)
    if (last := max(words.values(), default=0)) >= vocab_size:
        raise ModelError(f"{name} has {last + 1:,} tokens but {vocab_size:,} embeddings; use another model.")
    return tokenizer


def read_license(folder: Path) -> str | None:
    """What the front matter of the model's card says."""
    path = folder / "README.md"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        parts = file.read(_CARD_CHARACTERS).split("---", 2)
    found = _LICENSE.search(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    return found[1] if found else None


def _text_name(name: str) -> str:
    """A tensor's name without what models that see add to it."""
    return name.removeprefix("language_model.").replace("model.language_model.", "model.", 1)


def _plus_one(rows: Rows) -> Rows:
    """Gemma's norms multiply by 1 + what is stored."""
    gains = np.concatenate(list(float_chunks([rows]))) + np.float32(1)
    return replace(rows, type=GGMLQuantizationType.F32, data=gains.view(np.uint8))
