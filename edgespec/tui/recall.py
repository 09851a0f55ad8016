"""What was sent before, to be sent again."""

from __future__ import annotations

from collections.abc import Sequence


class Recall:
    """Walks through what was said, the latest first, and back to what was being written."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._at = 0
        self._writing = ""

    def begin_with(self, earlier: Sequence[str]) -> None:
        """What was said before this program began, the oldest first."""
        self._said[:0] = earlier
        self._at = len(self._said)

    def add(self, text: str) -> None:
        if self._said[-1:] != [text]:
            self._said.append(text)
        self._at = len(self._said)

    def older(self, writing: str) -> str | None:
        """What was said before that which is shown; None if there is nothing. `writing` is what stands there now."""
        if self._at == 0:
            return None
        if self._at == len(self._said):
            self._writing = writing
        self._at -= 1
        return self._said[self._at]

    def newer(self) -> str | None:
        """What was said after that, at last what was being written; None if that is shown already."""
        if self._at == len(self._said):
            return None
        self._at += 1
        return self._writing if self._at == len(self._said) else self._said[self._at]
