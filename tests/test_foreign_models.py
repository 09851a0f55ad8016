"""What others exported, opened as it is: the answer is the graph's own, or the reason why there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import tiny_lm
from foreign_folders import (
    END,
    LETTERS,
    OPTIMUM,
    minding_rows,
    save_apart,
    write_community,
    write_genai,
    write_json,
    write_optimum,
    write_tokenizer,
)
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgespec.chat.events import Answer
from edgespec.chat.session import Chat, Settings
from edgespec.engine import open_chat
from edgespec.errors import ModelError, UsageError

QUESTION = "abcabc"
TOKENS = 10


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPEC_HOME", str(tmp_path / "home"))


def opened(folder: Path, notices: list[str] | None = None, exact: bool | None = None, **more: Any) -> Chat:
    heard = [] if notices is None else notices
    return open_chat(str(folder), settings=Settings(max_tokens=TOKENS, exact=exact), notice=heard.append, **more)


def ask(chat: Chat) -> Answer:
    *_, answer = chat.send(QUESTION)
    assert isinstance(answer, Answer)
    return answer


def greedy() -> tuple[int, ...]:
    """What NumPy answers: the tokens behind <t>QUESTION<e><t>."""
    ids = [0, *(LETTERS.index(c) + 2 for c in QUESTION), 1, 0]
    answer: list[int] = []
    while len(answer) < TOKENS and END not in answer:
        answer.append(int(tiny_lm.reference([*ids, *answer])[-1].argmax()))
    return tuple(answer)


def fill(kind: str, folder: Path) -> Path:
    if kind == "optimum":
        return write_optimum(folder)
    return write_genai(folder) if kind == "genai" else write_community(folder, ["model_q4.onnx", "model.onnx"])


LAYOUTS = {"optimum": "model.onnx", "community": "onnx/model_q4.onnx", "genai": "decoder.onnx"}


@pytest.mark.parametrize("draft", ["none", "ngram", None])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_each_layout_answers_as_the_arithmetic_says(kind: str, draft: str | None, tmp_path: Path) -> None:
    notices: list[str] = []
    chat = opened(fill(kind, tmp_path / "m"), notices, draft=draft)
    assert ask(chat).tokens == greedy()
    assert (chat.model, chat.draft, chat.exact) == ("m", None if draft == "none" else "ngram", True)
    assert chat.context_length == tiny_lm.CONTEXT
    assert notices == [f"m: running {LAYOUTS[kind]}"]


def test_one_layout_drafts_for_another(tmp_path: Path) -> None:
    target, draft = write_optimum(tmp_path / "target"), write_genai(tmp_path / "draft")
    write_tokenizer(draft, indent=2)  # another file, the same tokens
    chat = opened(target, draft=str(draft))
    assert (chat.draft, ask(chat).tokens) == ("draft", greedy())
    write_tokenizer(draft, LETTERS[::-1])
    with pytest.raises(ModelError, match=r"draft cannot draft for target: their tokenizers differ"):
        opened(target, draft=str(draft))


def test_a_file_can_be_chosen_by_its_name(tmp_path: Path) -> None:
    folder = write_community(tmp_path / "m", ["model_q4.onnx", "model_fp16.onnx"])
    notices: list[str] = []
    assert ask(opened(folder / "onnx" / "model_fp16.onnx", notices)).tokens == greedy()
    assert notices == ["m: running onnx/model_fp16.onnx"]


@pytest.mark.parametrize("shape", [tiny_lm.Shape("shared"), OPTIMUM], ids=str)
def test_float16_runs_on_the_cpu(shape: tiny_lm.Shape, tmp_path: Path) -> None:
    half = convert_float_to_float16(tiny_lm.model(shape), disable_shape_infer=True)
    answer = ask(opened(write_community(tmp_path / "m", ["model_fp16.onnx"], half), draft="ngram"))
    assert answer.tokens == greedy()


def dynamic(folder: Path) -> Path:
    """With the weights in 8 bits and the activations scaled over all rows."""
    write_optimum(folder)
    quantize_dynamic(folder / "model.onnx", folder / "model_quantized.onnx", weight_type=QuantType.QUInt8)
    (folder / "model.onnx").unlink()
    return folder


def test_where_rows_depend_on_each_other_there_is_no_speculation(tmp_path: Path) -> None:
    folder = dynamic(tmp_path / "m")
    for draft in (None, "none"):
        notices: list[str] = []
        chat = opened(folder, notices, draft=draft)
        assert (chat.draft, chat.exact) == (None, False)
        assert notices[1:] == [
            "model_quantized.onnx quantizes its activations over all rows of a pass, so it cannot verify drafts, "
            "so it runs without speculation"
        ]
        assert set(ask(chat).stats.arms) == {"plain"}
    for draft, exact in (("ngram", None), ("none", True)):
        with pytest.raises(UsageError, match="cannot verify drafts; use --draft none and no --exact"):
            opened(folder, exact=exact, draft=draft)


def test_such_a_file_comes_last(tmp_path: Path) -> None:
    folder = dynamic(tmp_path / "m")
    write_optimum(folder)
    assert opened(folder).draft == "ngram"
    assert opened(write_optimum(tmp_path / "target"), draft=str(dynamic(tmp_path / "d"))).draft == "d"


def test_where_exact_mode_does_not_hold_it_is_off_and_said(tmp_path: Path) -> None:
    folder = write_optimum(tmp_path / "m", minding_rows(tiny_lm.model(OPTIMUM)))
    notices: list[str] = []
    chat = opened(folder, notices)
    assert not chat.exact
    assert "exact mode does not hold for m here" in notices[1]
    assert ask(chat).tokens == greedy()
    assert not ask(opened(folder, exact=False)).exact
    with pytest.raises(UsageError, match="leave out --exact"):
        opened(folder, exact=True)


def test_weights_outside_the_folder_stay_unread(tmp_path: Path) -> None:
    folder = write_optimum(tmp_path / "m")
    canary = (folder / "model.onnx_data").rename(tmp_path / "canary")
    made = onnx.load(folder / "model.onnx", load_external_data=False)
    for place in ("../canary", str(canary), "onnx/../../canary"):
        for tensor in made.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = place
        onnx.save(made, folder / "model.onnx")
        with pytest.raises(ModelError, match="keeps weights outside its folder"):
            opened(folder)
    write_optimum(folder)
    (folder / "model.onnx_data").unlink()
    (folder / "model.onnx_data").symlink_to(canary)
    with pytest.raises(ModelError, match=r"model\.onnx_data is a link, not a plain file; copy the whole folder"):
        opened(folder)
    (folder / "model.onnx_data").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx_data is missing from"):
        opened(folder)


def test_an_operator_that_nobody_here_knows(tmp_path: Path) -> None:
    made = tiny_lm.model(OPTIMUM)
    made.graph.node[0].domain, made.graph.node[0].op_type = "com.somebody", "Own"
    made.opset_import.append(onnx.helper.make_opsetid("com.somebody", 1))
    with pytest.raises(ModelError, match=r"com\.somebody.*Own"):
        opened(write_optimum(tmp_path / "m", made))


def test_a_graph_that_gives_fewer_rows_than_it_says(tmp_path: Path) -> None:
    made = tiny_lm.model(OPTIMUM)
    (head,) = [node for node in made.graph.node if node.output[0] == "logits"]
    head.output[0] = "all"
    parts = {"from": [-1], "to": [2**31], "axis": [1]}
    for name, value in parts.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(tiny_lm.np.asarray(value), name + "_row"))
    made.graph.node.append(onnx.helper.make_node("Slice", ["all", "from_row", "to_row", "axis_row"], ["logits"]))
    with pytest.raises(ModelError, match=r"cannot run here: it gives no row of logits for each token"):
        opened(write_optimum(tmp_path / "m", made))


@pytest.mark.parametrize("damage", [b"", b"not ONNX at all", b"\x0a\xff\xff\xff\xff\x7f", b"\x80" * 4000])
def test_a_file_that_is_no_graph(damage: bytes, tmp_path: Path) -> None:
    folder = write_optimum(tmp_path / "m")
    (folder / "model.onnx").write_bytes(damage)
    with pytest.raises(ModelError, match=r"model\.onnx is not an ONNX model|cannot load .*model\.onnx"):
        opened(folder)


def edgespec(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgespec", *args]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)


def test_on_the_command_line(tmp_path: Path) -> None:
    folder = write_community(tmp_path / "m", ["model_q4.onnx"])
    done = edgespec("run", str(folder), QUESTION, "-n", "5")
    assert (done.returncode, len(done.stdout.strip()) > 0) == (0, True)
    assert "edgespec: m: running onnx/model_q4.onnx" in done.stderr
    assert "exact mode" in edgespec("doctor", str(folder)).stdout
    write_json(folder / "config.json", {"is_encoder_decoder": True})
    done = edgespec("run", str(folder), QUESTION)
    assert (done.returncode, done.stdout) == (3, "")
    assert "it is an encoder-decoder model" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_graph_saved_whole_and_one_apart_are_the_same(tmp_path: Path) -> None:
    whole = write_optimum(tmp_path / "whole")
    onnx.save(tiny_lm.model(OPTIMUM), whole / "model.onnx")
    (whole / "model.onnx_data").unlink()
    apart = write_optimum(tmp_path / "apart")
    assert (
        save_apart(tiny_lm.model(OPTIMUM), apart / "model.onnx").stat().st_size < (whole / "model.onnx").stat().st_size
    )
    assert ask(opened(whole)).tokens == ask(opened(apart)).tokens == greedy()
