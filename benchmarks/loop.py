"""The loop's own time: everything outside the sessions' run calls, as a share of the answers' time."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import onnxruntime

from edgespec.benchmark import read_prompts
from edgespec.chat.events import Answer
from edgespec.chat.session import Settings
from edgespec.decoding.sampling import Sampling
from edgespec.engine import Resources, open_chat

CASES = {
    "plain": ("none", Settings(exact=False, max_tokens=128)),
    "plain, exact": ("none", Settings(max_tokens=128)),
    "n-gram, exact": ("ngram", Settings(max_tokens=128)),
    "n-gram, temperature 0.7": ("ngram", Settings(Sampling(temperature=0.7, seed=1), max_tokens=128)),
    "n-gram, 0.7, top-k 40, top-p 0.95": (
        "ngram",
        Settings(Sampling(temperature=0.7, top_k=40, top_p=0.95, seed=1), max_tokens=128),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--limit", type=int, default=1)
    options = parser.parse_args()
    prompts = read_prompts(options.prompts, options.limit) if options.prompts else read_prompts(limit=options.limit)
    inside = count_run_time()
    for name, (draft, settings) in CASES.items():
        chat = open_chat("smollm2-135m", draft=draft, settings=settings, resources=Resources(4096), offline=True)
        answers_ms = sessions_ms = 0.0
        for prompt in prompts:
            chat.clear()
            before = inside()
            *_, answer = chat.send(prompt.turns[0])
            assert isinstance(answer, Answer)
            sessions_ms += inside() - before
            answers_ms += answer.prompt_ms + answer.predicted_ms
        print(f"{name:35}{(answers_ms - sessions_ms) / answers_ms:6.1%} of {answers_ms / 1e3:.1f} s")


def count_run_time() -> Callable[[], float]:
    """Time every run call from now on; the function returned says how many milliseconds they took so far."""
    total = 0.0
    run: Callable[..., Any] = onnxruntime.InferenceSession.run_with_iobinding

    def timed(self: onnxruntime.InferenceSession, *arguments: Any) -> Any:
        nonlocal total
        start = perf_counter()
        result = run(self, *arguments)
        total += (perf_counter() - start) * 1e3
        return result

    onnxruntime.InferenceSession.run_with_iobinding = timed  # pyright: ignore[reportAttributeAccessIssue]
    return lambda: total


if __name__ == "__main__":
    main()
