"""Plain greedy decoding against onnxruntime-genai's own loop: the same graph, prompts and threads, in turn."""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from benchmarks.common import prompt_ids
from benchmarks.genai import PACKAGES, Peer, Timed, describe
from edgespec.benchmark import read_prompts
from edgespec.bundle import Bundle, default_store
from edgespec.decoding.passes import prefill
from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.engine import Resources, open_model
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.session import use_threads
from edgespec.shapes import find_shape

CONTEXT = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=2, help="prompts per category")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--venv", type=Path, help="where the peer's environment is kept (default: made anew)")
    options = parser.parse_args()
    bundle = default_store().get("smollm2-135m")
    threads = use_threads(None)
    with tempfile.TemporaryDirectory() as directory:
        python = peer_python(options.venv or Path(directory, "venv"))
        folder = peer_model(bundle, Path(directory, "model"), threads)
        with Peer(python, folder, options.tokens) as peer:
            compare(bundle, peer, prompt_ids(bundle, read_prompts(options.prompts, options.limit)), options.tokens)


def compare(bundle: Bundle, peer: Peer, prompts: Sequence[list[int]], tokens: int) -> None:
    model = open_model(bundle, Resources(CONTEXT))
    ours(model, prompts[0], 8, bundle)
    peer.answer(prompts[0])
    ratios: list[float] = []
    speeds: list[tuple[float, float]] = []
    same = 0
    for i, ids in enumerate(prompts):
        if i % 2:
            b, a = peer.answer(ids), ours(model, ids, tokens, bundle)
        else:
            a, b = ours(model, ids, tokens, bundle), peer.answer(ids)
        if min(len(a.tokens), len(b.tokens)) < 16:
            continue
        same += a.tokens == b.tokens
        speeds.append((a.speed, b.speed))
        ratios.append(a.speed / b.speed)
    spread = statistics.quantiles(ratios, n=4)
    print(f"{len(ratios)} prompts, medians: edgespec {statistics.median(a for a, _ in speeds):.1f} tok/s, "
          f"onnxruntime-genai {statistics.median(b for _, b in speeds):.1f} tok/s")  # fmt: skip
    print(f"ratio per prompt: median {spread[1]:.2f}, quartiles {spread[0]:.2f} and {spread[2]:.2f}; same text: {same}")


def ours(model: OnnxCausalLM, ids: Sequence[int], tokens: int, bundle: Bundle) -> Timed:
    history = list(ids)
    model.rewind(0)
    for _ in prefill(model, history):
        pass
    eos = set(bundle.manifest.eos_ids)
    rounds = generate(
        model, history, None, k=1, sampler=Sampler(Sampling()), max_tokens=tokens, ends=eos.__contains__, exact=False
    )
    next(rounds)
    first = last = perf_counter()
    for _ in rounds:
        last = perf_counter()
    return Timed(history[len(ids) :], (last - first) * 1e3)


def peer_python(folder: Path) -> Path:
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGES["cpu"]], check=True, stdout=sys.stderr)
    return python


def peer_model(bundle: Bundle, folder: Path, threads: int) -> Path:
    """Our graph and weights, under the description that the peer wants."""
    folder.mkdir()
    for name in ("model.onnx", "model.onnx.data"):
        shutil.copyfile(bundle.directory / name, folder / name)
    m, config = bundle.manifest, find_shape("smollm2-135m").config
    shape = replace(config, vocab_size=m.vocab_size, context_length=m.context_length)
    describe(folder, shape, m.eos_ids[0], "cpu", threads, CONTEXT)
    return folder


if __name__ == "__main__":
    main()
