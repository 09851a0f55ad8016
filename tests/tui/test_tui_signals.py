"""In the middle of an answer the program is told to end, is stopped, or loses its terminal. A real process on a real
terminal."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import run
from typing import Any

import pexpect
import pytest
from tiny import write_tiny_gguf

from edgespec.bundle import Store
from edgespec.pull import pull


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a model that answers for a minute."""
    home = tmp_path_factory.mktemp("home")
    gguf = write_tiny_gguf(home / "endless.gguf", context_length=1 << 15)
    pull(str(gguf), Store(home / "models"), name="endless", keep_layers=[0])
    (home / "config.toml").write_text('model = "endless"\nmax-tokens = 30000\ncontext = 32000\n')
    return home


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "EDGESPEC_HOME": str(home), "EDGESPEC_HISTORY": "1", "TERM": "xterm-256color"}


@pytest.fixture
def answering(environment: dict[str, str]) -> Iterator[pexpect.spawn[bytes]]:
    """The chat, in the middle of an answer."""
    child = pexpect.spawn(sys.executable, ["-m", "edgespec"], env=environment, dimensions=(24, 80), timeout=60)
    child.expect_exact("Write a message")
    child.send(f"hello at {time.time()}\r")
    child.expect("tok/s")
    yield child
    child.close(force=True)


def kept(environment: dict[str, str]) -> list[str]:
    """What the last conversation has, as another process reads it."""
    command = [sys.executable, "-m", "edgespec", "history", "show", "--json"]
    found = run(command, env=environment, capture_output=True, check=True).stdout
    return [message["text"] for message in json.loads(found)["messages"]]


def test_told_to_end_it_keeps_what_was_said_and_restores_the_terminal(
    answering: pexpect.spawn[bytes], environment: dict[str, str]
) -> None:
    answering.kill(signal.SIGTERM)
    answering.expect(pexpect.EOF)
    assert b"\x1b[?1049l" in (answering.before or b"")
    assert b"Traceback" not in (answering.before or b"")
    answering.close()
    assert answering.exitstatus == 128 + signal.SIGTERM
    question, answer = kept(environment)
    assert question.startswith("hello at")
    assert answer


def test_without_its_terminal_it_keeps_what_was_said(
    answering: pexpect.spawn[bytes], environment: dict[str, str]
) -> None:
    process: Any = answering
    process.ptyproc.fileobj.close()  # as when a connection drops: the kernel sends SIGHUP
    process.ptyproc.closed = process.closed = True
    assert answering.wait() == 128 + signal.SIGHUP
    question, answer = kept(environment)
    assert question.startswith("hello at")
    assert answer


def test_stopped_and_continued_it_paints_all_of_the_screen_again_and_can_be_left(
    answering: pexpect.spawn[bytes],
) -> None:
    answering.kill(signal.SIGSTOP)
    answering.kill(signal.SIGCONT)
    answering.expect_exact(b"\x1b[?1049h")
    answering.expect_exact(b"rite a message")  # the cursor stands on the first letter
    answering.sendcontrol("q")
    answering.expect(pexpect.EOF)
    answering.close()
    assert answering.exitstatus == 0
