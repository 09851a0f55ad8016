"""The whole program under a real (pseudo-)terminal, with the default model and real keys."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import pexpect
import pyte
import pytest

from edgespec.bundle import Bundle

APP = Path(__file__).resolve().parents[1] / "app.py"
ROWS, COLUMNS = 40, 120
PATIENCE = 60
"""Seconds until a test gives up on a screen: these machines are shared. Nothing waits so long that works."""


class Terminal:
    """app.py on a pseudo-terminal, and the screen that its bytes paint."""

    def __init__(self) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self.process: pexpect.spawn[bytes] = pexpect.spawn(
            sys.executable, [str(APP)], env=environment, dimensions=(ROWS, COLUMNS), timeout=PATIENCE
        )
        self.raw = b""

    def read(self) -> None:
        try:
            data = self.process.read_nonblocking(1 << 16, timeout=0.1)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return
        self.raw += data
        self._stream.feed(data)

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def until(self, condition: Callable[[str], bool]) -> str:
        deadline = monotonic() + PATIENCE
        while not condition(self.text):
            self.read()
            assert monotonic() < deadline, self.text
        return self.text

    def end(self) -> int | None:
        """Read what is left and return the exit code."""
        deadline = monotonic() + PATIENCE
        while self.process.isalive() and monotonic() < deadline:
            self.read()
            sleep(0.02)
        self.read()
        self.process.close()
        return self.process.exitstatus


@pytest.fixture
def terminal(default_bundle: Bundle) -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.process.close(force=True)


def ready(text: str) -> bool:
    return "smollm2-135m" in text and "ngram" in text


def test_a_chat_from_the_first_key_to_the_last(terminal: Terminal) -> None:
    terminal.until(ready)
    terminal.process.send("Name three rivers.\r")
    terminal.until(lambda text: "tok/s" in text and " tok · " in text)
    assert "Name three rivers." in terminal.text
    terminal.process.send("Write a very long story about one of them.\r")
    terminal.until(lambda text: "Write a very long story" in text and "esc Stop" in text)
    before = terminal.text
    terminal.until(lambda text: text != before)
    terminal.process.send("\x1b")
    terminal.until(lambda text: "(stopped)" in text)
    terminal.process.send("\x11")
    assert terminal.end() == 0
    assert terminal.raw.rstrip().endswith(b"\x1b[?1049l") or b"\x1b[?1049l" in terminal.raw[-400:]


def test_a_signal_restores_the_terminal(terminal: Terminal) -> None:
    terminal.until(ready)
    terminal.process.kill(signal.SIGTERM)
    assert terminal.end() == 128 + signal.SIGTERM
    assert b"\x1b[?1049l" in terminal.raw
