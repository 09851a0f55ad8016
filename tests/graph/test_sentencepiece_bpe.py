"""SentencePiece BPE from scores: the joins that its definition asks for, bytes for what is unknown, spaces kept."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import write_tiny_gguf
from tokenizers import Tokenizer as Backend

from edgespec.chat.tokenizer import Tokenizer
from edgespec.errors import ModelError
from edgespec.graph.gguf_reader import GGUFFile
from edgespec.graph.tokenizer import build_tokenizer, chat_template, end_of_text_ids

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["▁t", "he", "▁the", "er", "▁ther", "ab", "aba", "ba", "aa", "aaa", "▁▁", "in", "▁in", "th"]
LETTERS = sorted(set("".join(PIECES)))
TOKENS = ["<unk>", "<s>", "</s>", *BYTES, *PIECES, *LETTERS, "<turn>", "  "]
TYPES = [2, 3, 3] + [6] * 256 + [1] * (len(PIECES) + len(LETTERS)) + [3, 4]
SCORES = [0.0] * 259 + [-float(i) for i in range(len(PIECES) + len(LETTERS))] + [-1000.0] * 2
TURN = TOKENS.index("<turn>")


def gguf(path: Path, architecture: str = "llama", **metadata: Any) -> GGUFFile:
    entries: dict[str, Any] = {
        "model": "llama",
        "pre": None,
        "merges": None,
        "tokens": TOKENS,
        "scores": SCORES,
        "token_type": TYPES,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    tokens = {f"tokenizer.ggml.{key}": value for key, value in (entries | metadata).items()}
    path.unlink(missing_ok=True)
    return GGUFFile(write_tiny_gguf(path, metadata={"general.architecture": architecture, **tokens}))


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    file = gguf(tmp_path_factory.mktemp("spm") / "a.gguf", add_space_prefix=False)
    return build_tokenizer(file, len(TOKENS))


def by_definition(text: str) -> list[str]:
    """The best-scored pair of neighbours first, the leftmost of equals; what is no token then becomes its bytes."""
    normal = {t: s for t, s, kind in zip(TOKENS, SCORES, TYPES, strict=True) if kind == 1}
    parts = list(text.replace(" ", "▁"))
    while joins := [(normal[a + b], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in normal]:
        at = -max(joins)[1]
        parts[at : at + 2] = ["".join(parts[at : at + 2])]
    return [t for part in parts for t in ([part] if part in normal else [f"<0x{b:02X}>" for b in part.encode()])]


@given(st.text(alphabet="thernabi é漢\n", max_size=30).filter(lambda text: "  " not in text))
def test_the_joins_are_those_of_the_definition(backend: Backend, text: str) -> None:
    assert backend.encode(text).tokens == by_definition(text)


@given(st.text(max_size=40).filter(lambda text: "▁" not in text))
def test_text_comes_back_whole(backend: Backend, text: str) -> None:
    tokenizer = Tokenizer(backend.to_str().encode())
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("\0", "\ufffd")


def test_ids_worked_out_by_hand(backend: Backend) -> None:
    assert backend.encode(" the").tokens == ["▁the"]
    assert backend.encode("é").tokens == ["<0xC3>", "<0xA9>"]


def test_a_user_s_own_tokens_come_first_and_control_tokens_are_special(backend: Backend) -> None:
    assert backend.encode("  the").tokens == ["  ", "t", "he"]
    ids = backend.encode("<turn>the").ids
    assert ids[0] == TURN
    assert "<turn>" not in backend.decode(ids)


def test_text_begins_with_a_space_unless_the_file_says_no(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(gguf(tmp_path / "a.gguf"), len(TOKENS))
    ids = tokenizer.encode("the").ids
    assert [TOKENS[i] for i in ids] == ["▁the"]
    assert tokenizer.decode(ids) == "the"


def test_control_tokens_of_phi_3_swallow_the_line_end(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(gguf(tmp_path / "a.gguf", "phi3", add_space_prefix=False), len(TOKENS))
    ids = [tokenizer.encode(text).ids for text in ("<turn>\nthe", "<s>\n")]
    assert [[TOKENS[i] for i in each] for each in ids] == [["<turn>", "t", "he"], ["<s>", "<0x0A>"]]


def test_a_begin_token_that_the_model_must_see(tmp_path: Path) -> None:
    base = gguf(tmp_path / "a.gguf", add_bos_token=True)
    base.metadata.pop("tokenizer.chat_template")
    assert chat_template(base) == "{{ \"<s>\" }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    base.metadata["tokenizer.chat_template"] = "x"
    assert chat_template(base) == '{{ "<s>" }}x'
    for written in ("<s>x", "{{ bos_token }}x"):
        base.metadata["tokenizer.chat_template"] = written
        assert chat_template(base).endswith(written)
        assert chat_template(base).count("<s>") == 1


def test_a_turn_s_end_is_known_by_its_text(tmp_path: Path) -> None:
    tokens = [*TOKENS[:-2], "<end_of_turn>", "<|end|>"]
    file = gguf(tmp_path / "a.gguf", tokens=tokens, token_type=[*TYPES[:-2], 3, 1])
    assert end_of_text_ids(file, len(tokens)) == (2, tokens.index("<end_of_turn>"))


@pytest.mark.parametrize(
    ("metadata", "cause"),
    [
        ({"scores": SCORES[:-1]}, "scores"),
        ({"scores": None}, "scores is missing"),
        ({"token_type": TYPES[:-1]}, "types"),
        ({"unknown_token_id": 9999}, "unknown token"),
        ({"tokens": [*TOKENS[:-1], "x" * 1000], "token_type": [*TYPES[:-1], 1]}, "1,000 characters"),
        ({"model": "t5"}, "kind t5"),
    ],
)
def test_what_cannot_be_a_vocabulary(tmp_path: Path, metadata: dict[str, Any], cause: str) -> None:
    with pytest.raises(ModelError, match=cause):
        build_tokenizer(gguf(tmp_path / "a.gguf", **metadata), len(TOKENS))
