"""The tokenizer that a GGUF file describes, as a `tokenizers.Tokenizer`."""

from __future__ import annotations

import json
from typing import Final

from tokenizers import AddedToken, Tokenizer

from edgespec.graph.byte_level import byte_level_bpe
from edgespec.graph.gguf_reader import GGUFFile, shown
from edgespec.graph.sentencepiece_bpe import sentencepiece_bpe

_CONTROL: Final = 3
_USER_DEFINED: Final = 4
_KINDS: Final = {"gpt2": byte_level_bpe, "llama": sentencepiece_bpe}
"""By the name in tokenizer.ggml.model."""
_END_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")
_TURN_ENDS: Final = frozenset({"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>"})
"""Control tokens that end a turn wherever they are in a vocabulary; not every file names its own."""
_NEWLINE_KEPT: Final = frozenset({"<unk>", "<s>", "<|endoftext|>"})


def build_tokenizer(file: GGUFFile, vocab_size: int) -> Tokenizer:
    """BPE, byte-level or SentencePiece's, with the file's vocabulary and control tokens.

    Control tokens become special tokens. No begin or end token is added to a text: the chat template writes them.

    Raises: ModelError for another kind of tokenizer or pre-tokenizer, and for inconsistent lists.
    """
    kind = file.text("tokenizer.ggml.model")
    if kind not in _KINDS:
        known = "gpt2 (byte-level BPE) and llama (SentencePiece BPE)"
        raise file.error(f"its tokenizer is of the kind {shown(kind)}, and only {known} are supported")
    tokens = file.texts("tokenizer.ggml.tokens")
    if len(tokens) != vocab_size or len(set(tokens)) != vocab_size:
        raise file.error(f"it has {len(set(tokens)):,} different tokens for {vocab_size:,} embeddings")
    tokenizer = _KINDS[kind](file, tokens)
    _add_tokens(tokenizer, file, tokens)
    return tokenizer


def end_of_text_ids(file: GGUFFile, vocab_size: int) -> tuple[int, ...]:
    """The ids that end an answer: the file's end of sequence, of turn and of message, as far as it names them, and the
    control tokens known to end a turn.

    Raises: ModelError if there are none, or one is beyond the vocabulary.
    """
    keys = [f"tokenizer.ggml.{key}" for key in _END_KEYS]
    ids = dict.fromkeys(file.integer(key) for key in keys if key in file.metadata)
    types = file.integers("tokenizer.ggml.token_type").tolist()
    for i, token in enumerate(file.texts("tokenizer.ggml.tokens")):
        if token in _TURN_ENDS and types[i] == _CONTROL:
            ids[i] = None
    if not ids or not all(0 <= i < vocab_size for i in ids):
        raise file.error("its metadata names no usable end-of-text token")
    return tuple(ids)


def chat_template(file: GGUFFile) -> str:
    """The file's chat template; empty if it has none. What it takes from its tokenizer's settings, it is given here:
    the texts of the tokens that begin and end a sequence, where it uses them.

    A model that must see its begin token gets it even if the template does not write it; one without a template then
    gets the messages as they are.

    Raises: ModelError if such a token is beyond the vocabulary.
    """
    template = file.text("tokenizer.chat_template", "")
    begin = _token_text(file, "bos_token") if file.flag("tokenizer.ggml.add_bos_token", False) else None
    if begin and "bos_token" not in template and begin not in template:
        body = template or "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
        return f"{{{{ {json.dumps(begin, ensure_ascii=False)} }}}}{body}"
    for name in ("eos_token", "bos_token"):
        if name in template and (text := _token_text(file, name)) is not None:
            template = f"{{% set {name} = {json.dumps(text, ensure_ascii=False)} %}}{template}"
    return template


def _token_text(file: GGUFFile, name: str) -> str | None:
    key = f"tokenizer.ggml.{name}_id"
    if key not in file.metadata:
        return None
    tokens, index = file.texts("tokenizer.ggml.tokens"), file.integer(key)
    if not 0 <= index < len(tokens):
        raise file.error(f"its {name} is beyond its vocabulary")
    return tokens[index]


def _add_tokens(tokenizer: Tokenizer, file: GGUFFile, tokens: list[str]) -> None:
    types = file.integers("tokenizer.ggml.token_type")
    if len(types) != len(tokens):
        raise file.error(f"it has {len(types):,} token types for {len(tokens):,} tokens")
    # Phi-3's control tokens swallow the space behind them; the file has no place to say so.
    swallow = file.text("general.architecture") == "phi3" and file.text("tokenizer.ggml.model") == "llama"
    special, plain = list[AddedToken](), list[AddedToken]()
    for token, kind in zip(tokens, types.tolist(), strict=True):
        if kind == _CONTROL:
            rstrip = swallow and token not in _NEWLINE_KEPT
            special.append(AddedToken(token, special=True, normalized=False, rstrip=rstrip))
        elif kind == _USER_DEFINED:
            plain.append(AddedToken(token, special=False, normalized=False))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)
