"""What leaves the app for the terminal: painted lines and the clipboard. Whatever widget a text came from, it passes
here."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from textual.app import App
from textual.color import Color
from textual.driver import Driver
from textual.filter import ANSIToTruecolor, LineFilter
from textual.notifications import SeverityLevel

from edgespec.chat.screen import printable
from edgespec.tui.terminal import needs_ascii, to_ascii


class Outlet(LineFilter):
    """The last thing that happens to a line. ascii: whether the terminal knows nothing else."""

    def __init__(self, *, ascii: bool) -> None:  # noqa: A002 - the option's name
        super().__init__()
        self._ascii = ascii

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        if not self._ascii and all(text.isprintable() for text, _, _ in segments):
            return segments
        return [Segment(self._put(text), style, control) for text, style, control in segments]

    def _put(self, text: str) -> str:
        shown = text if text.isprintable() else printable(text)
        return to_ascii(shown) if self._ascii else shown


class OutletApp(App[None]):
    """An app of which nothing but text reaches the terminal. ascii: as `Outlet` has it; None lets the locale say."""

    def __init__(self, *, ascii: bool | None = None) -> None:  # noqa: A002 - the option's name
        super().__init__()
        self._outlet = Outlet(ascii=needs_ascii() if ascii is None else ascii)

    def get_driver_class(self) -> type[Driver]:
        driver_class = super().get_driver_class()
        if driver_class.__name__ != "LinuxDriver":  # a browser's, or a system's without hangups
            return driver_class
        from edgespec.tui.driver import LastingDriver

        return LastingDriver

    def get_line_filters(self) -> Sequence[LineFilter]:
        # Each filter copies each painted line. The one that turns ANSI colours into others has nothing to do here.
        others = (found for found in super().get_line_filters() if not isinstance(found, ANSIToTruecolor))
        return [*others, self._outlet]

    def copy_to_clipboard(self, text: str) -> None:
        super().copy_to_clipboard(printable(text))

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """As Textual's, but not markup unless asked for."""
        super().notify(message, title=title, severity=severity, timeout=timeout, markup=markup)
