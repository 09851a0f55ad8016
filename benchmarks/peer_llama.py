"""Greedy answers against llama.cpp's server: the same GGUF, prompts and threads, each with what is fastest for it.

    python -m benchmarks.peer_llama --server PATH/llama-server --gguf FILE.gguf --prompts FILE.jsonl [--limit 2]

The peer runs in all its ways of looking drafts up, and plainly; the fastest over all prompts is what counts. Build it
for this very processor (cmake -DGGML_NATIVE=ON): wheels of it leave half of what a new one can unused. Speeds are
tokens over the time from the end of the prompt, as both report them; every prompt is answered by all in turn.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import prompt_ids
from edgespec.benchmark import Prompt, read_prompts
from edgespec.bundle import default_store
from edgespec.chat.events import Answer
from edgespec.chat.session import Chat, Settings
from edgespec.engine import Resources, open_chat
from edgespec.runtime.session import use_threads

MODEL = "smollm2-135m"
CONTEXT = 4096
WAYS: dict[str, str] = {
    "plain": "",
    "ngram-simple": "--spec-type ngram-simple",
    "ngram-simple, 3 tokens find 4": (
        "--spec-type ngram-simple --spec-ngram-simple-size-n 3 --spec-ngram-simple-size-m 4"
    ),
    "ngram-mod, 4 tokens find 2 to 6": (
        "--spec-type ngram-mod --spec-ngram-mod-n-match 4 --spec-ngram-mod-n-min 2 --spec-ngram-mod-n-max 6"
    ),
    "ngram-map-k": "--spec-type ngram-map-k",
    "ngram-cache": "--spec-type ngram-cache",
}
"""Its own defaults look 12 or more tokens up and draft 48: seldom, and much. So shorter ones are tried as well."""


@dataclass
class Speed:
    """Tokens and milliseconds of all answers."""

    tokens: int = 0
    ms: float = 0.0
    each: list[float] = field(default_factory=list[float])

    def add(self, tokens: int, ms: float) -> None:
        self.tokens, self.ms = self.tokens + tokens, self.ms + ms
        self.each.append(tokens / ms * 1e3)

    @property
    def per_second(self) -> float:
        return self.tokens / self.ms * 1e3


class Peer:
    """A llama-server on this machine, until the block ends."""

    def __init__(self, server: Path, gguf: Path, flags: Sequence[str], threads: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._url = f"http://127.0.0.1:{free.getsockname()[1]}"
        port = self._url.rpartition(":")[2]
        command = [str(server), "-m", str(gguf), "--host", "127.0.0.1", "--port", port, "-c", str(CONTEXT), "-np", "1"]
        command += ["-t", str(threads), "-tb", str(threads), "--no-webui", *flags]
        self._command = " ".join(command)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Peer:
        while True:
            if self._process.poll() is not None:
                raise SystemExit(f"{self._command} ended with {self._process.returncode}")
            try:
                with urllib.request.urlopen(f"{self._url}/health") as reply:
                    if reply.status == 200:
                        return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def answer(self, ids: Sequence[int], tokens: int) -> tuple[int, float]:
        """How many tokens it said, and in how many milliseconds."""
        asked = {"prompt": list(ids), "n_predict": tokens, "temperature": 0.0, "cache_prompt": False}
        request = urllib.request.Request(f"{self._url}/completion", json.dumps(asked).encode())
        with urllib.request.urlopen(request) as reply:
            timings: dict[str, Any] = json.load(reply)["timings"]
        return timings["predicted_n"], timings["predicted_ms"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=2, help="prompts per category")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=[*WAYS])
    options = parser.parse_args()
    threads = use_threads(None)
    prompts = read_prompts(options.prompts, options.limit)
    chat = open_chat(MODEL, settings=Settings(max_tokens=options.tokens), resources=Resources(CONTEXT), offline=True)
    with ExitStack() as stack:
        peers = {
            way: stack.enter_context(Peer(options.server, options.gguf, WAYS[way].split(), threads))
            for way in options.ways
        }
        report(*compare(chat, peers, prompts, options.tokens))


def compare(
    chat: Chat, peers: dict[str, Peer], prompts: Sequence[Prompt], tokens: int
) -> tuple[Speed, dict[str, Speed]]:
    mine, theirs = Speed(), {way: Speed() for way in peers}
    ids = prompt_ids(default_store().get(MODEL), list(prompts))
    for prompt, prompt_tokens in zip(prompts, ids, strict=True):
        chat.clear()
        *_, answer = chat.send(prompt.turns[0])
        assert isinstance(answer, Answer)
        said = {way: peer.answer(prompt_tokens, tokens) for way, peer in peers.items()}
        if min(len(answer.tokens), *(count for count, _ in said.values())) < 16:
            continue
        mine.add(len(answer.tokens), answer.predicted_ms)
        for way, (count, ms) in said.items():
            theirs[way].add(count, ms)
    return mine, theirs


def report(mine: Speed, theirs: dict[str, Speed]) -> None:
    best = max(theirs, key=lambda way: theirs[way].per_second)
    print(f"{len(mine.each)} prompts; tokens per second over all of them")
    print(f"{'edgespec':34}{mine.per_second:8.1f}")
    for way, speed in theirs.items():
        print(f"{way:34}{speed.per_second:8.1f}")
    ratios = [a / b for a, b in zip(mine.each, theirs[best].each, strict=True)]
    spread = statistics.quantiles(ratios, n=4)
    print(f"edgespec over {best}: {mine.per_second / theirs[best].per_second:.2f} of totals; "
          f"by prompt median {spread[1]:.2f}, quartiles {spread[0]:.2f} and {spread[2]:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
