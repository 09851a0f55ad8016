"""The conversation as it is read."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from edgespec.chat.screen import printable
from edgespec.tui.markdown import parser

WELCOME = Content.assemble(
    ("edgespec", "bold $primary"),
    ("\n\nA private chat: what you write stays on this machine.", "$foreground 60%"),
)


class Note(Static):
    """Text in the transcript that is never read as markup."""

    def __init__(self, text: str, classes: str) -> None:
        self.text = printable(text)
        super().__init__(Content(self.text), classes=classes)


class AnswerBlock(Vertical):
    """An answer, while it streams and afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self._text: list[str] = []
        self._stream: MarkdownStream | None = None
        self._markdown = Markdown(parser_factory=parser, open_links=False)

    def compose(self) -> ComposeResult:
        yield self._markdown

    @property
    def text(self) -> str:
        """What is shown so far, as Markdown."""
        return "".join(self._text)

    async def append(self, text: str) -> None:
        """Show more of the answer, at the next chance that the screen has."""
        if not text:
            return
        if self._stream is None:
            self._stream = Markdown.get_stream(self._markdown)
        shown = printable(text)
        self._text.append(shown)
        await self._stream.write(shown)

    async def finish(self, footer: str) -> None:
        """End the stream and read all of the answer once more as one document, with `footer` under it."""
        if self._stream is not None:
            await self._stream.stop()
            await self._markdown.update(self.text)
        await self.mount(Note(footer, "footer"))


class Transcript(VerticalScroll, can_focus=False):
    """Follows what is new at its end until the user scrolls up."""

    def __init__(self) -> None:
        super().__init__()
        self._answer = AnswerBlock()

    def compose(self) -> ComposeResult:
        yield Static(WELCOME, id="welcome")

    def on_mount(self) -> None:
        self.anchor()

    async def note(self, text: str, kind: str) -> None:
        """Add plain text: "user", "error" or "footer"."""
        await self._add(Note(text, kind))

    async def begin_answer(self) -> None:
        self._answer = AnswerBlock()
        await self._add(self._answer)

    async def append(self, text: str) -> None:
        """Show more of the answer that was begun last."""
        if self.scroll_y >= self.max_scroll_y - 1:
            # Scrolling released the anchor; being back at the end, by whatever key or wheel, restores it.
            self.anchor()
        await self._answer.append(text)

    async def end_answer(self, footer: str) -> None:
        await self._answer.finish(footer)

    async def clear(self) -> None:
        """Show an empty conversation."""
        await self.remove_children()
        await self.mount_all(self.compose())

    async def keep_turns(self, number: int) -> None:
        """Remove what stands behind so many questions and their answers."""
        asked = [*self.query_children(".user").exclude(".unsent")]
        if number < len(asked):
            await self.remove_children(self.children[self.children.index(asked[number]) :])

    def mark_unsent(self) -> None:
        """The last question was not answered at all; its text is in the prompt again."""
        self.query_children(".user").last().add_class("unsent")

    async def _add(self, block: Note | AnswerBlock) -> None:
        await self.query("#welcome").remove()
        await self.mount(block)
        self.anchor()
