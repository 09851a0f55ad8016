"""What the speculation does, while it does it."""

from __future__ import annotations

from functools import cache
from time import monotonic
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Digits, Static

from edgespec.decoding.stats import Stats
from edgespec.tui import figures
from edgespec.tui.baseline import Baseline
from edgespec.tui.engine import Engine
from edgespec.tui.lines import Lines, render_blank
from edgespec.tui.turn import Turn
from edgespec.tui.turns import Turns

if TYPE_CHECKING:
    import psutil

WIDTH = 28
"""Cells between the sidebar's paddings; styles.tcss gives it as many."""


RECENT = 60
"""Rounds that the sparkline goes back."""

POSITIONS = 6
"""Positions of a draft that have a bar of their own; few drafts get further."""


class Sidebar(VerticalScroll, can_focus=False):
    """Figures of the running turn, or of the last one."""

    render_lines = render_blank

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self._speed = Digits(figures.UNKNOWN, id="speed")
        self._lines = Lines()

    def compose(self) -> ComposeResult:
        yield Static("Speed", classes="heading")
        yield self._speed
        yield self._lines

    def on_mount(self) -> None:
        self.show(None)

    def show(self, chat: Engine | None) -> None:
        """Write every figure anew."""
        turn = self._turns.now
        self._speed.update(figures.rate(turn.tokens_per_second))
        self._lines.show(
            [
                _pair("tokens per second", ""),
                _gain(self._turns.baseline),
                _pair("first token", figures.seconds(turn.ttft_ms)),
                *_section("Draft", _draft(turn)),
                *_section("Time, %", _time(turn)),
                *_section("Context", _context(chat)),
                *_section("Memory", _memory() if chat is not None else [_pair("used", figures.UNKNOWN)]),
                *_section("This chat", _session(self._turns.total)),
                *_model(chat),
            ]
        )


def _section(title: str, lines: list[Content]) -> list[Content]:
    return [Content(""), Content.styled(title, "bold"), *lines]


def _pair(name: str, value: str) -> Content:
    """A name at the left edge, its value at the right one."""
    name = name[: max(WIDTH - len(value) - 1, 0)]
    gap = " " * (WIDTH - len(name) - len(value))
    return Content.assemble((name, "$foreground 60%"), gap, value)


def _share(arm: str, value: str) -> Content:
    """Of the rounds; a long name stands alone, so that it can be read."""
    label = f"rounds: {arm}"
    return _pair(label if len(label) + len(value) < WIDTH else arm, value)


def _gain(baseline: Baseline) -> Content:
    """How much faster than plain decoding, if that was measured here."""
    found = baseline.compare(monotonic())
    if found is None:
        return _pair("against plain", figures.UNKNOWN)
    return _pair(f"{found.times:.2f}x plain ({found.plain:.1f})", figures.age(found.age))


def _draft(turn: Turn) -> list[Content]:
    stats = turn.stats
    reason = Content.styled(turn.reason, "$foreground 60%").wrap(WIDTH) if turn.reason else []
    reason += [Content("")] * (3 - len(reason))  # so that what is below stays where it is
    if not turn.telling:
        return [_pair("accepted", figures.UNKNOWN), _pair("tokens per round", figures.UNKNOWN), *reason]
    tested = f"  {stats.accepted}/{stats.tested}" if stats.tested else ""
    lines = [_pair("accepted", figures.percent(stats.acceptance) + tested)]
    if stats.tested:
        lines.append(_recent(turn))
    lines.append(_pair("tokens per round", figures.per_round(stats.tokens_per_round)))
    for number, position in enumerate(stats.per_position[:POSITIONS], start=1):
        share = position.accepted / position.tested
        bar = figures.bar(share, WIDTH - 9)
        lines.append(Content.assemble((f"{number:<3}", "$foreground 60%"), bar, f"{figures.percent(share):>6}"))
    lines += [_share(arm, figures.percent(n / stats.rounds)) for arm, n in stats.arms.most_common()]
    return [*lines, _pair("draft length now", str(len(turn.rounds[-1].proposed))), *reason]


def _recent(turn: Turn) -> Content:
    """Acceptance over the latest rounds, a cell for every few of them."""
    name = f" last {RECENT}"
    rounds = [(r.accepted, r.tested) for r in turn.rounds[-RECENT:]]
    drawn = figures.sparkline(rounds, WIDTH - len(name), RECENT)
    return Content.assemble((drawn, "$primary"), (name, "$foreground 60%"))


def _time(turn: Turn) -> list[Content]:
    """Where the rounds' time went, as one bar and its legend."""
    shares = turn.time_shares
    names = ("draft", "verify", "loop")
    styles = ("$text-warning", "$text-primary", "$foreground 60%")
    if shares is None:
        return [figures.bar(0, WIDTH), Content.styled("  ".join(names), "$foreground 60%")]
    ends = [round(sum(shares[: i + 1]) * WIDTH) for i in range(3)]
    widths = (ends[0], ends[1] - ends[0], WIDTH - ends[1])
    drawn = Content.assemble(*(("━" * width, style) for width, style in zip(widths, styles, strict=True)))
    legend = [
        Content.assemble((name, style), f" {share * 100:.0f}")
        for name, style, share in zip(names, styles, shares, strict=True)
    ]
    return [drawn, Content("  ").join(legend)]


def _context(chat: Engine | None) -> list[Content]:
    if chat is None:
        return [figures.bar(0, WIDTH), _pair("used", figures.UNKNOWN)]
    used, length = chat.context_used, chat.context_length
    share = used / length
    style = "$error" if share > 0.9 else "$warning" if share > 0.75 else "$primary"
    return [figures.bar(share, WIDTH, style), _pair("used", f"{figures.count(used)} of {figures.count(length)}")]


def _memory() -> list[Content]:
    process, total = _machine()
    return [_pair("used", f"{process.memory_info().rss / 1e9:.1f} of {total / 1e9:.0f} GB")]


@cache
def _machine() -> tuple[psutil.Process, int]:
    """This process, and the bytes of memory there are."""
    import psutil  # the first screen does without

    return psutil.Process(), psutil.virtual_memory().total


def _session(session: Stats) -> list[Content]:
    if not session.rounds:
        return [_pair("tokens", figures.UNKNOWN), _pair("accepted", figures.UNKNOWN)]
    return [_pair("tokens", figures.count(session.emitted)), _pair("accepted", figures.percent(session.acceptance))]


def _model(chat: Engine | None) -> list[Content]:
    if chat is None:
        return []
    kind = f"{chat.device} · {'exact' if chat.exact else 'not exact'}"
    return [Content(""), _pair("model", chat.model), _pair("draft", chat.draft or "none"), _pair("runs on", kind)]
