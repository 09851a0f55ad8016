"""The SQLite file: private, migrated forward, never downgraded, put aside when it is damaged."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

from edgespec.bundle.files import fingerprint, locked
from edgespec.conversations import FILE
from edgespec.errors import UsageError

_BUSY_SECONDS: Final = 5.0
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

MIGRATIONS: Final[list[tuple[str, ...]]] = [
    (
        """CREATE TABLE conversation (
            id TEXT PRIMARY KEY, title TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
            deleted REAL, leaf INTEGER) WITHOUT ROWID""",
        """CREATE TABLE message (
            id INTEGER PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
            parent INTEGER, role TEXT NOT NULL, text TEXT NOT NULL, time REAL NOT NULL, ids BLOB NOT NULL,
            cut INTEGER NOT NULL, tokenizer TEXT, model TEXT, draft TEXT, system TEXT, finish TEXT, figures TEXT,
            indexed INTEGER NOT NULL DEFAULT 0)""",
        "CREATE INDEX message_of ON message(conversation)",
        "CREATE INDEX message_unindexed ON message(id) WHERE indexed = 0",
    ),
]
"""What makes each version out of the one before; `user_version` says how many have been applied. Never edited."""


def connect(directory: Path, notice: Callable[[str], None]) -> sqlite3.Connection:
    """Open the file in `directory`, making both where they are missing. A damaged file is renamed, which `notice` is
    told, and a new one begun.

    Raises: UsageError for a file of a later version; ChecksumError for what is no plain file; sqlite3.Error, OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    path = directory / FILE
    with locked(directory):
        try:
            return _open(path)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
        aside = _put_aside(path)
        notice(f"the conversations' file was damaged: it is now {aside}, and a new one has been begun")
        return _open(path)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is wrong, rather than the disk, the rights or another process."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def _open(path: Path) -> sqlite3.Connection:
    # SQLite would make the file readable for others; its -wal and -shm get the file's own rights.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    fingerprint(path)
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.text_factory = _text
        version = _version(connection, path)
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
        if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise _damaged(found)
        if version < len(MIGRATIONS):
            _migrate(connection, version)
    except BaseException:
        connection.close()
        raise
    return connection


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _damaged(found: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(found)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise UsageError(
            f"{path} was written by a later version of edgespec (format {version}, this one knows "
            f"{len(MIGRATIONS)}), so it is left alone; install that version to read it."
        )
    return version


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    with transaction(connection):
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """All of it, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _put_aside(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"damaged-{stamp}-{os.getpid()}.sqlite3")
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def reason(error: Exception, directory: Path) -> str:
    """Why something could not be kept or read, in words."""
    code = getattr(error, "sqlite_errorcode", -1) & 0xFF
    said = {
        sqlite3.SQLITE_FULL: "the disk is full",
        sqlite3.SQLITE_BUSY: "another program holds the file locked",
        sqlite3.SQLITE_READONLY: "the file may not be written",
        sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
        sqlite3.SQLITE_CORRUPT: "the file is damaged",
        sqlite3.SQLITE_NOTADB: "the file is damaged",
    }.get(code)
    return f"{said or (isinstance(error, OSError) and error.strerror) or error} ({directory / FILE})"
