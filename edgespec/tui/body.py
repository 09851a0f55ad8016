"""The text of an answer."""

from __future__ import annotations

import asyncio

from textual import events
from textual.geometry import Size
from textual.message import Message

from edgespec.chat.screen import printable
from edgespec.tui.lines import Lines

_AHEAD = 8
"""While an answer streams, room is made for what so many paintings will bring: where all that stands above has to move,
all of the transcript is painted, which takes the screen ten times as long as to paint a line."""


class Body(Lines):
    """Markdown that may grow at its end until `finish`."""

    class CodeChosen(Message):
        """The user asks for a copy of `code`."""

        def __init__(self, code: str) -> None:
            super().__init__()
            self.code = code

    def __init__(self) -> None:
        super().__init__()
        from edgespec.tui.document import Document  # the first screen, which has no answer, does not wait for Markdown

        self._document = Document()
        self._pace = 0.0

    @property
    def source(self) -> str:
        """What has come so far, as Markdown."""
        return self._document.source

    @property
    def codes(self) -> list[str]:
        """The code blocks in it."""
        return self._document.codes

    def append(self, text: str) -> None:
        first = self._document.append(printable(text))
        lines = tuple(self._document.lines)
        self._pace += (len(lines) - len(self.lines) - self._pace) / _AHEAD
        room = min(round(self._pace * _AHEAD), self.screen.size.height // 3)
        self.show(lines, first, self.rows if len(lines) <= self.rows else len(lines) + max(room, 0))

    async def finish(self) -> None:
        """Read all of it once more as one document: what was too long to be read again with every update."""
        self._document.finish(await asyncio.to_thread(self._document.whole))
        self.show(tuple(self._document.lines))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        self._fit(width)
        return self.rows

    def on_resize(self, event: events.Resize) -> None:
        self._fit(self.size.width)

    def _fit(self, width: int) -> None:
        if width > 0 and self._document.resize(width):
            self.lines = tuple(self._document.lines)
            self.rows = len(self.lines)
            self.forget()

    def on_click(self, event: events.Click) -> None:
        if event.style.meta.get("copy"):
            self.post_message(self.CodeChosen(self._document.code_at(event.y)))
