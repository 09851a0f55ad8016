"""What the speculation does, while it does it."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Digits, Static

from edgespec.decoding.stats import Stats
from edgespec.tui import figures
from edgespec.tui.engine import Engine
from edgespec.tui.turn import Turn

WIDTH = 28
"""Cells between the sidebar's paddings; styles.tcss gives it as many."""


class Sidebar(VerticalScroll, can_focus=False):
    """Figures of the running turn, or of the last one."""

    def __init__(self) -> None:
        super().__init__()
        self._speed = Digits(figures.UNKNOWN, id="speed")
        self._first = Static()
        self._draft = Static()
        self._reason = Static(id="reason")
        self._time = Static()
        self._used = Static()
        self._session = Static()
        self._model = Static()

    def compose(self) -> ComposeResult:
        yield Static("Speed", classes="heading")
        yield self._speed
        yield self._first
        yield Static("Draft", classes="heading")
        yield self._draft
        yield self._reason
        yield Static("Time, %", classes="heading")
        yield self._time
        yield Static("Context", classes="heading")
        yield self._used
        yield Static("This chat", classes="heading")
        yield self._session
        yield self._model

    def on_mount(self) -> None:
        self.show(None, Turn(), Stats())

    def show(self, chat: Engine | None, turn: Turn, session: Stats) -> None:
        """Write every figure anew; `session` counts all rounds of the conversation."""
        self._speed.update(figures.rate(turn.tokens_per_second))
        self._first.update(_lines(_pair("tokens per second", ""), _pair("first token", figures.seconds(turn.ttft_ms))))
        self._draft.update(_draft(turn))
        self._reason.update(Content(turn.reason))
        self._time.update(_time(turn))
        self._used.update(_context(chat))
        self._session.update(_session(session))
        self._model.update(_model(chat))


def _pair(name: str, value: str) -> Content:
    """A name at the left edge, its value at the right one."""
    gap = " " * max(1, WIDTH - len(name) - len(value))
    return Content.assemble((name, "$foreground 60%"), gap, value)


def _lines(*lines: Content) -> Content:
    return Content("\n").join(lines)


def _draft(turn: Turn) -> Content:
    stats = turn.stats
    if not turn.telling:
        return _lines(_pair("accepted", figures.UNKNOWN), _pair("tokens per round", figures.UNKNOWN))
    tested = f"  {stats.accepted}/{stats.tested}" if stats.tested else ""
    lines = [
        _pair("accepted", figures.percent(stats.acceptance) + tested),
        _pair("tokens per round", figures.per_round(stats.tokens_per_round)),
    ]
    for number, position in enumerate(stats.per_position, start=1):
        share = position.accepted / position.tested
        lines.append(
            Content.assemble(
                (f"{number:<3}", "$foreground 60%"), figures.bar(share, WIDTH - 9), f"{figures.percent(share):>6}"
            )
        )
    lines += [_pair(f"rounds: {arm}", figures.percent(n / stats.rounds)) for arm, n in stats.arms.most_common()]
    return _lines(*lines)


def _time(turn: Turn) -> Content:
    """Where the rounds' time went, as one bar and its legend."""
    shares = turn.time_shares
    names = ("draft", "verify", "loop")
    styles = ("$text-warning", "$primary", "$foreground 50%")
    if shares is None:
        return _lines(figures.bar(0, WIDTH), Content.styled("  ".join(names), "$foreground 60%"))
    ends = [round(sum(shares[: i + 1]) * WIDTH) for i in range(3)]
    widths = (ends[0], ends[1] - ends[0], WIDTH - ends[1])
    drawn = Content.assemble(*(("━" * width, style) for width, style in zip(widths, styles, strict=True)))
    legend = [
        Content.assemble((name, style), f" {share * 100:.0f}")
        for name, style, share in zip(names, styles, shares, strict=True)
    ]
    return _lines(drawn, Content("  ").join(legend))


def _context(chat: Engine | None) -> Content:
    if chat is None:
        return _lines(figures.bar(0, WIDTH), _pair("used", figures.UNKNOWN))
    used, length = chat.context_used, chat.context_length
    share = used / length
    style = "$error" if share > 0.9 else "$warning" if share > 0.75 else "$primary"
    return _lines(figures.bar(share, WIDTH, style), _pair("used", f"{figures.count(used)} of {figures.count(length)}"))


def _session(session: Stats) -> Content:
    if not session.rounds:
        return _lines(_pair("tokens", figures.UNKNOWN), _pair("accepted", figures.UNKNOWN))
    return _lines(
        _pair("tokens", figures.count(session.emitted)), _pair("accepted", figures.percent(session.acceptance))
    )


def _model(chat: Engine | None) -> Content:
    if chat is None:
        return Content("")
    kind = f"{chat.device} · {'exact' if chat.exact else 'not exact'}"
    return _lines(_pair("model", chat.model), _pair("draft", chat.draft or "none"), _pair("runs on", kind))
