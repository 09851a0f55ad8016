"""Real, tiny tokenizers, trained or put together here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from edgespec.chat.tokenizer import Tokenizer

SENTENCES = [
    "The heron stands in the shallow water and waits for a careless fish.",
    "Every evening the baker sweeps the flour from the floor of the bakery.",
    "A small model proposes and a large model verifies what was proposed.",
    "Übermorgen fährt der Zug über die Brücke, naïve café, déjà vu.",
    "鷺は浅い水の中で待っている。小さな魚が来る。",
    "def wait(seconds):\n    return seconds * 1000  # milliseconds\n",
    "🦆 and 👩‍👩‍👧 went to the lake with 3 loaves of bread at 17:45.",
]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
MORE_CONTROL = ["<|begin_of_text|>", "<bos>", "<start_of_turn>", "<end_of_turn>"]


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    return SENTENCES


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer trained on a few sentences; ids 0.. are the control tokens."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        special_tokens=[*CONTROL, *MORE_CONTROL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(SENTENCES, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    backend.save(str(path))
    return path


@pytest.fixture(scope="session")
def backend(tokenizer_path: Path) -> Backend:
    """The library's own object, to compare with."""
    return Backend.from_file(str(tokenizer_path))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_path)


def _byte_characters() -> dict[int, str]:
    """How the library writes each byte. Bytes that UTF-8 never uses are written as the Latin-1 characters they are."""
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found: dict[int, str] = {}
    for character in map(chr, [*range(0x800), *range(0x800, 0xD800, 0x400), *range(0xE000, 0x110000, 0x1000)]):
        [(spelled, _)] = spell.pre_tokenize_str(character)
        found.update(zip(character.encode(), spelled, strict=True))
    return {byte: found.get(byte, chr(byte)) for byte in range(256)}


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[[Sequence[bytes]], Tokenizer]:
    """A byte-level tokenizer whose token i has the given bytes i; they must differ."""
    spelling = _byte_characters()

    def build(tokens: Sequence[bytes]) -> Tokenizer:
        vocab = {"".join(spelling[byte] for byte in token): i for i, token in enumerate(tokens)}
        backend = Backend(models.BPE(vocab=vocab, merges=[]))
        backend.decoder = decoders.ByteLevel()
        return Tokenizer(backend.to_str().encode())

    return build


@pytest.fixture(params=["normalizer", "first", "always"])
def prefixed(request: pytest.FixtureRequest) -> Backend:
    """A tokenizer whose texts begin with a space that nobody wrote, in the ways in which files say so."""
    hello = ["H", "He", "Hel", "Hell", "Hello"]
    words = ["<unk>", "<s>", "▁", *"elo[]I", *hello, *(f"▁{word}" for word in hello), "▁["]
    merges = [(start + left, right) for start in ("▁", "") for left, right in zip(hello, "ello", strict=False)]
    merges = [("▁", "H"), *merges, ("▁", "[")]
    vocab = {word: i for i, word in enumerate(words)}
    backend = Backend(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if request.param == "normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=request.param, split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken("<s>", special=True, normalized=False)])
    return backend
