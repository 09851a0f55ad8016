"""The real builder of onnxruntime-genai: what it writes opens, and answers as its own loop does.

It needs another version of transformers than the `export` extra and another build of ONNX Runtime than edgespec, so it
lives in an environment of its own: `pip install onnxruntime-genai onnxruntime onnx-ir transformers torch` there, and
EDGESPEC_GENAI_PYTHON names its interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from checkpoints import write_checkpoint_of_gguf, write_json
from tiny import write_tiny_gguf

from edgespec.bundle.foreign import open_foreign
from edgespec.chat.events import Answer
from edgespec.chat.session import Settings
from edgespec.engine import Resources, open_chat, open_model

PYTHON = os.environ.get("EDGESPEC_GENAI_PYTHON")
TOKENS = 40


@pytest.mark.slow
@pytest.mark.skipif(
    PYTHON is None, reason="EDGESPEC_GENAI_PYTHON names no environment with onnxruntime-genai's builder"
)
def test_the_builders_model_answers_as_its_own_loop_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PYTHON is not None
    monkeypatch.setenv("EDGESPEC_HOME", str(tmp_path / "home"))
    checkpoint = write_checkpoint_of_gguf(write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    write_json(checkpoint / "config.json", {**config, "architectures": ["LlamaForCausalLM"], **ids})
    prompt = [(i * 37 + 5) % 300 + 3 for i in range(12)]
    command = [PYTHON, str(Path(__file__).with_name("genai_builder.py")), str(checkpoint), str(tmp_path / "built")]
    done = subprocess.run(
        [*command, json.dumps(prompt), json.dumps(TOKENS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    theirs: list[int] = json.loads(done.stdout.splitlines()[-1])
    bundle = open_foreign(tmp_path / "built", "cpu")
    model = open_model(bundle, Resources())
    history = list(prompt)
    while len(history) < len(prompt) + TOKENS and history[-1] not in bundle.eos_ids:
        history.append(int(model.forward(history[model.length :], 1)[0].argmax()))
    assert history[len(prompt) :] == theirs
    answers: list[tuple[int, ...]] = []
    for draft in ("none", "ngram"):
        chat = open_chat(str(tmp_path / "built"), draft=draft, settings=Settings(max_tokens=TOKENS))
        *_, answer = chat.send("hello there")
        assert isinstance(answer, Answer)
        answers.append(answer.tokens)
        assert chat.exact
    assert answers[0] == answers[1]
