"""The whole program under a real (pseudo-)terminal, with the default model and real keys."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from terminal import Terminal, ready

from edgespec.bundle import Bundle


@pytest.fixture
def terminal(default_bundle: Bundle) -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.process.close(force=True)


def test_a_chat_from_the_first_key_to_the_last(terminal: Terminal) -> None:
    terminal.until(ready)
    terminal.process.send("Name three rivers.\r")
    terminal.until(lambda text: "tok/s" in text and " tok · " in text)
    assert "Name three rivers." in terminal.text
    terminal.process.send("Write a very long story about one of them.\r")
    terminal.until(lambda text: "Write a very long story" in text and "esc stops" in text)
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
