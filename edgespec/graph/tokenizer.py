"""The tokenizer that a GGUF file describes, as a `tokenizers.Tokenizer`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from edgespec.graph.gguf_reader import GGUFFile, shown

_CONTROL: Final = 3
_USER_DEFINED: Final = 4
_END_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How text is cut before byte-pair merging. `pattern` None is GPT-2's own, which is built into ByteLevel."""

    pattern: str | None = None
    single_digits: bool = False
    whole_words_first: bool = False
    nfc: bool = False


_WORDS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SCHEMES: Final = {
    "default": _Scheme(),
    "gpt-2": _Scheme(),
    "smollm": _Scheme(single_digits=True),
    "llama-bpe": _Scheme(rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}", whole_words_first=True),
    "qwen2": _Scheme(rf"{_WORDS}|\p{{N}}|{_REST}", nfc=True),
}
"""By the name in tokenizer.ggml.pre; the same as the tokenizer.json of the models that introduced each."""


def build_tokenizer(file: GGUFFile, vocab_size: int) -> Tokenizer:
    """Byte-level BPE with the file's vocabulary, merges, control tokens and the pre-tokenizer that it names.

    Control tokens become special tokens. No begin or end token is added to a text: the chat template writes them.

    Raises: ModelError for another kind of tokenizer or pre-tokenizer, and for inconsistent lists.
    """
    kind = file.text("tokenizer.ggml.model")
    if kind != "gpt2":
        raise file.error(f"its tokenizer is of the kind {shown(kind)}, and only gpt2 (byte-level BPE) is supported")
    pre = file.text("tokenizer.ggml.pre", "default")
    if pre not in _SCHEMES:
        raise file.error(f"its pre-tokenizer is {shown(pre)}, and only {', '.join(_SCHEMES)} are known")
    scheme, tokens = _SCHEMES[pre], file.texts("tokenizer.ggml.tokens")
    if len(tokens) != vocab_size or len(set(tokens)) != vocab_size:
        raise file.error(f"it has {len(set(tokens)):,} different tokens for {vocab_size:,} embeddings")
    tokenizer = Tokenizer(_model(file, tokens, scheme))
    if scheme.nfc:
        tokenizer.normalizer = NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(scheme)
    tokenizer.decoder = ByteLevelDecoder()
    _add_tokens(tokenizer, file, tokens)
    return tokenizer


def end_of_text_ids(file: GGUFFile, vocab_size: int) -> tuple[int, ...]:
    """The ids that end an answer: the file's end of sequence, of turn and of message, as far as it names them.

    Raises: ModelError if it names none, or one beyond the vocabulary.
    """
    keys = [f"tokenizer.ggml.{key}" for key in _END_KEYS]
    ids = dict.fromkeys(file.integer(key) for key in keys if key in file.metadata)
    if not ids or not all(0 <= i < vocab_size for i in ids):
        raise file.error("its metadata names no usable end-of-text token")
    return tuple(ids)


def chat_template(file: GGUFFile) -> str:
    """The file's chat template; empty if it has none. What it takes from its tokenizer's settings, it is given here:
    the texts of the tokens that begin and end a sequence, where it uses them.

    Raises: ModelError if such a token is beyond the vocabulary.
    """
    template = file.text("tokenizer.chat_template", "")
    for name in ("eos_token", "bos_token"):
        key = f"tokenizer.ggml.{name}_id"
        if name in template and key in file.metadata:
            tokens, index = file.texts("tokenizer.ggml.tokens"), file.integer(key)
            if not 0 <= index < len(tokens):
                raise file.error(f"its {name} is beyond its vocabulary")
            template = f"{{% set {name} = {json.dumps(tokens[index], ensure_ascii=False)} %}}{template}"
    return template


def _model(file: GGUFFile, tokens: list[str], scheme: _Scheme) -> BPE:
    merges = [tuple(merge.split(" ")) for merge in file.texts("tokenizer.ggml.merges")]
    vocab = {token: i for i, token in enumerate(tokens)}
    known = all(len(m) == 2 and m[0] in vocab and m[1] in vocab and m[0] + m[1] in vocab for m in merges)
    if not known:
        raise file.error("its merges name tokens that are not in its vocabulary")
    return BPE(vocab, [(m[0], m[1]) for m in merges], ignore_merges=scheme.whole_words_first)


def _pre_tokenizer(scheme: _Scheme) -> PreTokenizer:
    own_pattern = scheme.pattern is None
    steps: list[PreTokenizer] = [ByteLevel(add_prefix_space=False, use_regex=own_pattern)]
    if scheme.pattern is not None:
        steps.insert(0, Split(Regex(scheme.pattern), behavior="isolated"))
    if scheme.single_digits:
        steps.insert(0, Digits(individual_digits=True))
    return Sequence(steps)


def _add_tokens(tokenizer: Tokenizer, file: GGUFFile, tokens: list[str]) -> None:
    types = file.integers("tokenizer.ggml.token_type")
    if len(types) != len(tokens):
        raise file.error(f"it has {len(types):,} token types for {len(tokens):,} tokens")
    for token, kind in zip(tokens, types.tolist(), strict=True):
        if kind == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
