"""The line above the transcript: what the conversation is called, and which of its branches is read."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from edgespec.chat.screen import printable
from edgespec.conversations.recorder import Recorder


class Heading(Horizontal):
    """Not there while nothing has been said."""

    DEFAULT_CSS = """
    Heading {
        width: 100%;
        height: 1;
        padding: 0 2 0 4;
        color: $foreground 60%;
        background: $surface;
        display: none;
    }
    Heading > #title {
        width: 1fr;
        text-wrap: nowrap;
        text-overflow: ellipsis;
    }
    Heading > #place {
        width: auto;
    }
    Screen.-narrow Heading {
        padding: 0 2;
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._title = Static(id="title")
        self._place = Static(id="place")
        self._shown = ("", "")

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._place

    def show(self, recorder: Recorder) -> None:
        title, place = printable(recorder.conversation.title), "  ".join(_place(recorder))
        if (title, place) != self._shown:
            self._shown = (title, place)
            self._title.update(Content(title))
            self._place.update(Content(place))
            self.display = bool(title)


def _place(recorder: Recorder) -> list[str]:
    place: list[str] = []
    number, of = recorder.conversation.branch()
    if of > 1:
        place.append(f"branch {number}/{of}")
    if recorder.directory is None:
        place.append("not kept")
    elif not recorder.saved:
        place.append("not saved")
    return place
