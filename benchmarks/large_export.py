"""What a larger model takes: a checkpoint of Qwen3-1.7B's shape with random weights is exported, loaded and run.

    python -m benchmarks.large_export [--weights int8] [--scratch DIRECTORY]

Needs about 6 GB of disk. Memory is the largest resident set of the process that converts. V(rows), the time of a pass
relative to that of one row at a context of 256, is the median of interleaved passes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from edgespec.graph import convert_checkpoint
from edgespec.runtime.model import OnnxCausalLM

SHAPE: Final[dict[str, Any]] = {
    "model_type": "qwen3",
    "hidden_act": "silu",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
}
_BYTES: Final = 1 << 24
_CONTEXT: Final = 256
_REPEATS: Final = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--convert", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.convert is not None:
        _convert(arguments.convert, arguments.weights)
        return
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as directory:
        _write(Path(directory))
        command = [sys.executable, "-m", "benchmarks.large_export", "--weights", arguments.weights]
        subprocess.run([*command, "--convert", directory], check=True)


def _convert(directory: Path, weights: Any) -> None:
    start, worked = time.perf_counter(), time.process_time()
    convert_checkpoint(directory, directory / "out", weights=weights)
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    size = (directory / "out" / "model.onnx.data").stat().st_size
    print(f"{weights}: {seconds:.0f} s ({worked:.0f} s of processor time)", end=", ")
    print(f"{peak / 1e9:.2f} GB resident at most, {size / 1e9:.2f} GB written", flush=True)
    _run(directory / "out" / "model.onnx")


def _run(graph: Path) -> None:
    start = time.perf_counter()
    model = OnnxCausalLM.open(graph, context_length=512, vocab_size=256)
    print(f"loaded in {time.perf_counter() - start:.1f} s")
    times: dict[int, list[float]] = {rows: [] for rows in range(1, 10)}
    model.forward([1] * _CONTEXT, 2)
    for rows in list(times) * _REPEATS:
        model.rewind(_CONTEXT)
        start = time.perf_counter()
        model.forward([2] * rows)
        times[rows].append(time.perf_counter() - start)
    medians = {rows: statistics.median(taken) for rows, taken in times.items()}
    shares = ", ".join(f"{median / medians[1]:.2f}" for median in medians.values())
    print(f"one row {1000 * medians[1]:.0f} ms; V(1..9) {shares}")


def _write(directory: Path) -> None:
    """config.json, tokenizer.json and two shards with an index."""
    (directory / "config.json").write_text(json.dumps(SHAPE))
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.save(str(directory / "tokenizer.json"))
    shapes = _shapes()
    names, places = list(shapes), dict[str, str]()
    for i, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        _write_shard(directory / file, {name: shapes[name] for name in part})
        places |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def _shapes() -> dict[str, list[int]]:
    hidden, ffn, size = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["head_dim"]
    queries, keys = SHAPE["num_attention_heads"] * size, SHAPE["num_key_value_heads"] * size
    shapes = {"model.embed_tokens.weight": [SHAPE["vocab_size"], hidden], "model.norm.weight": [hidden]}
    parts = {
        "input_layernorm": [hidden],
        "self_attn.q_proj": [queries, hidden],
        "self_attn.k_proj": [keys, hidden],
        "self_attn.v_proj": [keys, hidden],
        "self_attn.q_norm": [size],
        "self_attn.k_norm": [size],
        "self_attn.o_proj": [hidden, queries],
        "post_attention_layernorm": [hidden],
        "mlp.gate_proj": [ffn, hidden],
        "mlp.up_proj": [ffn, hidden],
        "mlp.down_proj": [hidden, ffn],
    }
    for n in range(SHAPE["num_hidden_layers"]):
        shapes |= {f"model.layers.{n}.{part}.weight": shape for part, shape in parts.items()}
    return shapes


def _write_shard(path: Path, shapes: dict[str, list[int]]) -> None:
    header, at = dict[str, Any](), 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for chunk in _random(at):
            file.write(chunk)


def _random(size: int) -> Iterator[bytes]:
    """bfloat16 numbers of a normal distribution with a deviation of 0.02, the same few over and over."""
    values = np.random.default_rng(0).normal(0, 0.02, _BYTES // 2).astype(np.float32)
    chunk = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    for start in range(0, size, len(chunk)):
        yield chunk[: size - start]


if __name__ == "__main__":
    main()
