"""The terminal as a driver has it, which may go away while the chat runs: a dropped connection, a closed window."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from textual.drivers.linux_driver import LinuxDriver


class LastingDriver(LinuxDriver):
    """Textual's, but that a terminal that is gone, or was another's for a while, holds up nothing.

    There, a write that fails ends the thread that writes, and the app waits forever to hand it one more as soon as its
    queue is full. SIGCONT, which the kernel also sends behind a hangup's SIGHUP, begins queue and threads a second
    time, and those of the first time never end.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._file: IO[str] = _Heedless(self._file)  # pyright: ignore[reportAttributeAccessIssue]

    def _sigcont_application(self, *_: object) -> None:
        if self._must_signal_resume:
            super()._sigcont_application()
        elif self._auto_restart and os.isatty(self.fileno) and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._start_again)

    def _start_again(self) -> None:
        """It was stopped outright: it did not leave the terminal, and others have written there meanwhile."""
        if self._writer_thread is not None and self._writer_thread.is_alive():
            self.suspend_application_mode()
            self.resume_application_mode()
            self._app.refresh(layout=True)

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
