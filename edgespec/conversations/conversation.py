"""A conversation as a tree: to ask again, or to ask otherwise, begins a branch beside what was there."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from edgespec.chat.screen import printable

TITLE_LENGTH = 60
_LOOKED_AT = 1000
"""Characters of a line: more than a title needs, less than what a paste may have."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A message in the tree, behind `parent` (None: it is a first one). `time`: seconds since the epoch.

    An answer also has its token `ids` and the tokenizer (a SHA-256) that gives them their meaning, `cut` if a stop
    string ended the text before them, the model, draft and system message it was made with, how it ended ("stop",
    "length", "cancelled", "failed"; None: it is being written, or the program was killed) and its figures.
    """

    id: int
    parent: int | None
    role: Literal["user", "assistant"]
    text: str
    time: float
    ids: tuple[int, ...] = ()
    cut: bool = False
    tokenizer: str | None = None
    model: str | None = None
    draft: str | None = None
    system: str | None = None
    finish: str | None = None
    figures: dict[str, Any] | None = None


@dataclass(slots=True)
class Conversation:
    """What was said. `leaf` is the message at the end of the branch that is being read, None before the first."""

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    title: str = ""
    created: float = field(default_factory=time.time)
    entries: dict[int, Entry] = field(default_factory=dict[int, Entry])
    leaf: int | None = None

    def add(self, entry: Entry) -> None:
        """Put `entry` into the tree, in place of its earlier state if it was there."""
        self.entries[entry.id] = entry

    def new_id(self) -> int:
        """For the next entry: 63 bits, larger than all before, hardly ever the same in two processes."""
        now = time.time_ns() // 1_000_000 << 20 | secrets.randbits(20)
        return max(now, max(self.entries, default=0) + 1)

    def path(self) -> list[Entry]:
        """The messages of the branch that is being read, first to last."""
        found: list[Entry] = []
        at = self.leaf
        while at is not None and at in self.entries:
            found.append(self.entries[at])
            at = found[-1].parent
        return found[::-1]

    def children(self, parent: int | None) -> list[Entry]:
        """What follows on a message, the oldest first; what came first of all, for None."""
        return sorted((e for e in self.entries.values() if e.parent == parent), key=lambda e: e.id)

    def branches(self) -> list[int]:
        """The ends of all branches, those that have more in common nearer to each other."""
        followed: dict[int | None, list[Entry]] = {}
        for entry in sorted(self.entries.values(), key=lambda e: e.id, reverse=True):
            followed.setdefault(entry.parent if entry.parent in self.entries else None, []).append(entry)
        ends: list[int] = []
        waiting = followed.get(None, [])
        while waiting:
            entry = waiting.pop()
            behind = followed.get(entry.id)
            if behind is None:
                ends.append(entry.id)
            else:
                waiting.extend(behind)
        return ends

    def branch(self) -> tuple[int, int]:
        """Which of how many branches is read; 0 where the leaf is not at the end of one."""
        ends = self.branches()
        return (ends.index(self.leaf) + 1 if self.leaf in ends else 0), len(ends)


def title_of(text: str) -> str:
    """The first line that says something, without what only marks it up, cut between words."""
    lines = (" ".join(printable(line[:_LOOKED_AT]).split()).strip("#>*-` ") for line in text.splitlines())
    title = next((line for line in lines if line), "untitled")
    if len(title) <= TITLE_LENGTH:
        return title
    kept = title[:TITLE_LENGTH]
    return (kept.rsplit(" ", 1)[0] if " " in kept[TITLE_LENGTH // 2 :] else kept) + "…"


def excerpt(text: str, terms: Iterable[str], width: int = 80) -> str:
    """`width` characters around the first of `terms` in `text`, on one line."""
    line = " ".join(printable(text).split())
    low = line.lower()
    places = [at for term in terms if (at := low.find(term.lower())) >= 0]
    start = max(min(places, default=0) - width // 3, 0)
    start = max(min(start, len(line) - width), 0)
    return ("…" if start else "") + line[start : start + width] + ("…" if start + width < len(line) else "")
