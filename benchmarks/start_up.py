"""Whole processes: `--version`, the prompt of the chat, the first token of a 50-token prompt, memory with a 2k one."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import pexpect

RUNS = 7
QUESTION = "Explain in two sentences why the sea is salty and rivers are not."
LONG = "The tide comes in and the tide goes out, and nobody in the village counts the waves. " * 95


def edgespec(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("edgespec")), *arguments]


def seconds(command: list[str]) -> float:
    start = perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return perf_counter() - start


def first_token(command: list[str]) -> float:
    """Seconds from starting the process to the first byte of the answer."""
    start = perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        elapsed = perf_counter() - start
        process.stdout.read()
    return elapsed


def usable_prompt() -> float:
    """Seconds from starting the chat on a terminal to a letter that was typed being on its screen."""
    start = perf_counter()
    child = pexpect.spawn(edgespec()[0], dimensions=(40, 120), env={**os.environ, "TERM": "xterm-256color"})
    child.delaybeforesend = None
    child.expect_exact("rite a message")  # the W is under the cursor: it would wait for it to blink
    child.send("@")
    child.expect_exact("@")
    elapsed = perf_counter() - start
    child.close(force=True)
    return elapsed


def peak_memory(command: list[str]) -> tuple[float, dict[str, object]]:
    """Peak resident memory in MB, and what the command printed."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command[:3])} failed with {process.returncode}")
        out.seek(0)
        return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, json.load(out)


def report(name: str, values: list[float]) -> None:
    print(
        f"{name}: median {statistics.median(values):.3f} s, {min(values):.3f} to {max(values):.3f} ({len(values)} runs)"
    )


def main() -> None:
    seconds(edgespec("--version"))
    report("edgespec --version", [seconds(edgespec("--version")) for _ in range(RUNS)])
    report("a prompt that can be written in", [usable_prompt() for _ in range(RUNS)])
    ask = edgespec("run", "smollm2-135m", QUESTION, "--max-tokens", "8")
    first_token(ask)
    report("first token", [first_token(ask) for _ in range(RUNS)])
    megabytes, answer = peak_memory(
        edgespec("run", "smollm2-135m", LONG, "--ctx-size", "2048", "--max-tokens", "128", "--json")
    )
    print(f"peak resident memory: {megabytes:.0f} MB, prompt of {answer['prompt_tokens']} tokens, context 2048")


if __name__ == "__main__":
    main()
