"""F3: where each token of an answer came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

from edgespec.chat.screen import printable
from edgespec.tui import figures
from edgespec.tui.lines import Lines
from edgespec.tui.terminal import Pace, frame_seconds
from edgespec.tui.tokens import Look, Origin, TokenLines, origins
from edgespec.tui.turn import Turn

_ORDER: tuple[Origin, ...] = ("accepted", "bonus", "correction", "plain", "rejected")


class TokenView(ModalScreen[None]):
    """Shows one of `turns`, at first the one at `shown`; also while it grows."""

    HELP = "An answer token by token: where each came from. With r, also what was proposed and rejected."
    DEFAULT_CSS = """
    TokenView { background: $background; }
    TokenView #legend { height: auto; padding: 1 2 0 4; }
    TokenView VerticalScroll { padding: 1 2 0 4; scrollbar-size-vertical: 1; }
    TokenView Footer { background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f3", "dismiss", "Back"),
        Binding("r", "rejected", "Show rejected"),
        Binding("p,left", "turn(-1)", "Previous answer"),
        Binding("n,right", "turn(1)", "Next answer"),
    ]

    def __init__(self, turns: Sequence[Turn], shown: int) -> None:
        super().__init__()
        self._turns = turns
        self._shown = shown
        self._rejected = False
        self._read = 0
        self._counts: Counter[Origin] = Counter()
        self._tokens: TokenLines | None = None

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(id="legend")
            with VerticalScroll():
                yield Lines()
        yield Footer()

    def on_mount(self) -> None:
        self._lines, self._legend = self.query_one(Lines), self.query_one("#legend", Static)
        self._scroll = self.query_one(VerticalScroll)
        self._scroll.focus()
        self._pace = Pace()
        self.set_timer(frame_seconds(), self._grow_on)
        self.call_after_refresh(self._begin)

    def on_resize(self) -> None:
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """Draw the answer from its first token on."""
        self._read = 0
        self._counts.clear()
        theme = self.app.current_theme
        look = Look(
            max(self._lines.size.width, 1), theme.dark, self.app.no_color or self.app.native_ansi_color, self._rejected
        )
        self._tokens = TokenLines(look, self._turns[self._shown].decode)
        self._grow(anew=True)

    def _grow_on(self) -> None:
        self._grow()
        self.set_timer(self._pace.wait(), self._grow_on)

    def _grow(self, *, anew: bool = False) -> None:
        turn, tokens = self._turns[self._shown], self._tokens
        new = turn.rounds[self._read :]
        if tokens is None or not (new or anew):
            return
        first = 0 if anew else len(tokens.lines) - 1
        for done in new:
            tokens.add(done)
            self._counts.update(origin for _, origin in origins(done))
        self._read += len(new)
        follow = turn.state == "running" and self._scroll.scroll_y >= self._scroll.max_scroll_y - 1
        self._lines.show(tuple(tokens.lines), first)
        if follow:
            self._scroll.scroll_end(animate=False)
        self._legend.update(self._head(turn, tokens.look))

    def _head(self, turn: Turn, look: Look) -> Content:
        title = f"Answer {self._shown + 1} of {len(self._turns)} · {turn.stats.emitted} tok"
        question = printable(" ".join(turn.text.split()))
        unknown = () if not turn.note else ("rejected",) if turn.rounds else _ORDER
        counts = {o: figures.UNKNOWN if o in unknown else str(self._counts[o]) for o in _ORDER}
        cells = [Content.assemble(look.draw(o, o), f" {counts[o]}") for o in _ORDER]
        lines = [
            Content.assemble((title, "bold"), f"  {question}").truncate(look.width, ellipsis=True),
            Content("   ").join(cells),
        ]
        if turn.note:
            lines.append(Content.styled(printable(turn.note), "$foreground 60%"))
        return Content("\n").join(lines)

    def action_rejected(self) -> None:
        self._rejected = not self._rejected
        self._begin()

    def action_turn(self, step: int) -> None:
        shown = min(max(self._shown + step, 0), len(self._turns) - 1)
        if shown != self._shown:
            self._shown = shown
            self._begin()
