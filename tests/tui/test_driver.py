"""The driver on a real terminal that is closed under it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch

import pytest

pytest.importorskip("termios", reason="there are no such terminals")

from textual.message import Message

from edgespec.tui.driver import LastingDriver

SECONDS = 60.0
"""A thread that has not ended by then waits for something that does not come."""


class App:
    """As much of one as a driver needs."""

    def __init__(self) -> None:
        self.panics: list[object] = []
        self.painted = 0

    async def _post_message(self, _message: Message) -> bool:
        return True

    def panic(self) -> None: ...

    def refresh(self, *, layout: bool) -> None:
        self.painted += layout

    def call_later(self, *said: object) -> None:
        self.panics.append(said)


@pytest.fixture
def far_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileIO]:
    """Of a terminal that is ours."""
    ours, theirs = os.openpty()
    with FileIO(ours, "r+") as far_end, FileIO(theirs, "r+") as terminal:
        screen = Path(os.ttyname(theirs)).open("w")  # noqa: SIM115 - to close it fails where the terminal is gone
        monkeypatch.setattr(sys, "__stdin__", terminal)
        monkeypatch.setattr(sys, "__stderr__", screen)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)}
        yield far_end
        for number, handler in handlers.items():
            signal.signal(number, handler)
        with suppress(OSError):
            screen.close()


def threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("textual-"))


def leave(driver: LastingDriver) -> None:
    """Stop `driver` as an app that ends; fails if that waits forever."""

    def stop() -> None:
        for line in range(100):
            driver.write(f"more than its queue holds: {line}\n")
        driver.stop_application_mode()
        driver.close()

    thread = Thread(target=stop, daemon=True)
    with patch("signal.signal"):  # only the main thread may call it; `far_end` sees to the handlers
        thread.start()
        thread.join(SECONDS)
    assert not thread.is_alive()


async def running(app: Any) -> LastingDriver:
    driver = LastingDriver(app, size=(80, 24))
    driver.start_application_mode()
    await asyncio.sleep(0)  # it posts the terminal's size
    return driver


def test_a_terminal_that_is_gone_holds_up_nothing(far_end: FileIO) -> None:
    async def hang_up() -> tuple[App, list[str]]:
        app = App()
        driver = await running(app)
        assert threads() == ["textual-input", "textual-output"]
        far_end.close()
        driver._sigcont_application()  # the kernel's, behind SIGHUP
        begun = threads()
        leave(driver)
        return app, begun

    app, begun = asyncio.run(hang_up())
    assert set(begun) <= {"textual-input", "textual-output"}
    assert len(set(begun)) == len(begun)
    assert not threads()
    assert not app.panics


def test_what_is_written_arrives(far_end: FileIO) -> None:
    async def write() -> bytes:
        driver = await running(App())
        read = b""

        def take() -> None:
            nonlocal read
            while b"\x1b[?1004l" not in read:
                read += far_end.read(4096)

        taker = Thread(target=take, daemon=True)
        taker.start()
        leave(driver)
        taker.join(SECONDS)
        return read

    read = asyncio.run(write())
    assert b"more than its queue holds: 99" in read
    assert not threads()


def test_continued_it_begins_anew_and_paints_everything(far_end: FileIO) -> None:
    async def stop() -> tuple[App, list[str]]:
        app = App()
        driver = await running(app)
        first = {thread for thread in threading.enumerate() if thread.name.startswith("textual-")}
        driver._sigcont_application()
        await asyncio.sleep(0)
        begun = threads()
        assert not any(thread.is_alive() for thread in first)
        far_end.close()
        leave(driver)
        driver._sigcont_application()  # too late
        await asyncio.sleep(0)
        return app, begun

    app, begun = asyncio.run(stop())
    assert begun == ["textual-input", "textual-output"]
    assert not threads()
    assert app.painted == 1
