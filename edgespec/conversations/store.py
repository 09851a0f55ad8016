"""Reads and writes conversations. Every method is one transaction; any thread may call."""

from __future__ import annotations

import json
import sqlite3
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, Final

from edgespec.conversations.conversation import Conversation, Entry, excerpt
from edgespec.conversations.database import connect, transaction
from edgespec.errors import UsageError

_INDEXED: Final = 3
"""Characters: a shorter word is looked for in every text, because the index holds groups of three."""

_COLUMNS: Final = "id, parent, role, text, time, ids, cut, tokenizer, model, draft, system, finish, figures"
_LISTED: Final = """SELECT id, title, created, updated,
    (SELECT count(*) FROM message WHERE conversation = c.id),
    (SELECT model FROM message WHERE conversation = c.id AND model IS NOT NULL ORDER BY id DESC LIMIT 1)
    FROM conversation AS c WHERE deleted IS NULL ORDER BY updated DESC"""


@dataclass(frozen=True, slots=True)
class Found:
    """A conversation in a list, or in what a search found: then `excerpt` is where. Times: seconds since the epoch."""

    id: str
    title: str
    created: float
    updated: float
    messages: int
    model: str | None
    excerpt: str = ""


class ConversationStore:
    """The conversations in `directory`. `notice` hears of a damaged file that was put aside.

    Raises, here and in every method: UsageError for what the user can put right; sqlite3.Error and OSError where the
    disk is full, the file is locked, or may not be written. `reason` makes words of those.
    """

    def __init__(self, directory: Path, notice: Callable[[str], None] = lambda _: None) -> None:
        self._lock = RLock()
        self._connection = connect(directory, notice)
        self._connection.create_function("holds", 2, _holds, deterministic=True)
        self._searchable = self._prepare_search()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def keep(self, conversation: Conversation, entries: Iterable[Entry]) -> None:
        """Write the conversation's title and leaf, and those of its entries that are new or were not finished yet.

        What has been deleted in the meantime stays deleted.
        """
        rows = [_row(conversation.id, entry) for entry in entries]
        with self._lock, transaction(self._connection):
            self._connection.execute(
                "INSERT INTO conversation VALUES (?, CAST(? AS TEXT), ?, ?, NULL, ?) ON CONFLICT DO UPDATE SET "
                "updated = excluded.updated, leaf = excluded.leaf",
                (conversation.id, _bytes(conversation.title), conversation.created, time.time(), conversation.leaf),
            )
            self._connection.executemany(
                "INSERT INTO message VALUES (?, ?, ?, ?, CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?, ?, 0) "
                "ON CONFLICT DO UPDATE SET text = excluded.text, ids = excluded.ids, cut = excluded.cut, "
                "tokenizer = excluded.tokenizer, model = excluded.model, draft = excluded.draft, "
                "system = excluded.system, finish = excluded.finish, figures = excluded.figures "
                "WHERE role = 'assistant' AND finish IS NULL",
                rows,
            )
            if self._searchable:
                self._index(conversation.id)

    def settle(self) -> None:
        """Make what was kept outlast a power cut too. Readers are not waited for."""
        with self._lock:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def forget(self, conversation: Conversation, entries: Sequence[int]) -> None:
        """Take back messages to which nothing was said, and a conversation that has no others."""
        these = [(entry,) for entry in entries]
        with self._lock, transaction(self._connection):
            if self._searchable:
                self._connection.executemany("DELETE FROM search WHERE rowid = ?", these)
            self._connection.executemany("DELETE FROM message WHERE id = ?", these)
            self._connection.execute(
                "UPDATE conversation SET leaf = ? WHERE id = ?", (conversation.leaf, conversation.id)
            )
            self._connection.execute(
                "DELETE FROM conversation WHERE id = ? AND NOT EXISTS (SELECT 1 FROM message WHERE conversation = ?)",
                (conversation.id, conversation.id),
            )

    def rename(self, id_: str, title: str) -> None:
        with self._lock, transaction(self._connection):
            self._connection.execute(
                "UPDATE conversation SET title = CAST(? AS TEXT) WHERE id = ?", (_bytes(title), id_)
            )

    def trash(self, id_: str) -> None:
        """Hide a conversation until it is restored or deleted."""
        self._mark_deleted(id_, time.time())

    def restore(self, id_: str) -> None:
        self._mark_deleted(id_, None)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete for good, in such a way that the file does not hold the text any more."""
        if not ids:
            return
        these = [(id_,) for id_ in ids]
        with self._lock:
            with transaction(self._connection):
                if self._searchable:
                    self._connection.executemany(
                        "DELETE FROM search WHERE rowid IN (SELECT id FROM message WHERE conversation = ?)", these
                    )
                    # Deleted words stay in the index until its parts are merged.
                    self._connection.execute("INSERT INTO search(search) VALUES ('optimize')")
                self._connection.executemany("DELETE FROM conversation WHERE id = ?", these)
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def trashed(self, before: float) -> list[str]:
        """The ids of what was put into the trash before a time, in seconds since the epoch."""
        return [row[0] for row in self._read("SELECT id FROM conversation WHERE deleted < ?", before)]

    def list(self) -> list[Found]:
        """All conversations, the latest first."""
        return [Found(*row) for row in self._read(_LISTED)]

    def questions(self, most: int) -> Sequence[str]:
        """What the user said last, in all conversations, the latest behind."""
        rows = self._read(
            "SELECT text FROM message JOIN conversation AS c ON c.id = conversation "
            "WHERE role = 'user' AND deleted IS NULL ORDER BY message.id DESC LIMIT ?",
            most,
        )
        return [row[0] for row in reversed(rows)]

    def search(self, query: str) -> list[Found]:
        """The conversations of which the title, or a message, has every word of `query`, the latest first.

        A word is found inside others too, in capitals or not. Without words, all conversations.
        """
        terms = query.split()
        if not terms:
            return self.list()
        held = " AND ".join("holds(CAST(text AS BLOB), ?)" for _ in terms)
        long = [term for term in terms if len(term) >= _INDEXED and "\0" not in term]
        where, values = held, [*terms]
        if long and self._searchable:
            indexed = "id IN (SELECT rowid FROM search WHERE search MATCH ?)"
            where = f"({indexed} OR indexed = 0) AND {held}"
            values = [" AND ".join('"' + term.replace('"', '""') + '"' for term in long), *terms]
        said = dict(self._read(f"SELECT conversation, text FROM message WHERE {where} ORDER BY id", *values))
        return [
            Found(*row, excerpt=excerpt(said[row[0]], terms) if row[0] in said else "")
            for row in self._read(_LISTED)
            if row[0] in said or all(term.lower() in row[1].lower() for term in terms)
        ]

    def find(self, prefix: str) -> str:
        """The id that begins with `prefix`. UsageError if there is none, or more than one."""
        rows = self._read(
            "SELECT id FROM conversation WHERE deleted IS NULL AND substr(id, 1, ?) = ?", len(prefix), prefix
        )
        if not prefix or not rows:
            raise UsageError(f"there is no conversation {prefix}; `edgespec history list` shows all.")
        if len(rows) > 1:
            some = ", ".join(sorted(row[0] for row in rows)[:3])
            raise UsageError(f"{len(rows)} conversations begin with {prefix} ({some}…): give more of it.")
        return rows[0][0]

    def load(self, id_: str) -> Conversation:
        """UsageError if it has been deleted."""
        heads = self._read("SELECT title, created, leaf FROM conversation WHERE id = ?", id_)
        if not heads:
            raise UsageError("this conversation has been deleted.")
        ((title, created, leaf),) = heads
        rows = self._read(f"SELECT {_COLUMNS} FROM message WHERE conversation = ?", id_)
        entries = {row[0]: _entry(row) for row in rows}
        return Conversation(id_, title, created, entries, leaf if leaf in entries else max(entries, default=None))

    def _prepare_search(self) -> bool:
        """Whether this SQLite has full-text search; else every text is looked at."""
        try:
            self._connection.execute("CREATE VIRTUAL TABLE IF NOT EXISTS search USING fts5(text, tokenize='trigram')")
            self._connection.execute("SELECT rowid FROM search LIMIT 0")
        except sqlite3.OperationalError as error:
            if "no such module" in str(error) or "no such tokenizer" in str(error):
                return False
            raise
        return True

    def _index(self, conversation: str) -> None:
        """Make searchable what is complete."""
        done = "conversation = ? AND indexed = 0 AND (role = 'user' OR finish IS NOT NULL)"
        self._connection.execute(
            f"INSERT INTO search(rowid, text) SELECT id, text FROM message WHERE {done}", (conversation,)
        )
        self._connection.execute(f"UPDATE message SET indexed = 1 WHERE {done}", (conversation,))

    def _mark_deleted(self, id_: str, when: float | None) -> None:
        with self._lock, transaction(self._connection):
            self._connection.execute("UPDATE conversation SET deleted = ? WHERE id = ?", (when, id_))

    def _read(self, statement: str, *values: Any) -> list[Any]:
        with self._lock, closing(self._connection.execute(statement, values)) as rows:
            return rows.fetchall()


def _row(conversation: str, entry: Entry) -> tuple[Any, ...]:
    system = None if entry.system is None else _bytes(entry.system)
    return (
        *(entry.id, conversation, entry.parent, entry.role, _bytes(entry.text), entry.time),
        *(array("i", entry.ids).tobytes(), entry.cut, entry.tokenizer, entry.model, entry.draft, system, entry.finish),
        None if entry.figures is None else json.dumps(entry.figures),
    )


def _entry(row: Sequence[Any]) -> Entry:
    id_, parent, role, text, when, ids, cut, tokenizer, model, draft, system, finish, figures = row
    return Entry(
        *(id_, parent, role, text, when, tuple(array("i", ids)), bool(cut), tokenizer, model, draft, system, finish),
        figures=None if figures is None else json.loads(figures),
    )


def _bytes(text: str) -> bytes:
    """UTF-8, and lone surrogates, which SQLite itself would not take."""
    return text.encode("utf-8", "surrogatepass")


def _holds(text: bytes, term: str) -> bool:
    return term.lower() in text.decode("utf-8", "surrogatepass").lower()
