"""Byte-level BPE (Radford et al. 2019, GPT-2) from GGUF metadata, cut as the pre-tokenizer that the file names does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from edgespec.graph.gguf_reader import GGUFFile, shown


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How text is cut before byte-pair merging. `pattern` None is GPT-2's own, which is built into ByteLevel."""

    pattern: str | None = None
    single_digits: bool = False
    whole_words_first: bool = False
    nfc: bool = False


_ENDINGS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS: Final = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_SIGNS: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SIGNS_AND_SLASHES: Final = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(ending: str) -> str:
    """Words cut where a capital follows a small letter."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return rf"{before}{_UPPER}*{_LOWER}+{ending}|{before}{_UPPER}+{_LOWER}*{ending}"


_GPT2: Final = _Scheme()
_DIGITS_APART: Final = _Scheme(single_digits=True)
_CL100K: Final = rf"{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}|{_REST}"
_SCHEMES: Final[Mapping[str, _Scheme]] = MappingProxyType(
    {
        **dict.fromkeys(("default", "gpt-2", "phi-2", "olmo"), _GPT2),
        **dict.fromkeys(("smollm", "refact", "starcoder", "command-r"), _DIGITS_APART),
        **dict.fromkeys(("dbrx", "smaug-bpe"), _Scheme(_CL100K)),
        "llama-bpe": _Scheme(_CL100K, whole_words_first=True),
        "qwen2": _Scheme(rf"{_WORDS}|\p{{N}}|{_SIGNS}|{_REST}", nfc=True),
        "tekken": _Scheme(rf"{_cased('')}|\p{{N}}|{_SIGNS_AND_SLASHES}|{_REST}", whole_words_first=True),
        "gpt-4o": _Scheme(rf"{_cased(f'{_ENDINGS}?')}|\p{{N}}{{1,3}}|{_SIGNS_AND_SLASHES}|{_REST}"),
    }
)
"""By the name in tokenizer.ggml.pre; the same as the tokenizer.json of the models that introduced each: Granite's are
refact, Phi-4's dbrx and Phi-4-mini's gpt-4o, Mistral Nemo's and later ones tekken."""


def byte_level_bpe(file: GGUFFile, tokens: list[str]) -> Tokenizer:
    """Raises: ModelError for an unknown pre-tokenizer, or merges that do not fit the vocabulary."""
    pre = file.text("tokenizer.ggml.pre", "default")
    if pre not in _SCHEMES:
        raise file.error(f"its pre-tokenizer is {shown(pre)}, and only {', '.join(_SCHEMES)} are known")
    scheme = _SCHEMES[pre]
    tokenizer = Tokenizer(_model(file, tokens, scheme))
    if scheme.nfc:
        tokenizer.normalizer = NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(scheme)
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


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
