"""The terminal as a driver has it, which may go away while the chat runs: a dropped connection, a closed window."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from textual.drivers.linux_driver import LinuxDriver


class LastingDriver(LinuxDriver):
    """Textual's, but that a terminal that is gone holds up nothing.

    There, a write that fails ends the thread that writes, and the app waits forever to hand it one more as soon as its
    queue is full. The SIGCONT that the kernel sends behind SIGHUP begins the queue and the threads a second time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._file: IO[str] = _Heedless(self._file)  # pyright: ignore[reportAttributeAccessIssue]

    def _sigcont_application(self, *_: object) -> None:
        if os.isatty(self.fileno):
            super()._sigcont_application()

    def run_input_thread(self) -> None:
        with suppress(OSError):  # SIGHUP says so too, and ends the app
            super().run_input_thread()


class _Heedless:
    """A file that takes what it is given, whether or not that arrives."""

    def __init__(self, file: IO[str]) -> None:
        self.fileno: Callable[[], int] = file.fileno
        self._file = file

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()
