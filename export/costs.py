"""What passes of a bundle's graph cost on this machine. Run as a process of its own, so that memory is the model's."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

from edgespec.errors import ModelError
from edgespec.runtime.model import OnnxCausalLM

ROWS = 9
_POSITIONS, _REPEATS = 256, 7
_ROOT = Path(__file__).resolve().parents[1]


def measure_costs(graph: Path, context_length: int, vocab_size: int) -> tuple[int, tuple[float, ...]]:
    """Bytes that a process grows by with the graph loaded and some positions in its KV cache, and the median
    milliseconds of a pass of 1, 2, ... ROWS rows behind them. Numbers of rows are interleaved.

    Raises: ModelError if the graph does not run.
    """
    command = [sys.executable, "-m", "export.costs", str(graph.resolve()), str(context_length), str(vocab_size)]
    worker = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if worker.returncode != 0:
        said = worker.stderr.strip().splitlines() or [f"exit code {worker.returncode}"]
        raise ModelError(f"the exported graph does not run: {said[-1]}")
    found = json.loads(worker.stdout)
    return found["memory"], tuple(found["pass_ms"])


def main() -> None:
    graph, context_length, vocab_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    before = psutil.Process().memory_info().rss
    positions = min(_POSITIONS, context_length - 2 * ROWS)
    model = OnnxCausalLM.open(graph, context_length=positions + 2 * ROWS, vocab_size=vocab_size)
    ids = [i % vocab_size for i in range(1, positions + ROWS + 1)]
    model.forward(ids[:positions])
    memory = psutil.Process().memory_info().rss - before
    times: list[list[float]] = [[] for _ in range(ROWS)]
    for repeat in range(_REPEATS + 1):
        for rows in range(1, ROWS + 1):
            start = time.perf_counter()
            model.forward(ids[positions : positions + rows])
            if repeat:  # the first round warms up
                times[rows - 1].append((time.perf_counter() - start) * 1e3)
            model.rewind(positions)
    print(json.dumps({"memory": max(memory, 0), "pass_ms": [statistics.median(passes) for passes in times]}))  # noqa: T201


if __name__ == "__main__":
    main()
