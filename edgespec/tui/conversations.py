"""The conversations that are kept: to search, resume, rename, delete and export."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import ClassVar, TypeVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from edgespec.chat.screen import printable
from edgespec.conversations.conversation import Conversation
from edgespec.conversations.database import reason
from edgespec.conversations.export import free_name, save, when
from edgespec.conversations.recorder import Recorder
from edgespec.conversations.store import ConversationStore, Found
from edgespec.errors import EdgespecError
from edgespec.tui.dialog import Dialog

T = TypeVar("T")

LISTED = 200
"""More would hold the screen up, and nobody reads them."""

_KEYS = "⏎ resumes · F2 renames · Del deletes · ^Z brings back · ^S exports · Esc closes"
_FORMATS = "⏎ writes Markdown; a name that ends in .json has all branches, tokens and figures · Esc goes back"


class Conversations(Dialog[Conversation]):
    """Lists what has every word that is typed; its result is the conversation to resume."""

    DEFAULT_CSS = """
    Conversations OptionList {
        height: 24;
        max-height: 75%;
        padding: 0;
        border: none;
        background: $surface;
    }
    Conversations Input {
        margin: 0 0 1 0;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move('cursor_up')", show=False, priority=True),
        Binding("down", "move('cursor_down')", show=False, priority=True),
        Binding("pageup", "move('page_up')", show=False, priority=True),
        Binding("pagedown", "move('page_down')", show=False, priority=True),
        Binding("f2", "rename", "Rename"),
        Binding("delete,ctrl+d", "delete", "Delete", priority=True),
        Binding("ctrl+z", "undo", "Undo"),
        Binding("ctrl+s", "export", "Export"),
    ]

    def __init__(self, recorder: Recorder, words: str = "") -> None:
        super().__init__()
        self._recorder, self._words = recorder, words
        self._store: ConversationStore | None = None
        self._opening = Lock()
        self._found: list[Found] = []
        self._deleted: list[Found] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = "Conversations"
            yield Input(self._words, placeholder="Search in all that was said", compact=True)
            options = OptionList(markup=False)
            options.can_focus = False  # what is typed goes to the search
            yield options
            yield Static("", classes="hint", id="count")
            yield Static(_KEYS, classes="hint")

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self._search(self._words)

    async def on_unmount(self) -> None:
        if self._store is not None:
            self._store.close()

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._search(event.value)

    @work(exclusive=True, group="search")
    async def _search(self, query: str, stay: str | None = None) -> None:
        """Show what is found; with `stay`, an id, highlighted if it is there."""
        found = await self._ask(lambda store: store.search(query))
        if found is None:
            return
        self._found = found[:LISTED]
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options(Option(_row(one, self._recorder.conversation.id), id=one.id) for one in self._found)
        ids = [one.id for one in self._found]
        options.highlighted = ids.index(stay) if stay in ids else 0 if found else None
        count = f"{len(found)} conversation{'s' * (len(found) != 1)}"
        if len(found) > LISTED:
            count += f", of which the latest {LISTED} are listed"
        self.query_one("#count", Static).update(
            Content(count if found else "nothing was found" if query else "none yet")
        )

    async def _ask(self, job: Callable[[ConversationStore], T]) -> T | None:
        """What `job` returns, out of a thread; None, which is explained, if it fails."""
        directory = self._recorder.directory
        if directory is None:
            return None

        def run() -> T:
            self._recorder.flush()
            with self._opening:
                self._store = self._store or ConversationStore(directory)
            return job(self._store)

        try:
            return await asyncio.to_thread(run)
        except (sqlite3.Error, OSError) as error:
            self._say(f"The conversations cannot be had: {reason(error, directory)}.")
        except EdgespecError as error:
            self._say(str(error))
        return None

    def _say(self, text: str, *, title: str = "") -> None:
        self.notify(printable(text), markup=False, title=title)

    def _highlighted(self) -> Found | None:
        at = self.query_one(OptionList).highlighted
        return None if at is None or at >= len(self._found) else self._found[at]

    def action_move(self, action: str) -> None:
        getattr(self.query_one(OptionList), f"action_{action}")()

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    async def _chosen(self) -> None:
        if (one := self._highlighted()) is not None:
            conversation = await self._ask(lambda store: store.load(one.id))
            if conversation is not None:
                self.dismiss(conversation)

    def action_rename(self) -> None:
        if (one := self._highlighted()) is None:
            return

        def renamed(title: str | None) -> None:
            if title:
                self._recorder.rename(one.id, " ".join(title.split()))
                self._again(one.id)

        self.app.push_screen(Line("Rename", one.title, "⏎ keeps it · Esc leaves it as it was"), renamed)

    def action_delete(self) -> None:
        one = self._highlighted()
        if one is None:
            return
        if one.id == self._recorder.conversation.id:
            self._say("This conversation is open. Begin a new one with Ctrl+N, or open another, before you delete it.")
            return
        self._recorder.trash(one.id)
        self._deleted.append(one)
        self._say(f"Deleted “{one.title}”. Ctrl+Z brings it back.")
        at = self._found.index(one)
        beside = [*self._found[at + 1 : at + 2], *self._found[at - 1 : at]]
        self._again(beside[0].id if beside else None)

    def action_undo(self) -> None:
        if self._deleted:
            one = self._deleted.pop()
            self._recorder.bring_back(one.id)
            self._again(one.id)
        else:
            self._say("Nothing has been deleted here.")

    def _again(self, stay: str | None) -> None:
        self._search(self.query_one(Input).value, stay)

    async def action_export(self) -> None:
        if (one := self._highlighted()) is None:
            return
        conversation = await self._ask(lambda store: store.load(one.id))
        if conversation is None:
            return

        async def named(path: str | None) -> None:
            if path and (written := await self._ask(lambda _: save(conversation, Path(path)))) is not None:
                self._say(f"Wrote {written}")

        self.app.push_screen(Line("Export", str(free_name(conversation)), _FORMATS), named)


class Line(Dialog[str]):
    """Asks for a line, which begins as `text`: another title, or the name of a file."""

    def __init__(self, heading: str, text: str, hint: str) -> None:
        super().__init__()
        self._heading, self._text, self._hint = heading, text, hint

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = self._heading
            yield Input(printable(self._text), max_length=1000, select_on_focus=False, compact=True)
            yield Static(self._hint, classes="hint")

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())


def _row(one: Found, current: str) -> Content:
    said = one.excerpt or f"{one.messages} messages"
    return Content.assemble(
        ("* " if one.id == current else "  ", "$primary"),
        (printable(one.title), "bold"),
        "\n  ",
        (f"{when(one.updated)} · {printable(one.model or 'not answered')} · {said}", "$foreground 60%"),
    )
