"""How fast is it? Passes, answers, the loop's own time, and what crosses the bus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import onnxruntime

from benchmarks.gpu.common import TEXT, Bench, Finding, Remembered, answer, begin, go_on, shrunk, tokens
from benchmarks.gpu.families import FAMILIES
from edgespec.decoding.drafters.draft_model import DraftModelDrafter
from edgespec.decoding.passes import forward
from edgespec.decoding.sampling import Sampling
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.session import CudaOptions
from edgespec.shapes import find_shape

_MOST_OVERHEAD = 0.10


def time_default(bench: Bench) -> Iterator[Finding]:
    """The default model, or its shape: plain, drafted, V(rows), overhead and traffic."""
    graph, vocab, known = bench.default()
    yield Finding("weights", "the model's" if known else "random, of its shape")
    model = bench.open(graph, vocab, 1024)
    yield from _passes(bench, model, 16)
    plain, speed = _timed_answer(bench, model, 128)
    yield Finding("plain", f"{speed:.1f}", "tok/s")
    yield from _overhead(bench, model)
    for wrong, share in ((0, "all"), (5, "4 of 5"), (2, "half")):
        bench.require_time()
        _, drafted = _timed_answer(bench, model, 128, Remembered(plain, vocab, wrong))
        yield Finding(f"a free draft, {share} right", f"{drafted / speed:.2f}", "x plain")
    yield from _traffic(model)
    if not known:
        config = FAMILIES[0] if bench.small else find_shape("smollm2-135m").config
        small = bench.write(shrunk(config, max(len(config.layers) // 5, 1)), "int8")
        drafter = DraftModelDrafter(bench.open(small, vocab, 1024))
        _, drafted = _timed_answer(bench, model, 64, drafter)
        yield Finding("a draft of a fifth, hardly ever right", f"{drafted / speed:.2f}", "x plain")


def time_large(bench: Bench) -> Iterator[Finding]:
    """A shape of 4B parameters in int4 and float16, with random weights; and options that pay on some GPUs."""
    start = perf_counter()
    graph, config = bench.large()
    yield Finding("layers", len(config.layers))
    yield Finding("weights", round(sum(f.stat().st_size for f in graph.parent.iterdir()) / 1e9, 2), "GB")
    yield Finding("written in", round(perf_counter() - start, 1), "s")
    for name, options in (("as usual", CudaOptions()), ("fpa_intb_gemm", CudaOptions(fpa_intb_gemm=True))):
        bench.require_time()
        model = bench.open(graph, config.vocab_size, 1024, options)
        for finding in _passes(bench, model, 9):
            finding.what = f"{name}: {finding.what}"
            yield finding
        plain, speed = _timed_answer(bench, model, 64)
        yield Finding(f"{name}: plain", f"{speed:.1f}", "tok/s")
        _, drafted = _timed_answer(bench, model, 64, Remembered(plain, config.vocab_size, wrong=5))
        yield Finding(f"{name}: a free draft, 4 of 5 right", f"{drafted / speed:.2f}", "x plain")
        yield from _overhead(bench, model)
        del model  # two of them need not fit


def _passes(bench: Bench, model: OnnxCausalLM, most: int) -> Iterator[Finding]:
    """V(rows), each with its tokens chosen, behind a context of 256."""
    length, ids = min(256, model.context_length // 2), tokens(most, model.vocab_size)
    model.rewind(0)
    forward(model, tokens(length, model.vocab_size), 1, exact=False)
    times: list[float] = []
    for rows in range(1, most + 1):
        bench.require_time()
        times.append(_median_ms(lambda n=rows: _chosen(model, ids[:n], length), 3 if bench.small else 15))
    yield Finding("a pass of one row", f"{times[0]:.2f}", "ms")
    yield Finding("V(rows)", " ".join(f"{t / times[0]:.2f}" for t in times), "x")


def _chosen(model: OnnxCausalLM, ids: Sequence[int], length: int) -> None:
    rows: Any = forward(model, ids, len(ids), exact=False)
    rows.best(0)
    model.rewind(length)


def _median_ms(run: Callable[[], None], repeat: int) -> float:
    run()  # the first of a size allocates
    times: list[float] = []
    for _ in range(repeat):
        start = perf_counter()
        run()
        times.append((perf_counter() - start) * 1e3)
    return median(times)


def _timed_answer(bench: Bench, model: OnnxCausalLM, count: int, drafter: Any = None) -> tuple[list[int], float]:
    """The text, and tokens a second behind the prompt."""
    bench.require_time()
    text, rounds = answer(model, 24 if bench.small else count, drafter)
    return text, (len(text) - TEXT) / sum(r.total_ms for r in rounds) * 1e3


def _overhead(bench: Bench, model: OnnxCausalLM) -> Iterator[Finding]:
    """What a step of plain decoding consists of: the pass, choosing a token where the logits are, and what is spent in
    no session."""
    run, session = onnxruntime.InferenceSession.run_with_iobinding, vars(model)["_session"]
    passing = choosing = 0.0

    def timed(self: onnxruntime.InferenceSession, *arguments: Any) -> Any:
        nonlocal passing, choosing
        start = perf_counter()
        result = run(self, *arguments)
        taken = (perf_counter() - start) * 1e3
        passing, choosing = (passing + taken, choosing) if self is session else (passing, choosing + taken)
        return result

    history = begin(model)
    onnxruntime.InferenceSession.run_with_iobinding = timed  # pyright: ignore[reportAttributeAccessIssue]
    try:
        rounds = go_on(model, history, 24 if bench.small else 64)
    finally:
        onnxruntime.InferenceSession.run_with_iobinding = run
    total = sum(r.total_ms for r in rounds)
    share = 1.0 - (passing + choosing) / total
    parts = (passing, choosing, total - passing - choosing)
    yield Finding("a step: pass, choosing, the loop", " + ".join(f"{part / len(rounds):.3f}" for part in parts), "ms")
    yield Finding("the loop's own time", f"{share:.1%}", "", good=None if bench.small else share <= _MOST_OVERHEAD)


def _traffic(model: OnnxCausalLM) -> Iterator[Finding]:
    """What crosses the bus in a round of k = 4."""
    row = 4 * model.vocab_size
    plain, _ = answer(model, 24)
    settings = {"greedy": Sampling(), "top-k 40": Sampling(0.8, top_k=40, seed=1), "all of it": Sampling(0.8, seed=1)}
    for name, sampling in settings.items():
        history = begin(model)
        model.traffic.reset()
        rounds = go_on(model, history, 20, Remembered(plain, model.vocab_size, wrong=5), sampling=sampling)
        sent, fetched = model.traffic.to_device / len(rounds), model.traffic.to_host / len(rounds)
        yield Finding(f"{name}: to the host, a round", f"{fetched:.0f}", "bytes")
        yield Finding(f"{name}: to the device, a round", f"{sent:.0f}", "bytes")
        largest = model.traffic.largest
        yield Finding(f"{name}: the largest copy", largest, "bytes", good=largest <= row)
