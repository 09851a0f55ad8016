"""The answers of earlier conversations, kept on this machine for drafts to be looked up in. Deleting the file forgets.

A file for each tokenizer, `<hash>.tokens`: token ids as little-endian int32, BREAK behind each text. Nothing in it is
trusted: what is no token of the model reads as BREAK, and the target checks every proposal anyway.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from edgespec.bundle.files import locked, open_plain
from edgespec.decoding.drafters.history import BREAK, CAPACITY, CONTEXTS, Corpus, Ids
from edgespec.errors import ChecksumError

_ID: Final = np.dtype("<i4")
_LATEST: Final = CAPACITY * 3 // 4
"""Ids that are read: a corpus of them has room for those to come."""
_MOST_BYTES: Final = 2 * CAPACITY * _ID.itemsize
"""A file that is longer is rewritten with the latest ids."""


class History:
    """A corpus, and the file that it outlives the program in. What cannot be kept is forgotten with the program:
    `notice` hears of it once."""

    def __init__(
        self, directory: Path, tokenizer_sha256: str, vocab_size: int, notice: Callable[[str], None] = lambda _: None
    ) -> None:
        self.path: Final = directory / f"{tokenizer_sha256[:16]}.tokens"
        self.corpus: Final = Corpus()
        self._notice, self._kept = notice, True
        if not os.path.lexists(self.path):
            return
        with self._tolerant(), open_plain(self.path) as file:
            ids = _latest(file)
            self.corpus.append(np.where((ids >= 0) & (ids < vocab_size), ids, BREAK))

    def remember(self, tokens: Sequence[int], start: int) -> None:
        """Keep what of a conversation's `tokens` stands from `start` on, with as many before as a lookup needs."""
        text = [*tokens[max(start - CONTEXTS[0], 0) :]]
        self.corpus.append(text)
        if self._kept:
            with self._tolerant():
                self._write(np.array([*text, BREAK], _ID).tobytes())

    def _write(self, data: bytes) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.path.parent):
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(self.path, flags, 0o600), "r+b", buffering=0) as file:
                end = os.fstat(file.fileno()).st_size
                end -= end % _ID.itemsize  # a torn id at the end of what was killed while it wrote
                file.truncate(end)
                if file.write(data) != len(data):
                    file.truncate(end)
                    raise OSError("the disk is full")
                if end > _MOST_BYTES:
                    self._shorten(file)

    def _shorten(self, file: BinaryIO) -> None:
        handle, name = tempfile.mkstemp(dir=self.path.parent)  # 0600 too
        try:
            with os.fdopen(handle, "wb") as shorter:
                shorter.write(_latest(file).tobytes())
            Path(name).replace(self.path)
        except OSError:
            Path(name).unlink()
            raise

    @contextlib.contextmanager
    def _tolerant(self) -> Generator[None]:
        try:
            yield
        except (OSError, ChecksumError) as error:
            self._kept = False
            reason = error if isinstance(error, ChecksumError) else error.strerror or error
            self._notice(f"answers are not kept for later drafts: {reason} ({self.path})")


def _latest(file: BinaryIO) -> Ids:
    """The last _LATEST ids of a file, without a torn one at its end."""
    size = os.fstat(file.fileno()).st_size // _ID.itemsize
    file.seek(max(size - _LATEST, 0) * _ID.itemsize)
    return np.frombuffer(file.read(min(size, _LATEST) * _ID.itemsize), _ID).astype(np.int32)
