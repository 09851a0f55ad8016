"""An answer token by token: where each came from, as lines of a width."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from rich.cells import cell_len
from textual.content import Content

from edgespec.chat.screen import printable
from edgespec.decoding.stats import Round

Origin = Literal["accepted", "bonus", "correction", "plain", "rejected"]

MARKS: dict[Origin, tuple[str, str]] = {
    "accepted": ("[", "]"),
    "bonus": ("+", ""),
    "correction": ("~", ""),
    "plain": ("", ""),
    "rejected": ("-", "-"),
}
"""What stands around a token where there is no colour."""

STYLES: dict[bool, dict[Origin, str]] = {
    True: {
        "accepted": "#87d787 underline",
        "bonus": "bold #5fd7ff",
        "correction": "#ffd75f",
        "plain": "",
        "rejected": "dim strike",
    },
    False: {
        "accepted": "#006b2d underline",
        "bonus": "bold #00688b",
        "correction": "#8a5a00",
        "plain": "",
        "rejected": "dim strike",
    },
}
"""By whether the theme is dark."""


@dataclass(frozen=True, slots=True)
class Look:
    """How tokens are drawn: `width` in cells; `dark`: the theme; `marked`: with MARKS; `rejected`: those too."""

    width: int
    dark: bool = True
    marked: bool = False
    rejected: bool = False

    def draw(self, text: str, origin: Origin, *, odd: bool = False) -> Content:
        """A token's cell; every other one is shaded, so that one sees where they end."""
        before, after = MARKS[origin] if self.marked else ("", "")
        drawn = Content.styled(before + text + after, STYLES[self.dark][origin])
        return drawn.stylize_before("on $foreground 7%") if odd else drawn


def origins(done: Round) -> Iterator[tuple[int, Origin]]:
    """The tokens of a round in the order of reading: accepted proposals, a rejected one, what the target put there."""
    for token in done.tokens[: done.accepted]:
        yield token, "accepted"
    # A tree's proposals do not stand in the order of the text; of those, only what was accepted is known here.
    if done.tested > done.accepted and done.proposed[: done.accepted] == done.tokens[: done.accepted]:
        yield done.proposed[done.accepted], "rejected"
    for token in done.tokens[done.accepted :]:
        yield token, done.extra or "plain"


@dataclass(slots=True)
class TokenLines:
    """Grows with the rounds of an answer; an update costs what is new. decode: the bytes of a token."""

    look: Look
    decode: Callable[[int], bytes]
    lines: list[Content] = field(default_factory=lambda: [Content("")])
    _room: int = field(init=False)
    _odd: bool = False
    _half: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def __post_init__(self) -> None:
        self._room = self.look.width

    def add(self, done: Round) -> int:
        """Add a round. Returns the number of the first line that changed."""
        first = len(self.lines) - 1
        for token, origin in origins(done):
            data = self.decode(token)
            if origin != "rejected":
                self._put(self._half.decode(data), origin)  # half a character joins the next cell
            elif self.look.rejected:
                self._put(data.decode("utf-8", "replace"), origin)
        return first

    def _put(self, text: str, origin: Origin) -> None:
        if not text:
            return
        self._odd = not self._odd
        *ended, last = printable(text.expandtabs(4)).split("\n")
        for line in ended:
            self._place(f"{line}↵", origin)
            self._break()
        if last:
            self._place(last, origin)

    def _place(self, text: str, origin: Origin) -> None:
        cell = self.look.draw(text, origin, odd=self._odd)
        if cell.cell_length > self._room and self._room < self.look.width:
            self._break()
        for n, part in enumerate(cell.fold(max(self.look.width, 2)) if cell.cell_length > self.look.width else [cell]):
            if n:
                self._break()
            self.lines[-1] += part
            self._room -= cell_len(part.plain)

    def _break(self) -> None:
        self.lines.append(Content(""))
        self._room = self.look.width
