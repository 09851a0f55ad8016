"""What a conversion writes and reports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from tiny import CHAT_TEMPLATE, TOKENS, write_tiny_gguf

from edgespec.errors import UsageError
from edgespec.graph import Converted, convert_gguf


def test_the_report_says_what_was_converted(tiny_gguf: Path, tmp_path: Path) -> None:
    assert convert_gguf(tiny_gguf, tmp_path / "out") == Converted(
        architecture="llama",
        name="Tiny",
        license="apache-2.0",
        context_length=256,
        vocab_size=304,
        eos_ids=(2,),
        layers=(0, 1),
        recipe="int8 symmetric block 32, equalized channels, accuracy level 4",
        files=("model.onnx", "model.onnx.data", "tokenizer.json", "chat_template.jinja"),
    )
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "model.onnx", "model.onnx.data", "tokenizer.json", "chat_template.jinja",
    }  # fmt: skip
    assert (tmp_path / "out" / "chat_template.jinja").read_text(encoding="utf-8") == CHAT_TEMPLATE


def test_what_the_file_does_not_say_is_left_out(tmp_path: Path) -> None:
    path = write_tiny_gguf(
        tmp_path / "bare-name.gguf",
        metadata={"general.name": None, "general.license": None, "tokenizer.chat_template": None},
    )
    converted = convert_gguf(path, tmp_path / "out")
    assert (converted.name, converted.license) == ("bare-name", None)
    assert "chat_template.jinja" not in converted.files
    assert not (tmp_path / "out" / "chat_template.jinja").exists()


def test_end_of_turn_and_of_message_end_an_answer_too(tmp_path: Path) -> None:
    ends = {"tokenizer.ggml.eot_token_id": 0, "tokenizer.ggml.eom_token_id": 2}
    path = write_tiny_gguf(tmp_path / "ends.gguf", metadata=ends)
    assert convert_gguf(path, tmp_path / "out").eos_ids == (2, 0)


@pytest.mark.parametrize("weights", ["int8", "float32"])
def test_the_same_source_gives_the_same_bytes(tiny_gguf: Path, tmp_path: Path, weights: str) -> None:
    """In two processes, so that neither hash seeds nor anything kept in memory can matter."""
    program = "import sys, pathlib; from edgespec.graph import convert_gguf; convert_gguf(pathlib.Path(sys.argv[1]), "
    program += "pathlib.Path(sys.argv[2]), weights=sys.argv[3])"
    for name in ("first", "second"):
        subprocess.run([sys.executable, "-c", program, tiny_gguf, tmp_path / name, weights], check=True)
    for first in (tmp_path / "first").iterdir():
        assert first.read_bytes() == (tmp_path / "second" / first.name).read_bytes(), first.name


@pytest.mark.parametrize(("weights", "bits"), [("int8", 9), ("float32", 32)])
def test_a_tied_embedding_is_stored_once(tmp_path: Path, weights: str, bits: int) -> None:
    """int8 with a float32 scale for each 32 weights is 9 bits a weight."""
    sizes: dict[bool, int] = {}
    for tied in (True, False):
        path = write_tiny_gguf(tmp_path / f"{tied}.gguf", tied=tied)
        convert_gguf(path, tmp_path / str(tied), weights=weights)  # pyright: ignore[reportArgumentType]
        sizes[tied] = (tmp_path / str(tied) / "model.onnx.data").stat().st_size
    head = len(TOKENS) * 64 * bits // 8
    assert abs(sizes[False] - sizes[True] - head) <= 2 * 4096, "more than the two tensors' page alignment"


def test_embedding_and_head_read_the_same_initializer(tiny_int8: Path) -> None:
    graph = onnx.load(tiny_int8 / "model.onnx", load_external_data=False).graph
    (gather,) = (n for n in graph.node if n.op_type == "GatherBlockQuantized")
    (head,) = (n for n in graph.node if n.name.startswith("head"))
    assert head.op_type == "MatMulNBits"
    assert gather.input[0] == head.input[1]


def test_no_matmul_has_zero_points(tiny_int8: Path) -> None:
    graph = onnx.load(tiny_int8 / "model.onnx", load_external_data=False).graph
    multiplied = [n for n in graph.node if n.op_type == "MatMulNBits"]
    assert len(multiplied) == 2 * 4 + 1
    assert all(len(n.input) == 3 for n in multiplied)


def test_a_layer_skip_draft_is_smaller(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "deep.gguf", layers=4)
    convert_gguf(path, tmp_path / "all")
    convert_gguf(path, tmp_path / "some", keep_layers=[1])
    whole, part = ((tmp_path / name / "model.onnx.data").stat().st_size for name in ("all", "some"))
    assert part < 0.6 * whole


@pytest.mark.parametrize("keep", [[], [2], [-1, 0], [1, 0], [0, 0]])
def test_impossible_layers_are_refused_before_anything_is_written(
    tiny_gguf: Path, tmp_path: Path, keep: list[int]
) -> None:
    with pytest.raises(UsageError, match="rising numbers from 0 to 1"):
        convert_gguf(tiny_gguf, tmp_path / "out", keep_layers=keep)
    assert not (tmp_path / "out").exists()


def test_progress_rises_to_one(tiny_gguf: Path, tmp_path: Path) -> None:
    heard: list[float] = []
    convert_gguf(tiny_gguf, tmp_path / "out", progress=lambda _stage, fraction: heard.append(fraction))
    assert heard == sorted(heard)
    assert len(heard) > 2
    assert heard[-1] == 1.0
