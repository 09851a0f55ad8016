"""How far a graph's logits are from transformers' own: the reference that everybody means."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edgespec.chat.tokenizer import Tokenizer
from edgespec.decoding.passes import PREFILL_CHUNK
from edgespec.making import Float32
from edgespec.quality import QUESTIONS
from edgespec.runtime.model import OnnxCausalLM

_TOKENS, _STEPS = 192, 8
_SPARE = 1.25


def parity(checkpoint: Path, float32: Float32, context_length: int) -> float | None:
    """The largest absolute difference of the logits of the graph in `float32` from transformers', over a text of up to
    192 tokens: all but the last 8 in passes of many rows, those one by one.

    None if memory does not hold the checkpoint's weights in float32.
    """
    # By name: type checkers run where they are not installed, too.
    torch, transformers = import_module("torch"), import_module("transformers")
    size = 2 * sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    if psutil.virtual_memory().available < _SPARE * size:
        return None
    bundle_files = float32()
    tokenizer = Tokenizer.load(bundle_files / "tokenizer.json")
    ids = tokenizer.encode(" ".join(QUESTIONS))[: min(_TOKENS, context_length - 1)]
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        low_cpu_mem_usage=True,
    ).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0, :, : tokenizer.vocab_size].numpy()
    del theirs
    ours = OnnxCausalLM.open(
        bundle_files / "model.onnx", context_length=min(context_length, _TOKENS + 1), vocab_size=tokenizer.vocab_size
    )
    steps = max(len(ids) - _STEPS, 1)
    ends = [*range(PREFILL_CHUNK, steps, PREFILL_CHUNK), *range(steps, len(ids) + 1)]
    worst = 0.0
    for end in ends:
        start = ours.length
        worst = max(worst, float(np.abs(ours.forward(ids[start:end]) - expected[start:end]).max()))
    return worst
