"""What a Hugging Face model's folder says of itself, in the forms that it comes in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgespec.errors import ModelError
from edgespec.model_folder import ModelFolder

TOKENIZER: dict[str, Any] = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}},
    "added_tokens": [{"id": 2, "content": "<s>"}, {"id": 5, "content": "</s>"}, {"id": 6, "content": "<|end|>"}],
}


def folder(directory: Path, **files: Any) -> ModelFolder:
    """`config={…}` writes config.json; a text goes to a .jinja file."""
    for name, content in {"tokenizer": TOKENIZER, **files}.items():
        if isinstance(content, str):
            (directory / f"{name}.jinja").write_text(content)
        else:
            (directory / f"{name}.json").write_text(json.dumps(content))
    return ModelFolder.read(directory)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({}, None),
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 512}, "max_position_embeddings": 7}, 512),
        ({"max_position_embeddings": None, "n_ctx": 64}, 64),
        ({"max_position_embeddings": True}, None),
    ],
)
def test_the_context_is_what_the_config_says(config: Any, length: int | None, tmp_path: Path) -> None:
    assert folder(tmp_path, config=config).context_length() == length


def test_the_vocabulary_ends_behind_the_largest_id(tmp_path: Path) -> None:
    assert folder(tmp_path).vocab_size() == 7
    for size, shared in ((8, 7), (5, 5), (None, 7)):
        assert folder(tmp_path, config={"vocab_size": size}).shared_vocab_size() == shared
    unigram = {"model": {"type": "Unigram", "vocab": [["a", -1.0]] * 9}}
    assert folder(tmp_path, tokenizer=unigram, config={}).vocab_size() == 9
    with pytest.raises(ModelError, match=r"tokenizer\.json has no vocabulary"):
        folder(tmp_path, tokenizer={}).vocab_size()


def test_every_token_that_may_end_an_answer_is_found(tmp_path: Path) -> None:
    made = folder(
        tmp_path,
        config={"eos_token_id": 2},
        generation_config={"eos_token_id": [5, 2, 99, None]},
        tokenizer_config={"eos_token": {"content": "<|end|>"}},
    )
    assert made.end_of_text_ids() == (6, 2, 5)
    assert folder(tmp_path, tokenizer_config={"eos_token": "</s>"}).end_of_text_ids()[0] == 5


def test_a_model_that_would_never_stop_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="which token ends an answer"):
        folder(tmp_path, config={"eos_token_id": 7}).end_of_text_ids()


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template": "{{ messages }}", "tokenizer_config": {"chat_template": "another"}},
        {"tokenizer_config": {"chat_template": "{{ messages }}"}},
        {
            "tokenizer_config": {
                "chat_template": [
                    {"name": "tool_use", "template": "x"},
                    {"name": "default", "template": "{{ messages }}"},
                ]
            }
        },
    ],
)
def test_the_chat_template_stands_in_one_of_three_places(files: Any, tmp_path: Path) -> None:
    assert folder(tmp_path, **files).chat_template() == "{{ messages }}"


def test_the_chat_template_of_its_own_json_file(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text('{"chat_template": "{{ messages }}"}')
    assert folder(tmp_path).chat_template() == "{{ messages }}"


def test_a_template_is_told_the_tokens_that_it_names(tmp_path: Path) -> None:
    settings = {"bos_token": '<"s>', "eos_token": {"content": "</s>"}, "chat_template": "{{ bos_token }}x"}
    assert (
        folder(tmp_path, tokenizer_config=settings).chat_template() == '{% set bos_token = "<\\"s>" %}{{ bos_token }}x'
    )
    assert folder(tmp_path, tokenizer_config={}).chat_template() is None


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        ModelFolder.read(tmp_path)
    for content in ("{", "[1]", "[" * 100_000):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ModelError, match=r"tokenizer\.json .*get the file again"):
            ModelFolder.read(tmp_path)
