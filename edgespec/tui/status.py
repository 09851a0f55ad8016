"""The line above the prompt: what the app is doing, and in narrow terminals the figures too."""

from __future__ import annotations

from textual import events
from textual.content import Content

from edgespec.chat.screen import printable
from edgespec.tui import figures
from edgespec.tui.lines import Lines


class Status(Lines):
    """One line: what goes on at its left, the summary at its right."""

    def __init__(self) -> None:
        super().__init__()
        self._activity = Content("")
        self._summary = Content("")

    def doing(self, what: str, fraction: float | None = None) -> None:
        """Say what goes on; an empty text when nothing does."""
        self._activity = Content(printable(what))
        if fraction is not None:
            bar = figures.bar(fraction, 16)
            self._activity = Content.assemble(bar, f" {fraction * 100:.0f} %  ", self._activity)
        self._write()

    def summarize(self, text: str) -> None:
        """Say `text` where there is no sidebar."""
        self._summary = Content(printable(text))
        self._write()

    def on_resize(self, event: events.Resize) -> None:
        self._write()

    def _write(self) -> None:
        if not self.is_attached:  # the app closes
            return
        width = self.size.width
        summary = self._summary if self.screen.has_class("-narrow") else Content("")
        activity = self._activity.truncate(max(width - summary.cell_length - 2, 0), ellipsis=True)
        gap = " " * max(width - activity.cell_length - summary.cell_length, 0)
        self.show([Content.assemble(activity, gap, summary)])
