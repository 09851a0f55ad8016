"""SentencePiece's BPE (Kudo and Richardson 2018, arXiv:1808.06226) from GGUF metadata: Llama 2, Mistral, Phi-3, Gemma.

Such a file has no merges but a score for every token: of all neighbours whose joined text is a token, those with the
best score are joined first, and among equals the leftmost. As a list of merges, which is what `tokenizers` takes, that
is every way to cut a token in two, ordered by the token's score. Spaces are written ▁, and characters that the
vocabulary lacks as the tokens of their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tokenizers import Tokenizer
from tokenizers.decoders import ByteFallback, Fuse, Strip
from tokenizers.decoders import Replace as ReplaceInOutput
from tokenizers.decoders import Sequence as DecoderSequence
from tokenizers.models import BPE
from tokenizers.normalizers import Prepend, Replace, Sequence

from edgespec.graph.gguf_reader import GGUFFile

_NORMAL: Final = 1
_SPACE: Final = "▁"
_LONGEST: Final = 256
"""Characters of a token that is made by merging; the time to cut them up grows with the square of it."""


def sentencepiece_bpe(file: GGUFFile, tokens: list[str]) -> Tokenizer:
    """Text begins with a space that nobody wrote, as these models learned it, unless the file says that it does not.

    Raises: ModelError for scores or types that do not fit the tokens, or an absurdly long token.
    """
    unknown = file.integer("tokenizer.ggml.unknown_token_id", 0)
    if not 0 <= unknown < len(tokens):
        raise file.error("its unknown token is beyond its vocabulary")
    merges = [(left, right) for _, _, left, right in sorted(_merges(file, tokens))]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab, merges, unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True))
    prefixed = file.flag("tokenizer.ggml.add_space_prefix", True)
    tokenizer.normalizer = Sequence([*([Prepend(_SPACE)] if prefixed else []), Replace(" ", _SPACE)])
    unprefixed = [Strip(" ", 1, 0)] if prefixed else []
    tokenizer.decoder = DecoderSequence([ReplaceInOutput(_SPACE, " "), ByteFallback(), Fuse(), *unprefixed])
    return tokenizer


def _merges(file: GGUFFile, tokens: list[str]) -> Iterator[tuple[float, int, str, str]]:
    """(order of the token's score, its id, left part, right part)."""
    scores, types = file.numbers("tokenizer.ggml.scores"), file.integers("tokenizer.ggml.token_type")
    if len(scores) != len(tokens) or len(types) != len(tokens):
        raise file.error(f"it has {len(scores):,} scores and {len(types):,} types for {len(tokens):,} tokens")
    normal = {token for token, kind in zip(tokens, types.tolist(), strict=True) if kind == _NORMAL}
    for i, (token, score) in enumerate(zip(tokens, scores.tolist(), strict=True)):
        if token not in normal:
            continue
        if len(token) > _LONGEST:
            raise file.error(f"its token {i} has {len(token):,} characters")
        for cut in range(1, len(token)):
            if token[:cut] in normal and token[cut:] in normal:
                yield -score, i, token[:cut], token[cut:]
