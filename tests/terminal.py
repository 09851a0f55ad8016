"""app.py on a pseudo-terminal, driven by keys."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, sleep

import pexpect
import pyte

APP = Path(__file__).resolve().parents[1] / "app.py"
ROWS, COLUMNS = 40, 120
PATIENCE = 60
"""Seconds until a test gives up on a screen: these machines are shared. Nothing waits so long that works."""


class Terminal:
    """app.py on a pseudo-terminal, and the screen that its bytes paint."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        environment = {**environment, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
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


def ready(text: str) -> bool:
    """Whether the model is there."""
    return "runs on" in text
