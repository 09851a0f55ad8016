"""What the chat costs beside `edgespec run`, and how long its thread is ever busy: python -m benchmarks.tui"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, thread_time

import pexpect
from textual import on

from edgespec.chat.events import Answer, TextDelta
from edgespec.chat.session import Chat, Settings
from edgespec.conversations.recorder import Recorder
from edgespec.engine import open_chat
from edgespec.tui import app, workers
from edgespec.tui.app import EdgespecApp
from edgespec.tui.engine import Progress
from edgespec.tui.messages import Loaded, TurnDone
from edgespec.tui.prompt import Prompt

QUESTION = "Write a very long story about a lighthouse keeper, with many chapters."
ROWS, COLUMNS = 60, 200
"""The sidebar is on."""


@dataclass(frozen=True, slots=True)
class Run:
    """One answer. Of the thread that paints, None without a screen: longest_ms, longest_busy_ms: its longest callback,
    by the clock and in processor time (the clock counts what other programs took meanwhile); busy_ms: processor time
    per second of the answer."""

    tokens: int
    rounds: int
    tokens_per_second: float
    longest_ms: float | None = None
    longest_busy_ms: float | None = None
    busy_ms: float | None = None


def open_model(model: str, tokens: int, progress: Progress = lambda _stage, _fraction: None) -> Chat:
    return open_chat(model, settings=Settings(max_tokens=tokens), offline=True, progress=progress)


def to_run(answer: Answer, **more: float) -> Run:
    return Run(len(answer.tokens), answer.stats.rounds, answer.tokens_per_second or 0.0, **more)


def without_screen(model: str, tokens: int) -> Run:
    """As `edgespec run` writes it, into a pipe."""
    for event in open_model(model, tokens).send(QUESTION):
        if isinstance(event, Answer):
            return to_run(event)
        if isinstance(event, TextDelta):
            sys.stdout.write(event.text)
            sys.stdout.flush()
    raise SystemExit("the answer did not end")


class TimedApp(EdgespecApp):
    """Asks as soon as it can, and leaves when it is answered."""

    CSS_PATH = Path(app.__file__).with_name("styles.tcss")
    answer: Answer
    busy_ms = 0.0
    longest_ms = 0.0, 0.0

    @on(Loaded)
    def _ask(self) -> None:
        time_callbacks()
        self._began = thread_time(), perf_counter()
        self.query_one(Prompt).post_message(Prompt.Submitted(QUESTION))

    @on(TurnDone)
    def _leave(self, message: TurnDone) -> None:
        busy, wall = thread_time() - self._began[0], perf_counter() - self._began[1]
        self.answer, self.busy_ms = message.answer, busy / wall * 1e3
        self.set_timer(0.5, self._end)

    def _end(self) -> None:
        """Before the app waits for its threads, which is no part of an answer."""
        self.longest_ms = tuple(_longest_ms)
        self.exit()


_longest_ms = [0.0, 0.0]


def time_callbacks() -> None:
    """From now on keep the longest that a callback of the event loop holds its thread, by the clock and in processor
    time. asyncio has no public place to ask."""
    run = asyncio.Handle._run  # noqa: SLF001

    def timed(handle: asyncio.Handle) -> None:
        start, start_busy = perf_counter(), thread_time()
        run(handle)
        took = perf_counter() - start, thread_time() - start_busy
        _longest_ms[:] = [max(a, b * 1e3) for a, b in zip(_longest_ms, took, strict=True)]

    asyncio.Handle._run = timed  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]


def with_screen(model: str, tokens: int) -> Run:
    def load(progress: Progress) -> Chat:
        chat = open_model(model, tokens, progress)
        workers.set_apart()
        return chat

    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder))  # as in a chat that is kept
        timed = TimedApp(load, recorder)
        timed.run()
        recorder.close()
    return to_run(
        timed.answer, longest_ms=timed.longest_ms[0], longest_busy_ms=timed.longest_ms[1], busy_ms=timed.busy_ms
    )


def child(kind: str, model: str, tokens: int) -> Run:
    """The same in a process of its own; the chat's has a terminal that somebody reads."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        arguments = ["-m", "benchmarks.tui", "--model", model, "--tokens", str(tokens), "--child", kind, str(result)]
        if kind == "run":
            subprocess.run([sys.executable, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=True)
        else:
            environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
            terminal: pexpect.spawn[bytes] = pexpect.spawn(
                sys.executable, arguments, env=environment, dimensions=(ROWS, COLUMNS), timeout=None
            )
            terminal.read()
        return Run(**json.loads(result.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, result = options.child
        run = (with_screen if kind == "chat" else without_screen)(options.model, options.tokens)
        Path(result).write_text(json.dumps(asdict(run)))
        return
    runs: dict[str, list[Run]] = {"run": [], "chat": []}
    for n in range(options.repeat):
        for kind in ("run", "chat") if n % 2 == 0 else ("chat", "run"):
            runs[kind].append(child(kind, options.model, options.tokens))
            print(kind, runs[kind][-1], flush=True)
    speeds = {kind: statistics.median(r.tokens_per_second for r in found) for kind, found in runs.items()}
    print(f"run {speeds['run']:.1f} tok/s, chat {speeds['chat']:.1f} tok/s: {speeds['chat'] / speeds['run'] - 1:+.1%}")


if __name__ == "__main__":
    main()
