"""Broken, hostile and foreign GGUF files: one sentence that says what is wrong, and no large allocation."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from tiny import TOKENS, write_tiny_gguf

from edgespec.errors import ModelError
from edgespec.graph import convert_gguf
from edgespec.graph.gguf_reader import GGUFFile

STRING, ARRAY, UINT8, UINT32 = 8, 9, 0, 4


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def file_of(*entries: bytes, tensors: tuple[bytes, ...] = (), version: int = 3) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    return header + b"".join(entries) + b"".join(tensors)


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def test_metadata_and_tensors_are_those_of_the_gguf_package(tiny_gguf: Path) -> None:
    ours, theirs = GGUFFile(tiny_gguf), GGUFReader(tiny_gguf)
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            value: Any = ours.metadata[key]
            assert (value.tolist() if isinstance(value, np.ndarray) else value) == field.contents(), key
    assert list(ours.tensors) == [t.name for t in theirs.tensors]
    for other in theirs.tensors:
        mine = ours.tensors[other.name]
        assert mine.shape == tuple(other.shape.tolist()[::-1])
        assert mine.type == other.tensor_type
        assert mine.data.tobytes() == other.data.tobytes()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"GGUF\x03\x00", "ends within its header"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "does not start with GGUF"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (file_of(version=1), "its version is 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "its lists of metadata and tensors would need"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, (1 << 64) - 1), "its lists of metadata and tensors would need"),
        (file_of(struct.pack("<Q", 1 << 62) + b"key" + bytes(64)), "a text would need"),
        (file_of(text("k") + struct.pack("<IQ", STRING, 1 << 63) + bytes(32)), "a text would need"),
        (file_of(text("k") + struct.pack("<IIQ", ARRAY, UINT8, 1 << 60)), "a list of numbers would need"),
        (file_of(text("k") + struct.pack("<IIQ", ARRAY, STRING, 1 << 60)), "a list of texts would need"),
        (file_of(text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1)), "a list of lists"),
        (file_of(text("k") + struct.pack("<IQ", 77, 0)), "unknown type 77"),
        (file_of(text("k") + struct.pack("<IQ", STRING, 2) + b"\xff\xfe"), "not UTF-8"),
        (file_of(*[text("k") + struct.pack("<II", UINT32, 1)] * 2), "k occurs twice"),
        (file_of(text("general.alignment") + struct.pack("<II", UINT32, 24)), "alignment is 24"),
        (file_of(text("general.alignment") + struct.pack("<II", UINT32, 0)), "alignment is 0"),
        (file_of(tensors=(tensor("t", (4, 1 << 40)),)), "t should end at byte"),
        (file_of(tensors=(tensor("t", (1 << 63, 1 << 63, 1 << 63)),)), "t should end at byte"),
        (file_of(tensors=(tensor("t", (4,), offset=(1 << 64) - 1),)), "t should end at byte"),
        (file_of(tensors=(tensor("t", (0, 4)),)), r"t cannot have shape \[4, 0\]"),
        (file_of(tensors=(tensor("t", (48,), kind=8),)), r"t cannot have shape \[48\]"),
        (file_of(tensors=(tensor("t", (4,), kind=999),)), "unknown type 999"),
        (file_of(tensors=(tensor("t", (1, 1, 1, 1, 1)),)), "declares 5 dimensions"),
        (file_of(tensors=(tensor("t", (1,)), tensor("t", (1,)))) + bytes(64), "t occurs twice"),
    ],
)
def test_a_damaged_file_is_refused_at_once(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=cause) as refusal:
            GGUFFile(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert str(refusal.value).startswith("damaged.gguf is not an intact GGUF file: ")
    assert "\n" not in str(refusal.value)


def test_a_file_cut_anywhere_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    whole = tiny_gguf.read_bytes()
    path = tmp_path / "cut.gguf"
    for length in {*range(0, 2000, 61), *range(0, len(whole) - 40, 4999), len(whole) - 40}:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut\.gguf is not an intact GGUF file"):
            GGUFFile(path)


def test_what_is_no_file_is_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    (tmp_path / "directory.gguf").mkdir()
    for name in ("fifo.gguf", "directory.gguf", "missing.gguf"):
        with pytest.raises(ModelError, match="is not a file"):
            GGUFFile(tmp_path / name)


@pytest.mark.parametrize(
    ("metadata", "tensors", "cause"),
    [
        ({"general.architecture": "mamba"}, {}, "mamba architecture, and only gemma2"),
        ({"general.architecture": "\x1b[2J\n" + "x" * 9999}, {}, r"the \\x1b\[2J\\nx{55} architecture"),
        ({"llama.block_count": None}, {}, "llama.block_count is missing"),
        ({"llama.block_count": "two"}, {}, "llama.block_count is not an integer"),
        ({"llama.block_count": 3}, {}, "blk.2.attn_q.weight is missing|blk.2.attn_norm.weight is missing"),
        ({"llama.block_count": 1}, {}, "has a tensor blk.1.attn_norm.weight"),
        ({"llama.attention.head_count": 0}, {}, "do not fit together"),
        ({"llama.attention.head_count_kv": 3}, {}, "do not fit together"),
        ({"llama.attention.head_count_kv": 4}, {}, "attn_k.weight has shape"),
        ({"llama.context_length": 0}, {}, "context length is 0"),
        ({"llama.context_length": 4_000_000_000}, {}, "context length is 4,000,000,000"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, {}, "out of range"),
        ({"llama.rope.freq_base": -1.0}, {}, "out of range"),
        ({"llama.rope.dimension_count": 8}, {}, "it rotates 8 values of each head"),
        ({"llama.attention.value_length": 32}, {}, "value heads differ"),
        ({"llama.rope.scaling.type": "yarn"}, {}, "called yarn"),
        ({}, {"rope_freqs.weight": np.zeros(8)}, "not positive"),
        ({}, {"token_embd.weight": None}, "token_embd.weight is missing"),
        ({}, {"output_norm.weight": None}, "output_norm.weight is missing"),
        ({}, {"blk.1.ffn_down.weight": None}, "blk.1.ffn_down.weight is missing"),
        ({}, {"blk.0.attn_q.weight": np.ones((32, 64))}, r"attn_q.weight has shape \[32, 64\] instead of \[64, 64\]"),
        ({}, {"blk.0.attn_q.bias": np.ones(64)}, "blk.0.attn_q.bias"),
        ({}, {"output_norm.weight": np.full(64, np.nan)}, "output_norm.weight of odd.gguf holds NaN"),
        ({"tokenizer.ggml.model": "t5"}, {}, "of the kind t5"),
        ({"tokenizer.ggml.pre": "viking"}, {}, "pre-tokenizer is viking, and only default, gpt-2,"),
        ({"tokenizer.ggml.tokens": list(TOKENS[:-1])}, {}, "303 different tokens for 304 embeddings"),
        ({"tokenizer.ggml.tokens": [*TOKENS[:-1], "a"]}, {}, "303 different tokens for 304 embeddings"),
        ({"tokenizer.ggml.tokens": None}, {}, "tokenizer.ggml.tokens is missing"),
        ({"tokenizer.ggml.token_type": [1, 1]}, {}, "2 token types for 304 tokens"),
        ({"tokenizer.ggml.token_type": "x"}, {}, "token_type is not a list of integers"),
        ({"tokenizer.ggml.merges": ["a b", "zz y"]}, {}, "merges name tokens"),
        ({"tokenizer.ggml.merges": ["ab"]}, {}, "merges name tokens"),
        (
            {"tokenizer.ggml.eos_token_id": None, "tokenizer.ggml.token_type": [3] * 2 + [1] * 302},
            {},
            "no usable end-of",
        ),
        ({"tokenizer.ggml.eos_token_id": 304}, {}, "no usable end-of-text"),
    ],
)
def test_a_file_that_cannot_be_converted_faithfully_is_refused(
    tmp_path: Path, metadata: dict[str, Any], tensors: dict[str, Any], cause: str
) -> None:
    path = write_tiny_gguf(tmp_path / "odd.gguf", metadata=metadata, tensors=tensors)
    with pytest.raises(ModelError, match=cause) as refusal:
        convert_gguf(path, tmp_path / "out")
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")


def test_any_flipped_byte_of_the_header_converts_or_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    """Nothing but ModelError may come out, whatever byte is wrong."""
    whole = bytearray(tiny_gguf.read_bytes())
    end = whole.index(b"blk.1.ffn_down.weight") + 60
    path, out = tmp_path / "flipped.gguf", tmp_path / "out"
    refused = 0
    flips: list[tuple[int, Callable[[int], int]]] = [(i, lambda b: b ^ 0xFF) for i in range(0, end, 29)]
    for position, flip in flips:
        original = whole[position]
        whole[position] = flip(original)
        path.write_bytes(whole)
        whole[position] = original
        try:
            convert_gguf(path, out)
        except ModelError:
            refused += 1
    assert refused > len(flips) // 4
