"""What a command that is being typed could become."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from textual.content import Content
from textual.widgets import Static

from edgespec.chat.screen import printable
from edgespec.commands import COMMANDS, complete

_SHOWN = 6


class Completion(Static):
    """A line for each way on, the first of which Tab takes; gone while there is none."""

    DEFAULT_CSS = """
    Completion {
        display: none;
        height: auto;
        margin: 0 2;
        text-wrap: nowrap;
        text-overflow: ellipsis;
        color: $foreground 70%;
    }
    """

    def __init__(self, arguments: Callable[[], Mapping[str, tuple[str, ...]]]) -> None:
        super().__init__()
        self._arguments = arguments
        self.ways: tuple[str, ...] = ()

    def offer(self, text: str) -> None:
        """Show how `text` could go on."""
        arguments = self._arguments() if text.startswith("/") and " " in text else {}
        self.ways = complete(text, arguments)
        self.display = bool(self.ways)
        if self.ways:
            lines = [_line(way, first=i == 0) for i, way in enumerate(self.ways[:_SHOWN])]
            if (more := len(self.ways) - _SHOWN) > 0:
                lines.append(Content(f"    … {more} more"))
            self.update(Content("\n").join(lines))


def _line(way: str, *, first: bool) -> Content:
    command = COMMANDS.get(way[1:])
    text = way if command is None else f"{command.usage:<26} {command.help}"
    return Content.styled(printable(f"{'Tab' if first else '   '} {text}"), "bold" if first else "")
