"""Tells what a model thinks from what it answers, while it writes."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


class ThoughtSplitter:
    """Splits a text that comes in pieces into the thought that it may begin with and the answer.

    A thought is what stands between OPEN at the very beginning, or before it if `opened`, and CLOSE; it may be that it
    is never closed. Both tags are left out, and so is the space around them. OPEN anywhere else is text like any other.
    """

    def __init__(self, *, opened: bool) -> None:
        self.thinking = opened
        self._decided = opened
        self._held = ""
        self._fresh = True  # nothing of this part was given out yet, so space is left out

    def push(self, text: str) -> tuple[str, str]:
        """(thought, answer) that can be shown now."""
        self._held += text
        if not self._decided:
            self._decide()
        if not self._decided:
            return "", ""
        if not self.thinking:
            return "", self._take(len(self._held))
        end = self._held.find(CLOSE)
        if end < 0:
            return self._take(len(self._held) - _begun(self._held, CLOSE)), ""
        thought = self._take(end).rstrip()
        self._held = self._held[len(CLOSE) :]
        self.thinking, self._fresh = False, True
        return thought, self._take(len(self._held))

    def finish(self) -> tuple[str, str]:
        """The rest."""
        self._decided = True
        rest = self._take(len(self._held))
        return (rest, "") if self.thinking else ("", rest)

    def _decide(self) -> None:
        start = self._held.lstrip()
        if start.startswith(OPEN):
            self._held = start[len(OPEN) :]
            self.thinking = self._decided = True
        else:
            self._decided = not OPEN.startswith(start)
            self._fresh = not self._decided

    def _take(self, size: int) -> str:
        taken, self._held = self._held[:size], self._held[size:]
        if self._fresh:
            taken = taken.lstrip()
            self._fresh = not taken
        return taken


def _begun(text: str, tag: str) -> int:
    """The length of the longest end of `text` that begins `tag`."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-size:])), 0)


def was_opened(text: str) -> bool:
    """Whether a whole answer's thought had been opened before it began."""
    return CLOSE in text and OPEN not in text.split(CLOSE, 1)[0]
