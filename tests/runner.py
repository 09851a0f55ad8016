"""Runs a converted graph as the contract says: one KV buffer, bound as past and present, and a length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgespec.runtime.session import open_session


class Runner:
    def __init__(self, directory: Path, capacity: int = 64) -> None:
        self.session = open_session(directory / "model.onnx", "cpu")
        self.length = 0
        self._caches: dict[str, Any] = {
            entry.name: ort.OrtValue.ortvalue_from_numpy(
                np.zeros((1, entry.shape[1], capacity, entry.shape[3]), np.float32)
            )
            for entry in self.session.get_inputs()
            if entry.name.startswith("past_key_values.")
        }

    def forward(self, ids: Sequence[int], keep: int | None = None) -> NDArray[np.float32]:
        binding = self.session.io_binding()
        binding.bind_cpu_input("input_ids", np.array([ids], np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, self.length + len(ids)), np.int64))
        kept = np.array(0 if keep is None else keep, np.int64)
        if keep is not None:
            binding.bind_input("num_logits_to_keep", "cpu", 0, np.int64, [], kept.ctypes.data)
        for name, cache in self._caches.items():
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), cache)
        binding.bind_output("logits")
        self.session.run_with_iobinding(binding)
        self.length += len(ids)
        logits: NDArray[np.float32] = binding.get_outputs()[-1].numpy()[0]
        return logits.copy()
