"""Keeps conversations on a thread of its own, so that neither the engine nor the screen waits for a disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Condition, Thread
from time import monotonic, time
from typing import TYPE_CHECKING

from edgespec.errors import EdgespecError

if TYPE_CHECKING:
    from edgespec.conversations.store import ConversationStore

_TRASH_SECONDS = 86400.0
"""What a program that was killed left in the trash is deleted after that time: another may still bring its own back."""

Job = Callable[["ConversationStore"], object]


class Writer:
    """Runs jobs in their order. What cannot be kept is said once, until something can be kept again.

    saved: whether the last job succeeded. May be read from any thread.
    """

    def __init__(self, directory: Path, notice: Callable[[str], None]) -> None:
        self.saved = True
        self._directory, self._notice = directory, notice
        self._store: ConversationStore | None = None
        self._jobs: deque[tuple[Job, bool]] = deque()
        self._changed = Condition()
        self._busy = self._closing = False
        self._thread: Thread | None = None

    def put(self, job: Job, *, passing: bool = False) -> None:
        """Have `job` run soon. A `passing` one that has not begun is left out when the next comes, which knows more."""
        with self._changed:
            if self._jobs and self._jobs[-1][1]:
                self._jobs.pop()
            self._jobs.append((job, passing))
            if self._thread is None:
                # A daemon: a disk that hangs must not keep the program from ending.
                self._thread = Thread(target=self._work, name="conversations", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float = 10.0) -> bool:
        """Wait until everything so far has been tried; False if that took longer than `seconds`."""
        until = monotonic() + seconds
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._busy, until - monotonic())

    def close(self) -> None:
        """Finish what was put, and close the file."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(10.0)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs:
                    break
                job, _ = self._jobs.popleft()
                self._busy = True
            self._run(job)
        if self._store is not None:
            self._store.close()

    def _run(self, job: Job) -> None:
        # Here, on the thread: whoever only begins to chat does not wait for SQLite.
        from edgespec.conversations.database import reason
        from edgespec.conversations.store import ConversationStore

        try:
            if self._store is None:
                self._store = ConversationStore(self._directory, self._notice)
                self._store.delete(self._store.trashed(before=time() - _TRASH_SECONDS))
            job(self._store)
        except EdgespecError as error:
            self._failed(str(error))
        except Exception as error:  # whatever it is, the chat goes on
            self._failed(reason(error, self._directory))
            if self._store is not None:  # opened anew, a damaged file is put aside
                self._store.close()
                self._store = None
        else:
            self.saved = True

    def _failed(self, why: str) -> None:
        if self.saved:
            self.saved = False
            self._notice(f"this conversation is not saved: {why}")
