"""A Markdown document that grows at its end, as lines of a width. What an update costs does not depend on how much is
there already: only the last unit (block, or item of a list) is read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from textual.content import Content

from edgespec.tui import markdown
from edgespec.tui.markdown import Unit

_LONGEST = 4000
_LONGEST_SLOW = 600
"""Characters of a unit that are read again with each update. What precedes them is settled, and may look a little
different until `finish`. Code, which is highlighted, and tables take longer to read."""

_OPENING = {"fence": 1, "table": 2, "code_block": 0}
"""Units that take longer, and how many of their first lines tell how to read the others."""


class Document:
    """Text that comes in pieces, and its `lines` from the first `resize` on."""

    def __init__(self) -> None:
        self.lines: list[Content] = []
        self.finished = False
        self._width = 0
        self._pieces: list[str] = []
        self._parser = markdown.parser()
        self._begin()

    def _begin(self) -> None:
        self.lines = []
        self._settled = 0  # so many lines stay as they are
        self._tail = ""  # what comes behind them
        self._cut = False  # whether that is the end of a unit too long to be read again
        self._context = ""  # the lines that have to precede it then

    @property
    def source(self) -> str:
        return "".join(self._pieces)

    @property
    def codes(self) -> list[str]:
        """The code blocks, as they would be copied."""
        return markdown.codes(self.source)

    def code_at(self, line: int) -> str:
        """The code block that `lines[line]` is part of."""
        return self.codes[sum(map(markdown.is_code_header, self.lines[: line + 1])) - 1]

    def resize(self, width: int) -> bool:
        """Lay all of it out anew, if `width` (in cells) is another one; whether it was."""
        if width == self._width:
            return False
        self._width = width
        self._begin()
        if self.finished:
            self.lines = self.whole()
        else:
            self._grow(self.source)
        return True

    def append(self, text: str) -> int:
        """Add to the end. Returns the number of the first line that may have changed."""
        first = self._settled
        self._pieces.append(text)
        if self._width:
            self._grow(text)
        return first

    def whole(self) -> list[Content]:
        """All of it, read at once; nothing as long as there is no width. A thread may do that: nothing changes."""
        source, found = self.source, list[Content]()
        if self._width:
            self._lay_out(markdown.read(source, markdown.parser()), source, found)
        return found

    def finish(self, whole: list[Content]) -> None:
        """Nothing will be added any more; show what `whole` gave."""
        self.finished = True
        self.lines = whole

    def _grow(self, text: str) -> None:
        self._tail += text
        del self.lines[self._settled :]
        source = self._context + self._tail
        units = markdown.read(source, self._parser)
        if len(units) > 1:
            self._lay_out(units[:-1], source, self.lines, self._cut)
            if units[-1].gap:
                self.lines.append(Content(""))
            units = [replace(units[-1], gap=False)]
            self._context = ""
            self._settle(_from_line(source, units[0].start), cut=False)
        elif units and (end := self._bearable(units[0])):
            kind, rest = units[0].node.type, self._tail[end:]
            source = source[: len(source) - len(rest)]
            self._lay_out(markdown.read(source, self._parser), source, self.lines, self._cut)
            self._context = source[: len(source) - len(_from_line(source, _OPENING.get(kind, 0)))]
            self._settle(rest, cut=True)
            source = self._context + rest
            units = markdown.read(source, self._parser)
        self._lay_out(units, source, self.lines, self._cut)

    def _settle(self, tail: str, *, cut: bool) -> None:
        self._settled, self._tail, self._cut = len(self.lines), tail, cut

    def _bearable(self, unit: Unit) -> int:
        """Where to cut a unit that has become too long; 0 while it has not."""
        slow = unit.node.type in _OPENING
        if len(self._tail) <= (_LONGEST_SLOW if slow else _LONGEST):
            return 0
        if slow and "\n" not in self._context + self._tail:
            return 0
        return self._tail.rfind("\n") + 1 or self._tail.rfind(" ") + 1 or len(self._tail)

    def _lay_out(self, units: Sequence[Unit], source: str, found: list[Content], cut: bool = False) -> None:
        """Put the lines of `units` behind `found`; after a `cut` the first of them has had its heading."""
        lines = source.split("\n")
        for n, unit in enumerate(units):
            if unit.gap and found:
                found.append(Content(""))
            laid = markdown.lay_out(unit, lines, self._width)
            found += laid[markdown.heading_size(unit, laid) :] if cut and n == 0 else laid


def _from_line(text: str, line: int) -> str:
    return text.split("\n", line)[line] if line else text
