"""Is what the device computes right? Against the CPU, against itself, and after it has failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.gpu.common import (
    CLOSE,
    TEXT,
    TINY,
    Bench,
    Finding,
    Remembered,
    answer,
    difference,
    open_host,
    shrunk,
    tokens,
)
from benchmarks.gpu.families import FAMILIES
from edgespec.decoding.exactness import splits_agree
from edgespec.graph.synthetic import SyntheticFormat
from edgespec.runtime.cuda import free_memory, inspect_cuda
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.session import nodes_on_processor, open_session, runtime_version
from edgespec.shapes import find_shape

_ROWS: Final = 60


def show_environment(bench: Bench) -> Iterator[Finding]:
    yield Finding("onnxruntime", runtime_version())
    yield Finding("device", bench.device)
    found = inspect_cuda()
    if found.gpu is not None:
        yield Finding("gpu", found.gpu.name)
        yield Finding("compute capability", ".".join(map(str, found.gpu.compute)))
        yield Finding("driver", found.driver or "unknown")
        yield Finding("cudnn", found.cudnn or "none")
    if memory := free_memory():
        yield Finding("free of its memory", round(memory[0] / 1e9, 1), "GB")


def check_parity(bench: Bench) -> Iterator[Finding]:
    """Every architecture's logits on both, in passes of several sizes, and where its nodes are."""
    formats: tuple[SyntheticFormat, ...] = ("int8",) if bench.small else ("int8", "int4")
    for config in FAMILIES:
        for weights in formats:
            bench.require_time()
            graph = bench.write(config, weights)
            off = _off(bench, graph, config.vocab_size)
            yield Finding(f"{config.architecture}, {weights}: off by", f"{off:.1e}", "of var.", good=off < CLOSE)
    bench.require_time()
    graph, vocab, known = bench.default()
    off = _off(bench, graph, vocab)
    what = "the default model" if known else "the default model's shape"
    yield Finding(f"{what}: off by", f"{off:.1e}", "of var.", good=off < CLOSE)
    if bench.device == "cuda":
        left = nodes_on_processor(open_session(bench.write(FAMILIES[0], "int8"), "cuda"))
        yield Finding("nodes left to the processor", ", ".join(f"{n} {op}" for op, n in left.items()) or "none")


def check_rewind(bench: Bench) -> Iterator[Finding]:
    """Rewound to every length and fed other tokens, a model says what one says that never saw the first ones."""
    config = FAMILIES[0]
    graph, ids = bench.write(config, "int8"), tokens(_ROWS, config.vocab_size)
    model, fresh = bench.open(graph, config.vocab_size), bench.open(graph, config.vocab_size)
    worst = 0.0
    for length in range(0, 40, 3):
        model.rewind(0)
        model.forward(ids)
        model.rewind(length)
        fresh.rewind(0)
        if length:
            fresh.forward(ids[:length])
        other = ids[::-1][:8]
        a, b = model.forward(other), fresh.forward(other)
        worst = max(worst, difference(a, b))
    yield Finding("rewound against fresh: off by", f"{worst:.1e}", "of var.", good=worst < CLOSE)


def check_exactness(bench: Bench) -> Iterator[Finding]:
    """Which splits into passes give the same bits, so what exact mode can promise here."""
    config = replace(shrunk(find_shape(TINY if bench.small else "smollm2-135m").config, 6), tied=False)
    model = bench.open(bench.write(config, "int8"), config.vocab_size)
    yield Finding("every split into passes, the same bits", splits_agree(model))
    same = [rows for rows in range(1, 17) if splits_agree(model, (rows,))]
    yield Finding("as one pass of 60 rows: passes of", " ".join(map(str, same)) or "none", "rows")
    same = [rows for rows in range(2, 17) if _agree(model, (2, 2), (rows, rows))]
    yield Finding("as passes of 2 rows: passes of", " ".join(map(str, same)), "rows")
    for rows in (2, 4, 8, 16):
        bench.require_time()
        ways = [(step, rows) for step in sorted({1, 2, min(3, rows), rows})]
        yield Finding(f"rows in passes padded to {rows}, the same bits", _agree(model, *ways))
    plain, _ = answer(model, 96, exact=True)
    drafted, rounds = answer(model, 96, Remembered(plain, config.vocab_size, wrong=5), exact=True)
    equal = plain == drafted
    yield Finding("greedy, drafted as plain", equal, good=equal or not splits_agree(model))
    yield Finding("accepted of tested", f"{sum(r.accepted for r in rounds)}/{sum(r.tested for r in rounds)}")


def _agree(model: OnnxCausalLM, *ways: tuple[int, int]) -> bool:
    """Whether rows have the same bits whichever of these ways (see `_read`) the text is read in."""
    found = [_read(model, *way) for way in ways]
    shortest = min(map(len, found))
    return all(np.array_equal(found[0][:shortest], other[:shortest]) for other in found)


def _read(model: OnnxCausalLM, step: int, size: int) -> Any:
    """The logits of rows from 16 to about 40, `step` of them at a time, in passes of `size` rows: the rest of those is
    padding."""
    ids, rows = tokens(64, model.vocab_size), list[Any]()
    model.rewind(0)
    model.forward(ids[:16])
    while model.length + step <= 40:
        start = model.length
        rows.append(model.forward([*ids[start : start + step], *[0] * (size - step)])[:step].copy())
        model.rewind(start + step)
    return np.concatenate(rows)


def check_failure(bench: Bench) -> Iterator[Finding]:
    """A device that is lost in mid-answer: the answer goes on on the CPU, and half precision may word it otherwise."""
    config = FAMILIES[0]
    graph = bench.write(config, "int8")
    whole, _ = answer(bench.open(graph, config.vocab_size), 48, exact=True)
    model, heard = bench.open(graph, config.vocab_size), list[str]()
    model.on_move = heard.append
    fail_after(model, 12)
    text, _ = answer(model, 48, exact=True)
    same = next((i for i, (a, b) in enumerate(zip(text, whole, strict=True)) if a != b), len(text))
    went_on = len(text) == len(whole) and len(heard) == 1 and model.device.kind == "cpu"
    yield Finding("goes on on the CPU after a failure", went_on, good=went_on)
    yield Finding("as long as before the same text", same - TEXT, "tokens", good=same >= TEXT + 11)
    fits = replace(config, context_length=128)
    again, _ = answer(bench.open(bench.write(fits, "int8"), fits.vocab_size, 128), 48)
    yield Finding("the device still computes", len(again) == TEXT + 48, good=len(again) == TEXT + 48)


def fail_after(model: OnnxCausalLM, passes: int) -> None:
    """Have its session raise what ONNX Runtime raises for a lost device."""
    session: Any = vars(model)["_session"]

    class Lost:
        left = passes

        def run_with_iobinding(self, binding: Any) -> None:
            if self.left == 0:
                raise RuntimeError("CUDA failure 719: unspecified launch failure")
            self.left -= 1
            session.run_with_iobinding(binding)

    vars(model)["_session"] = Lost()


def _off(bench: Bench, graph: Path, vocab: int) -> float:
    """The `difference` of a graph's logits there to those here."""
    host, device = _in_passes(open_host(graph, vocab)), _in_passes(bench.open(graph, vocab))
    return difference(device, host)


def _in_passes(model: OnnxCausalLM) -> Any:
    """Logits of arbitrary text read in passes of several sizes: one row, few, many."""
    ids, rows, start = tokens(_ROWS, model.vocab_size), list[Any](), 0
    for size in (20, 1, 1, 2, 3, 5, 8, 1, 9, 10):
        rows.append(model.forward(ids[start : start + size]).copy())
        start += size
    return np.concatenate(rows)
