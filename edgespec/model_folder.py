"""What stands beside the weights in a Hugging Face model's folder, and in what others export from one: the settings,
the tokenizer, the chat template. Shared by whoever converts such a folder and whoever opens it as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, cast

from edgespec.errors import ModelError

_MAX_BYTES = 1 << 28
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")
DESCRIPTIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""The files that are read here, where they exist."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The settings of a model, read once. `config` is config.json with the language model's own part on top."""

    directory: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]

    @staticmethod
    def read(directory: Path) -> ModelFolder:
        """Raises: ModelError if tokenizer.json is missing, or a file is not what it should be."""
        if not (directory / "tokenizer.json").is_file():
            raise ModelError(
                f"{directory} has no tokenizer.json; save the model's fast tokenizer there (transformers' "
                "AutoTokenizer.from_pretrained(…).save_pretrained(…) writes one)."
            )
        config = read_object(directory / "config.json")
        nested = config.get("text_config")
        return ModelFolder(
            directory,
            {**config, **cast("dict[str, Any]", nested)} if isinstance(nested, dict) else config,
            read_object(directory / "generation_config.json"),
            read_object(directory / "tokenizer.json"),
            read_object(directory / "tokenizer_config.json"),
        )

    def context_length(self) -> int | None:
        """How many positions config.json says that the model takes; None if it does not say."""
        found = (self.config.get(key) for key in _CONTEXT_KEYS)
        return next((n for n in found if is_count(n) and n > 0), None)

    def vocab_size(self) -> int:
        """One more than the tokenizer's largest id; a model's logits may be padded beyond it."""
        model = self.tokenizer.get("model")
        vocab: object = cast("dict[str, Any]", model).get("vocab") if isinstance(model, dict) else None
        if isinstance(vocab, dict):
            ids = [i for i in cast("dict[str, Any]", vocab).values() if is_count(i)]
        else:  # Unigram: a list, in the order of ids
            ids = list(range(len(cast("list[Any]", vocab)))) if isinstance(vocab, list) else []
        ids += self._added().values()
        if not ids:
            raise ModelError(f"{self.directory / 'tokenizer.json'} has no vocabulary; get the file again.")
        return max(ids) + 1

    def shared_vocab_size(self) -> int:
        """As `vocab_size`, without what the tokenizer was given and config.json says that the model never was."""
        known = self.config.get("vocab_size")
        return min(self.vocab_size(), known) if is_count(known) and known > 0 else self.vocab_size()

    def end_of_text_ids(self) -> tuple[int, ...]:
        """The ids that end an answer: those of generation_config.json, config.json and the tokenizer together.

        Raises: ModelError if none of them names one of the vocabulary.
        """
        found: list[object] = [self._token_id("eos_token")]
        for source in (self.config, self.generation):
            value = source.get("eos_token_id")
            found += cast("list[object]", value) if isinstance(value, list) else [value]
        size = self.vocab_size()
        ids = tuple(dict.fromkeys(i for i in found if is_count(i) and i < size))
        if not ids:
            raise ModelError(
                f"nothing in {self.directory} says which token ends an answer; "
                "give generation_config.json an eos_token_id."
            )
        return ids

    def chat_template(self) -> str | None:
        """The chat template, None without one. The texts of the tokens that begin and end a sequence are set in it
        where it uses them. Raises: ModelError if it cannot be read."""
        template = self._template_text()
        if template is None:
            return None
        for name in ("eos_token", "bos_token"):
            text = self._token_text(name)
            if name in template and text is not None:
                template = f"{{% set {name} = {json.dumps(text, ensure_ascii=False)} %}}{template}"
        return template

    def _template_text(self) -> str | None:
        path = self.directory / "chat_template.jinja"
        if path.is_file():
            return _read(path).decode("utf-8", "replace")
        for source in (self.tokenizer_config, read_object(self.directory / "chat_template.json")):
            value = source.get("chat_template")
            if isinstance(value, list):  # several by name
                value = next((v.get("template") for v in _objects(value) if v.get("name") == "default"), None)
            if isinstance(value, str):
                return value
        return None

    def _token_text(self, name: str) -> str | None:
        value = self.tokenizer_config.get(name)
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get("content")
        return value if isinstance(value, str) else None

    def _token_id(self, name: str) -> int | None:
        text = self._token_text(name)
        return None if text is None else self._added().get(text)

    def _added(self) -> dict[str, int]:
        """Added tokens by their text."""
        entries = _objects(self.tokenizer.get("added_tokens"))
        return {str(entry.get("content")): entry["id"] for entry in entries if is_count(entry.get("id"))}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file. Raises: ModelError if it is something else."""
    if not path.exists():
        return {}
    try:
        value: object = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON; get the file again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object; get the file again.")
    return cast("dict[str, Any]", value)


def _objects(value: object) -> list[dict[str, Any]]:
    """The objects of a JSON list; none if it is no list."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def is_count(value: object) -> TypeGuard[int]:
    """Whether a JSON value is a number that can count positions or tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > _MAX_BYTES:
        raise ModelError(f"{path} is larger than 256 MB, which no such file is.")
    return data
