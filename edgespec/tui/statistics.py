"""F4: what each answer took, and what passes and proposals cost on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer

from edgespec.chat.screen import printable
from edgespec.tui import figures
from edgespec.tui.engine import Engine
from edgespec.tui.lines import Lines
from edgespec.tui.terminal import figure_seconds
from edgespec.tui.turn import Turn

if TYPE_CHECKING:
    from edgespec.decoding.costs import Costs

_DIM = "$foreground 60%"
_HEADS = ("", "tok", "tok/s", "first", "accepted", "tok/round", "arms, % of rounds")
_WIDTHS = (4, 6, 8, 9, 16, 10)
_BAR = 30


class Statistics(ModalScreen[None]):
    """A table of `turns`, written anew while the last of them runs, and the costs behind the choices of `chat`."""

    HELP = "What each answer took, and what passes and drafts cost on this machine."
    DEFAULT_CSS = """
    Statistics { background: $background; }
    Statistics VerticalScroll { padding: 1 2 0 4; scrollbar-size-vertical: 1; }
    Statistics Footer { background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f4", "dismiss", "Back")]

    def __init__(self, turns: Sequence[Turn], chat: Engine | None) -> None:
        super().__init__()
        self._turns = turns
        self._curve = _curve(chat.costs, exact=chat.exact) if chat is not None else []

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Lines()
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()
        self._write()
        self.set_interval(figure_seconds(), self._write)

    def _write(self) -> None:
        lines = [Content.styled("Answers of this conversation", "bold"), *_table(self._turns), Content("")]
        self.query_one(Lines).show([*lines, *self._curve])


def _table(turns: Sequence[Turn]) -> list[Content]:
    if not turns:
        return [Content.styled("none yet", _DIM)]
    head = "".join(name.rjust(width) for name, width in zip(_HEADS, _WIDTHS, strict=False))
    return [Content.styled(f"{head}  {_HEADS[-1]}", _DIM), *(_row(n, turn) for n, turn in enumerate(turns, 1))]


def _row(number: int, turn: Turn) -> Content:
    stats = turn.stats
    accepted = figures.percent(stats.acceptance) + (f" {stats.accepted}/{stats.tested}" if stats.tested else "")
    cells = [
        str(number),
        str(stats.emitted),
        figures.rate(turn.tokens_per_second),
        figures.seconds(turn.ttft_ms),
        accepted if turn.telling else figures.UNKNOWN,
        figures.per_round(stats.tokens_per_round if turn.telling else None),
    ]
    arms = " · ".join(f"{arm} {figures.percent(n / stats.rounds)}" for arm, n in stats.arms.most_common())
    row = "".join(cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
    return Content(printable(f"{row}  {arms}"))


def _curve(costs: Costs | None, *, exact: bool) -> list[Content]:
    """V(rows): what passes of the target take with a short context, and what the drafters take beside them."""
    title = Content.styled("Cost of a pass by its rows, V(rows)", "bold")
    if costs is None:
        return [title, Content.styled("not measured: there is no draft to weigh against it", _DIM)]
    passes = costs.at(costs.contexts[0], exact=exact)
    rows = [title, Content.styled(f"measured behind {costs.contexts[0]} positions; 1 row is plain decoding", _DIM)]
    for n, ms in enumerate(passes, 1):
        bar = figures.bar(ms / max(passes), _BAR)
        rows.append(Content.assemble((f"{n:>4}  ", _DIM), bar, f"{ms:8.2f} ms {ms / passes[0]:6.2f} plain passes"))
    for name, cost in sorted(costs.drafts.items()):
        parts = f"{cost.fixed:.2f} ms, {cost.token:.2f} for each token, {cost.lag:.2f} for each one to catch up on"
        rows.append(Content(printable(f"draft {name}: {parts}")))
    return rows
