"""The line above the prompt: what the app is doing, and in narrow terminals the figures too."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from edgespec.chat.screen import printable
from edgespec.tui import figures


class Status(Horizontal):
    """Two texts, each of one line."""

    def __init__(self) -> None:
        super().__init__()
        self._activity = Static(id="activity")
        self._summary = Static(id="summary")

    def compose(self) -> ComposeResult:
        yield self._activity
        yield self._summary

    def doing(self, what: str, fraction: float | None = None) -> None:
        """Say what goes on; an empty text when nothing does."""
        text = Content(printable(what))
        if fraction is not None:
            text = Content.assemble(figures.bar(fraction, 16), f" {fraction * 100:.0f} %  ", text)
        self._activity.update(text)

    def summarize(self, text: str) -> None:
        self._summary.update(Content(printable(text)))
