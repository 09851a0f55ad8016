"""How numbers are written on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from edgespec.chat.events import Answer
from edgespec.chat.summary import ENDINGS, summarize
from edgespec.tui.engine import Engine
from edgespec.tui.turn import Turn

UNKNOWN = "–"
_BLOCKS = "▁▂▃▄▅▆▇█"


def count(n: int) -> str:
    """940, 3.1k, 128k."""
    if n < 1000:
        return str(n)
    return f"{n / 1000:.1f}k" if n < 99_950 else f"{n / 1000:.0f}k"


def percent(fraction: float | None) -> str:
    return UNKNOWN if fraction is None else f"{fraction * 100:.0f} %"


def rate(tokens_per_second: float | None) -> str:
    return UNKNOWN if tokens_per_second is None else f"{tokens_per_second:.1f}"


def seconds(ms: float | None) -> str:
    return UNKNOWN if ms is None else f"{ms / 1e3:.2f} s"


def per_round(tokens: float | None) -> str:
    return UNKNOWN if tokens is None else f"{tokens:.1f}"


def bar(fraction: float, width: int, style: str = "$primary") -> Content:
    """A meter `width` cells wide, filled from the left."""
    filled = round(min(max(fraction, 0.0), 1.0) * width)
    return Content.assemble(("━" * filled, style), ("─" * (width - filled), "$foreground 25%"))


def age(seconds: float) -> str:
    """How long ago something was measured."""
    return f"{seconds:.0f} s ago" if seconds < 100 else f"{seconds / 60:.0f} min ago"


def sparkline(rounds: Sequence[tuple[int, int]], width: int, most: int) -> str:
    """Acceptance (accepted, tested) over the latest `most` rounds, the newest at the right, `width` cells: a cell is
    blank where nothing was tested."""
    cells = [" "] * width
    sums = [[0, 0] for _ in cells]
    for n, (accepted, tested) in enumerate(reversed(rounds)):
        cell = sums[width - 1 - n * width // most]
        cell[0], cell[1] = cell[0] + accepted, cell[1] + tested
    for i, (accepted, tested) in enumerate(sums):
        if tested:
            cells[i] = _BLOCKS[round(accepted / tested * (len(_BLOCKS) - 1))]
    return "".join(cells)


def footer(answer: Answer) -> str:
    """The line under an answer: how it ended, if not by itself, and what it cost."""
    return ENDINGS[answer.finish_reason] + summarize(answer)


def summary(chat: Engine, turn: Turn) -> str:
    """The sidebar in one line, for narrow terminals."""
    parts = [chat.model]
    if turn.telling:
        parts.append(f"{rate(turn.tokens_per_second)} tok/s")
        if turn.stats.tested:
            parts.append(f"{percent(turn.stats.acceptance)} accepted")
    parts.append(f"{count(chat.context_used)}/{count(chat.context_length)}")
    return " · ".join(parts)
