"""Plain files only: opened without following links, hashed, flushed to the disk; and one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Generator
from pathlib import Path
from typing import BinaryIO

from edgespec.errors import ChecksumError

_CHUNK = 1 << 20

Progress = Callable[[str, float], None]
"""Hears (stage, fraction done of the stage, 0..1). What it raises stops the work."""

Fingerprint = tuple[int, int, int, int]
"""(inode, size, mtime_ns, ctime_ns): changes when the file is written to or replaced. ctime cannot be set back."""


def no_progress(stage: str, fraction: float) -> None:
    """Report to nobody."""


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of a plain file.

    Raises: ChecksumError if it is missing, a link, hard-linked from elsewhere, or no regular file.
    """
    try:
        found = path.lstat()
    except (OSError, ValueError) as error:
        raise ChecksumError(f"{path.name} is missing from {path.parent}") from error
    _require_plain(path, found)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def open_plain(path: Path) -> BinaryIO:
    """Open a plain file for reading; nothing that a name could be swapped for is followed or waited on.

    Raises: ChecksumError as `fingerprint` does.
    """
    fingerprint(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ChecksumError(f"{path} cannot be read: {error.strerror}") from error
    try:
        _require_plain(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _require_plain(path: Path, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise ChecksumError(f"{path} is a link, not a plain file")
    if not stat.S_ISREG(found.st_mode):
        raise ChecksumError(f"{path} is not a plain file")
    if found.st_nlink != 1:
        raise ChecksumError(f"{path} is hard-linked from elsewhere, so it could change behind our back")


def sha256(source: BinaryIO, advance: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of what is left in `source`, in hex. `advance` hears the bytes read so far."""
    digest = hashlib.sha256()
    done = 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        done += len(chunk)
        if advance is not None:
            advance(done)
    return digest.hexdigest()


def flush_to_disk(path: Path) -> None:
    """fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(directory: Path) -> Generator[None]:
    """One process at a time is within. The kernel lets go of the lock when the process ends, however it ends."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
