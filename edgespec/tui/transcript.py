"""The conversation as it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.geometry import Size
from textual.message import Message
from textual.reactive import Reactive
from textual.widget import Widget
from textual.widgets import Static

from edgespec.chat.screen import printable
from edgespec.chat.thinking import ThoughtSplitter, was_opened
from edgespec.tui.body import Body
from edgespec.tui.lines import Lines, render_blank
from edgespec.tui.thoughts import Thoughts

LONGEST = 20_000
"""Characters of a note that are shown at once, because to wrap a million would hold up the screen."""

RETOLD = 10
"""So many turns of an earlier conversation are shown at once: each takes the screen some 40 ms."""

WELCOME = Content.assemble(
    ("edgespec", "bold $primary"),
    ("\n\nA private chat: what you write stays on this machine.", "$foreground 60%"),
)


class Note(Lines):
    """Text in the transcript that is never read as markup. Of a very long one a click shows more and more."""

    def __init__(self, text: str, classes: str) -> None:
        super().__init__(classes=classes)
        self.text = text
        self._shown = LONGEST
        self._wrapped = 0

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        self._fit(width)
        return len(self.lines)

    def on_resize(self) -> None:
        self._fit(self.size.width)

    def _fit(self, width: int) -> None:
        if width > 0 and width != self._wrapped:
            self._wrapped = width
            shown = printable(self.text[: self._shown]).expandtabs(4).split("\n")
            self.lines = [part for line in shown for part in _wrap(line, width)]
            if (more := len(self.text) - self._shown) > 0:
                self.lines.append(Content.styled(f"▸ {more:,} more characters", "$foreground 60%"))
            self.forget()

    def on_click(self) -> None:
        if self._shown < len(self.text):
            self._shown += LONGEST
            self._wrapped = 0
            self.refresh(layout=True)


def _wrap(line: str, width: int) -> list[Content]:
    return [Content(line)] if len(line) <= width and line.isascii() else Content(line).wrap(width)


class AnswerBlock(Vertical):
    """An answer, while it streams and afterwards."""

    render_lines = render_blank
    virtual_size = Reactive(Size(0, 0), layout=False, repaint=False)

    def __init__(self) -> None:
        super().__init__()
        self._thoughts = Thoughts()
        self._body = Body()
        self._splitter = ThoughtSplitter(opened=False)
        self._thought: list[str] = []
        self._answer: list[str] = []
        self._tokens = 0

    def compose(self) -> ComposeResult:
        yield self._thoughts
        yield self._body

    @property
    def text(self) -> str:
        """What is shown of the answer itself so far, as Markdown."""
        return self._body.source

    def append(self, text: str, tokens: int = 0) -> None:
        """Add to what `show` will show."""
        thought, answer = self._splitter.push(text)
        self._thought.append(thought)
        self._answer.append(answer)
        if thought or self._splitter.thinking:
            self._tokens += tokens

    def open_thought(self) -> None:
        """The answer begins inside a thought. Before anything is appended."""
        self._splitter = ThoughtSplitter(opened=True)

    def show(self) -> None:
        """Show what has been appended."""
        thought, answer = "".join(self._thought), "".join(self._answer)
        self._thought.clear()
        self._answer.clear()
        if thought:
            self._thoughts.append(thought, self._tokens)
        if answer:
            self._thoughts.end()
            self._body.append(answer)

    @property
    def code(self) -> str | None:
        """The last code block."""
        return next(reversed(self._body.codes), None)

    async def finish(self, footer: str) -> None:
        """End the answer, with `footer` under it."""
        thought, answer = self._splitter.finish()
        self._thought.append(thought)
        self._answer.append(answer)
        self.show()
        await self._thoughts.finish()
        await self._body.finish()
        await self.mount(Note(footer, "footer"))


@dataclass(frozen=True, slots=True)
class Told:
    """A turn of an earlier time. `footer` stands under the answer."""

    question: str
    answer: str
    footer: str


class Earlier(Static):
    """Stands for turns that are not shown; a click shows them."""

    class Wanted(Message):
        """The user wants to see them."""

    def __init__(self, turns: int) -> None:
        super().__init__(Content(f"▸ {turns} earlier turn{'s' * (turns > 1)} · PageUp"), classes="footer")

    def on_click(self) -> None:
        self.post_message(self.Wanted())


class Transcript(VerticalScroll, can_focus=False):
    """Follows what is new at its end until the user scrolls up."""

    render_lines = render_blank
    virtual_size = Reactive(Size(0, 0), layout=False, repaint=False)
    _answer: AnswerBlock
    """The one that was begun last."""

    def __init__(self) -> None:
        super().__init__()
        self._released = self._telling = False
        self._earlier: list[Told] = []

    def compose(self) -> ComposeResult:
        yield Static(WELCOME, id="welcome")

    def on_mount(self) -> None:
        self.follow()

    async def note(self, text: str, kind: str) -> None:
        """Add plain text: "user", "error" or "footer"."""
        await self._add(Note(text, kind))

    async def begin_answer(self) -> None:
        self._answer = AnswerBlock()
        await self._add(self._answer)

    def append(self, text: str, tokens: int = 0) -> None:
        """Add to the answer that was begun last: so many tokens, from the next `show` on."""
        if self._released and self.scroll_y >= self.max_scroll_y - 1:
            # Being back at the end, by whatever key or wheel, follows again.
            self.follow()
        self._answer.append(text, tokens)

    def show(self) -> None:
        """Show what was added to it."""
        self._answer.show()

    def open_thought(self) -> None:
        """The answer that was begun last begins inside a thought."""
        self._answer.open_thought()

    def release_anchor(self) -> None:
        super().release_anchor()
        self._released = True

    def follow(self) -> None:
        """Go to the end, and stay there."""
        self._released = False
        self.anchor()

    async def end_answer(self, footer: str) -> None:
        await self._answer.finish(footer)

    def copyable(self, *, code: bool) -> str:
        """The text of the last answer that has any, or its last code block; empty where there is none."""
        found = (block.code if code else block.text for block in reversed(self.query(AnswerBlock)))
        return next(filter(None, found), "")

    async def retell(self, turns: Sequence[Told]) -> None:
        """Add earlier turns. Of many only the last are shown, the others when they are asked for."""
        if not self.query_children(AnswerBlock):
            self._earlier += turns
            self._earlier, turns = self._earlier[:-RETOLD], self._earlier[-RETOLD:]
        await self.query("#welcome").remove()
        await self._tell(turns)
        self.follow()

    async def tell_earlier(self) -> None:
        """Show more of the turns before those that are shown, if there are any."""
        if self._earlier and not self._telling:
            self._earlier, turns = self._earlier[:-RETOLD], self._earlier[-RETOLD:]
            first = self.query_children(".user").first()
            self._telling = True
            await self._tell(turns, before=first)
            self._telling = False
            # Once there is a layout with what has come before it.
            self.call_after_refresh(self.scroll_to_widget, first, top=True, animate=False)

    async def _tell(self, turns: Sequence[Told], before: Widget | None = None) -> None:
        blocks = [(Note(turn.question, "user"), AnswerBlock()) for turn in turns]
        await self.query(Earlier).remove()
        await self.mount_all([block for pair in blocks for block in pair], before=before)
        if self._earlier:
            await self.mount(Earlier(len(self._earlier)), before=0)
        for turn, (_, block) in zip(turns, blocks, strict=True):
            if was_opened(turn.answer):
                block.open_thought()
            block.append(turn.answer)
        await asyncio.gather(*(block.finish(turn.footer) for turn, (_, block) in zip(turns, blocks, strict=True)))

    @on(Earlier.Wanted)
    async def _earlier_wanted(self) -> None:
        await self.tell_earlier()

    async def clear(self) -> None:
        """Show an empty conversation."""
        self._earlier = []
        await self.remove_children()
        await self.mount_all(self.compose())

    async def keep_turns(self, number: int) -> None:
        """Remove what stands behind so many questions and their answers."""
        asked = [*self.query_children(".user").exclude(".unsent")]
        shown = max(number - len(self._earlier), 0)
        del self._earlier[number:]
        if shown < len(asked):
            await self.remove_children(self.children[self.children.index(asked[shown]) :])

    def mark_unsent(self) -> None:
        """The last question was not answered at all; its text is in the prompt again."""
        self.query_children(".user").last().add_class("unsent")

    async def _add(self, block: Note | AnswerBlock) -> None:
        await self.query("#welcome").remove()
        await self.mount(block)
        self.follow()
