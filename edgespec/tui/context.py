"""How full the context is, and what is to be done with a message that does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from edgespec.chat.events import Answer, Event, TextDelta
from edgespec.chat.screen import printable
from edgespec.errors import EdgespecError
from edgespec.tui import figures
from edgespec.tui.dialog import Dialog
from edgespec.tui.engine import Engine
from edgespec.tui.prompt import Prompt
from edgespec.tui.transcript import Transcript
from edgespec.tui.workers import explain

if TYPE_CHECKING:
    from edgespec.tui.talk import TalkApp

_WAYS = {
    "drop": "Send it without the oldest turns: the model does not see them any more",
    "summarize": "Send it with a summary in place of the oldest turns: the model writes one first",
    "new": "Send it in a new chat",
    "edit": "Change the message",
}


@dataclass(frozen=True, slots=True)
class Room:
    """What was decided: to send the message after what `words` tell was done, or in a new chat."""

    way: Literal["send", "new"]
    words: str = ""


class ContextScreen(Dialog[Room]):
    """The meter, and for a `message` that does not fit the ways to send it. Nothing is dropped unless it is chosen, and
    what is dropped is dropped from the model's view: the conversation keeps it."""

    DEFAULT_CSS = """
    ContextScreen OptionList {
        height: auto;
        margin: 1 0;
        padding: 0;
        border: none;
        background: $surface;
        &:focus {
            border: none;
        }
    }
    ContextScreen #progress {
        max-height: 8;
    }
    """

    HELP = (
        "The model can see so many tokens at once, the answer included. What no longer fits can be left out or "
        "summarized; the conversation that is kept on this machine loses nothing by it."
    )

    class Made(Message):
        """There is room."""

        def __init__(self, words: str) -> None:
            super().__init__()
            self.words = words

    class Wrote(Message):
        """The summary goes on."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Failed(Message):
        """There is no room."""

        def __init__(self, problem: str) -> None:
            super().__init__()
            self.problem = problem

    def __init__(self, chat: Engine, message: str | None = None, problem: str = "") -> None:
        super().__init__()
        self._chat, self._text, self._problem = chat, message, problem
        self._busy = False
        self._summary = ""

    def compose(self) -> ComposeResult:
        used, length = self._chat.context_used, self._chat.context_length
        with Vertical(classes="box") as box:
            box.border_title = "Context"
            percent = figures.percent(used / length)
            yield Static(Content.assemble(figures.bar(used / length, 30), f" {used} of {length} tokens, {percent}"))
            yield Static(Content(printable(self._problem or "There is room for the next message.")))
            if self._text is not None:
                yield OptionList(*(Option(words, id=way) for way, words in _WAYS.items()))
            yield Static("", id="progress")
            yield Static("Esc goes back; nothing is lost", classes="hint")

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        way = event.option_id
        if self._busy or self._text is None:
            return
        if way == "new":
            self.dismiss(Room("new"))
        elif way == "edit":
            self.dismiss(None)
        else:
            self._busy = True
            self._make_room(self._text, summarize=way == "summarize")

    @work(thread=True, group="room")
    def _make_room(self, text: str, *, summarize: bool) -> None:
        from edgespec.chat.fitting import drop_oldest, summarize_oldest

        try:
            if summarize:
                self._tell(summarize_oldest(self._chat, text))
            else:
                gone = len(drop_oldest(self._chat, text))
                self.post_message(self.Made(f"(the model does not see the {gone} oldest messages any more)"))
        except Exception as error:
            self.post_message(self.Failed(str(explain(error, "No room could be made"))))

    def _tell(self, events: Iterator[Event]) -> None:
        for event in events:
            if isinstance(event, TextDelta):
                self.post_message(self.Wrote(event.text))
            elif isinstance(event, Answer):
                stopped = event.finish_reason == "cancelled"
                words = f"(the model sees this summary in place of the oldest messages)\n{event.text.strip()}"
                self.post_message(self.Failed("Stopped; nothing was changed.") if stopped else self.Made(words))

    @on(Wrote)
    def _wrote(self, message: Wrote) -> None:
        self._summary += message.text
        self._say(self._summary)

    @on(Made)
    def _made(self, message: Made) -> None:
        self.dismiss(Room("send", message.words))

    @on(Failed)
    def _failed(self, message: Failed) -> None:
        self._busy, self._summary = False, ""
        self._say(message.problem)

    def action_close(self) -> None:
        if self._busy:
            self._chat.stop()
        else:
            self.dismiss(None)

    def _say(self, text: str) -> None:
        self.query_one("#progress", Static).update(Content(printable(text)))


def offer_room(app: TalkApp, text: str, error: EdgespecError) -> None:
    """Ask what is to be done with `text`, which does not fit, and do it."""
    if app.chat is None:
        return

    async def decided(room: Room | None) -> None:
        if room is None:
            return
        prompt = app.query_one(Prompt)
        if prompt.message == text:
            prompt.clear()
        if room.way == "new":
            await app.action_new_chat()
        else:
            await app.query_one(Transcript).note(room.words, "footer")
        await app.ask(text)

    app.push_screen(ContextScreen(app.chat, text, str(error)), decided)
