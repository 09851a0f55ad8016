"""What a model thought before it answered, folded into one line until somebody wants to read it."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Size
from textual.reactive import Reactive

from edgespec.tui import figures
from edgespec.tui.body import Body
from edgespec.tui.lines import Lines


class Thoughts(Vertical, can_focus=True):
    """A click or Enter opens and closes it. It is not there while there is no thought."""

    HELP = "What the model thought before it answered. Enter or a click opens and closes it."
    DEFAULT_CSS = """
    Thoughts { height: auto; display: none; color: $foreground 60%; }
    Thoughts:focus > Lines { text-style: bold; color: $primary; }
    Thoughts > Body { display: none; padding: 0 0 0 2; border-left: solid $foreground 20%; }
    Thoughts.-open > Body { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "fold", "Open or close thoughts")]
    virtual_size = Reactive(Size(0, 0), layout=False, repaint=False)

    def __init__(self) -> None:
        super().__init__()
        self._title = Lines()
        self._body = Body()
        self._tokens, self._thinking = 0, True

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._body

    @property
    def source(self) -> str:
        return self._body.source

    def append(self, text: str, tokens: int) -> None:
        """Add to the thought; `tokens` in all, 0 if nobody counted."""
        self._tokens = tokens
        self._body.append(text)
        self.display = True
        self._write()

    def end(self) -> None:
        """The thought does not go on."""
        if self._thinking:
            self._thinking = False
            self._write()

    async def finish(self) -> None:
        self.end()
        await self._body.finish()

    def _write(self) -> None:
        fold = "▾" if self.has_class("-open") else "▸"
        count = f" ({figures.count(self._tokens)} tok)" if self._tokens else ""
        self._title.show([Content(f"{fold} {'thinking' if self._thinking else 'thoughts'}{count}")])

    def action_fold(self) -> None:
        self.toggle_class("-open")
        self._write()

    def on_click(self) -> None:
        self.action_fold()
