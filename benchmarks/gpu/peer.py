"""Plain decoding beside onnxruntime-genai's on the same GPU: the same graph and prompt, in turn."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from time import perf_counter

from benchmarks.genai import PACKAGES, Peer, Timed, describe
from benchmarks.gpu.common import TEXT, Bench, Finding, begin, tokens
from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.session import use_threads

_CONTEXT = 1024
_TURNS = 3


def time_peer(bench: Bench) -> Iterator[Finding]:
    """The large shape in int4, greedy; in float16 both find the same equals, and may choose others among them."""
    if bench.genai is None:
        libraries = " 'onnxruntime-gpu[cuda,cudnn]'" if bench.device == "cuda" else ""
        how = f"python -m venv V && V/bin/pip install '{PACKAGES[bench.device]}'{libraries}; then --genai V/bin/python"
        yield Finding("left out", f"it needs an environment of its own: {how}")
        return
    graph, config = bench.large()
    count = 24 if bench.small else 128
    model = bench.open(graph, config.vocab_size, _CONTEXT)
    said = set(_ours(model, count).tokens)
    end = next(token for token in range(config.vocab_size) if token not in said)
    describe(graph.parent, config, end, bench.device, use_threads(None), _CONTEXT)
    prompt = tokens(TEXT, config.vocab_size)
    turns: list[tuple[Timed, Timed]] = []
    with Peer(bench.genai, graph.parent, count) as peer:
        yield Finding("its versions", peer.versions)
        peer.answer(prompt)
        for _ in range(_TURNS):
            bench.require_time()
            turns.append((_ours(model, count), peer.answer(prompt)))
    yield Finding("edgespec, plain", round(median(ours.speed for ours, _ in turns), 1), "tok/s")
    yield Finding("onnxruntime-genai, plain", round(median(theirs.speed for _, theirs in turns), 1), "tok/s")
    ratio = median(ours.speed / theirs.speed for ours, theirs in turns)
    yield Finding("edgespec to onnxruntime-genai", f"{ratio:.2f}", "x", good=None if bench.small else ratio >= 1.0)
    yield Finding("the same text", all(ours.tokens == theirs.tokens for ours, theirs in turns))


def _ours(model: OnnxCausalLM, count: int) -> Timed:
    history = begin(model)
    rounds = generate(
        model, history, None, k=1, sampler=Sampler(Sampling()), max_tokens=count, ends=lambda _: False, exact=False
    )
    next(rounds)
    first = last = perf_counter()
    for _ in rounds:
        last = perf_counter()
    return Timed(history[TEXT:], (last - first) * 1e3)
