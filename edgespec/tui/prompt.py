"""Where the user writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from edgespec.chat.screen import printable
from edgespec.config.keymap import DEFAULT_KEYS
from edgespec.tui.recall import Recall

_LONGEST = 20_000
"""Characters. A longer text is shown by its size: to lay it out holds up the screen, again with every key."""


class Prompt(TextArea):
    """A text area that grows with its text. Enter sends it; Up and Down at its edges recall what was sent."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send", key_display="⏎", id="send"),
        Binding("shift+enter,ctrl+j", "new_line", "New line", key_display="^j", id="new-line"),
        Binding("pageup", "app.scroll_transcript(-1)", show=False),
        Binding("pagedown", "app.scroll_transcript(1)", show=False),
        Binding("ctrl+end", "app.follow", "Go to the end", show=False),
    ]

    class Submitted(Message):
        """The user sends `text`; the prompt is empty again."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    HELP = (
        "Write a message here. Text that is pasted stays as it is. A line that begins with a slash is a command, "
        "completed with Tab. What is sent waits here again if it could not be sent."
    )

    def __init__(self, keys: Mapping[str, str] = DEFAULT_KEYS) -> None:
        """keys: for the actions send and new-line, as the config has them."""
        super().__init__(
            placeholder="Write a message", soft_wrap=True, tab_behavior="focus", highlight_cursor_line=False
        )
        self._send, self._new_line = keys["send"].split(","), keys["new-line"].split(",")
        self.recall = Recall()
        self._large: dict[str, str] = {}

    def on_key(self, event: events.Key) -> None:
        """Run the bindings above in the order of the keys: Textual would only after the key has bubbled up to the app,
        when what was typed behind it is already there."""
        if event.key in (*self._send, *self._new_line):
            event.stop()
            event.prevent_default()
            if event.key in self._send:
                self.action_submit()
            else:
                self.action_new_line()

    @property
    def message(self) -> str:
        """What would be sent: what stands here, with all of what is shown by its size."""
        text = self.text
        for shown, meant in self._large.items():
            text = text.replace(shown, meant)
        return text

    def action_submit(self) -> None:
        if (text := self.message).strip():
            self.recall.add(text)
            self.post_message(self.Submitted(text))
            self.clear()
            self._large.clear()

    def action_cursor_up(self, select: bool = False) -> None:
        if select or not self.navigator.is_first_wrapped_line(self.cursor_location):
            super().action_cursor_up(select)
        elif (text := self.recall.older(self.text)) is not None:
            self._write(text)

    def action_cursor_down(self, select: bool = False) -> None:
        if select or not self.navigator.is_last_wrapped_line(self.cursor_location):
            super().action_cursor_down(select)
        elif (text := self.recall.newer()) is not None:
            self._write(text)

    def _write(self, text: str) -> None:
        self.load_text(self._bearable(text))
        self.move_cursor(self.document.end)

    def _bearable(self, text: str) -> str:
        """`text`, or what stands for it here until it is sent."""
        if len(text) <= _LONGEST:
            return text
        shown = f"[{len(text):,} characters, text {len(self._large) + 1}]"
        self._large[shown] = text
        return shown

    def action_new_line(self) -> None:
        self.replace("\n", *self.selection, maintain_selection_offset=False)

    def give_back(self, text: str) -> None:
        """Put `text` that could not be sent before what has been written since."""
        self._write(text + self.message)

    def on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()
        # Terminals paste a line end as CR.
        text = printable(event.text.replace("\r\n", "\n").replace("\r", "\n"))
        self.replace(self._bearable(text), *self.selection, maintain_selection_offset=False)
        self.scroll_cursor_visible()
