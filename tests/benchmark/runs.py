"""Runs of `bench` that never happened, with figures that tests choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgespec.benchmark import Row
from edgespec.benchmark.report import Report, make_report
from edgespec.benchmark.trace import Trace
from edgespec.decoding.costs import Costs, DraftCost
from edgespec.decoding.stats import Round

ENVIRONMENT: dict[str, Any] = {
    "edgespec": "0.1.0",
    "onnxruntime": "1.31.1",
    "machine": "x86_64",
    "system": "Linux",
    "model": "tiny",
    "draft": "ngram",
    "exact": True,
    "device": "cpu",
    "threads": 2,
    "temperature": 0.0,
    "prompts": "0123456789abcdef",
    "energy": None,
}
COSTS = Costs((128, 1024), ((6.0, 7.0, 8.0), (8.0, 9.0, 11.0)), (6.5, 9.0), {"ngram": DraftCost(0.01)})


def trace() -> Trace:
    found = Trace()
    for i in range(40):
        found.add(4 * i, Round((1, 2, 3), (1, 2, 9), 3, 2, "correction", "ngram", 0.1, 7.0, 7.2))
        found.add(4 * i + 3, Round((1,), (), 0, 0, "plain", "plain", 0.0, 6.0, 6.1))
    return found


def rows(speedups: Mapping[str, Sequence[float]], *, slower: float = 1.0) -> list[Row]:
    """A row for each speed-up of each category. slower: by how much the machine was, during plain and speculative
    runs alike; how long a prompt took differs from prompt to prompt, the same in every run."""
    lengths = np.random.default_rng(0).uniform(500.0, 1500.0, 1000)
    found: list[Row] = []
    for category, values in speedups.items():
        for value in values:
            ms = float(lengths[len(found)]) * slower
            stats = trace().arms["ngram"]
            found.append(
                Row(f"{len(found)}", category, 100, 90, 0.9 * ms, ms / value, stats, same_text=True, trace=trace())
            )
    return found


def run(
    speedups: Mapping[str, Sequence[float]], *, slower: float = 1.0, costs: Costs | None = COSTS, **environment: Any
) -> Report:
    return make_report({**ENVIRONMENT, **environment}, rows(speedups, slower=slower), costs)
