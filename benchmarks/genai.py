"""onnxruntime-genai beside ours: its own loop over the very graph, in an environment of its own.

It needs another package of ONNX Runtime than ours, and the two cannot stand in one environment. Speeds are tokens after
the first over the time since the first, for both.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from edgespec.graph.config import DecoderConfig
from edgespec.runtime.device import DeviceKind

PACKAGES: Final[Mapping[DeviceKind, str]] = {
    "cpu": "onnxruntime-genai==0.18.*",
    "cuda": "onnxruntime-genai-cuda==0.18.*",
}
_WORKER: Final = Path(__file__).with_name("genai_worker.py")
_WORDS: Final = 600
"""Of what a worker that failed said last."""


@dataclass(frozen=True, slots=True)
class Timed:
    tokens: list[int]
    ms: float

    @property
    def speed(self) -> float:
        return (len(self.tokens) - 1) / self.ms * 1e3


def describe(folder: Path, shape: DecoderConfig, end: int, device: DeviceKind, threads: int, longest: int) -> None:
    """Write genai_config.json beside the graph of that shape in `folder`. end: the id that ends an answer. longest:
    positions that its cache is to have room for."""
    decoder: dict[str, Any] = {
        "session_options": {"intra_op_num_threads": threads, "provider_options": [{"cuda": {}}][: device == "cuda"]},
        "filename": "model.onnx",
        "head_size": shape.head_size,
        "hidden_size": shape.hidden_size,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": len(shape.layers),
        "num_key_value_heads": shape.kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model = {
        "bos_token_id": 1,
        "eos_token_id": end,
        "pad_token_id": end,
        "context_length": shape.context_length,
        "type": "llama",
        "vocab_size": shape.vocab_size,
        "decoder": decoder,
    }
    search = {"past_present_share_buffer": True, "max_length": longest, "do_sample": False}
    (folder / "genai_config.json").write_text(json.dumps({"model": model, "search": search}), encoding="utf-8")


class Peer:
    """The peer's process, which loads the model in `folder` and answers with `tokens` tokens; a context manager.
    versions: of it and of its ONNX Runtime.

    Raises: RuntimeError, with what the process said last, if it fails.
    """

    def __init__(self, python: Path, folder: Path, tokens: int) -> None:
        command = [str(python), str(_WORKER), str(folder), str(tokens)]
        self._said = tempfile.TemporaryFile("w+")  # no pipe: nobody reads along  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        self.versions = ""

    def __enter__(self) -> Peer:
        try:
            self.versions = str(self._ask(""))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def answer(self, ids: Sequence[int]) -> Timed:
        """Greedy, behind the prompt `ids`."""
        reply: dict[str, Any] = self._ask(json.dumps({"ids": list(ids)}) + "\n")
        return Timed(reply["tokens"], reply["ms"])

    def _ask(self, request: str) -> Any:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(request)
            process.stdin.flush()
            line = process.stdout.readline()
        if line:
            return json.loads(line)
        code = process.wait()
        self._said.seek(0)
        raise RuntimeError(f"onnxruntime-genai ended with {code}: {self._said.read().strip()[-_WORDS:]}")

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()
