"""A widget of lines that change one by one: only those that are seen and that changed are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.geometry import Region, Size
from textual.reactive import Reactive
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style
from textual.visual import Visual
from textual.widget import Widget


class Lines(Widget):
    """Shows `lines`, each of them as wide as the widget or shorter."""

    DEFAULT_CSS = "Lines { height: auto; }"
    virtual_size = Reactive(Size(0, 0), layout=False)  # Textual's lays the screen out a second time whenever it grows

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, classes=classes)
        self.auto_links = False
        self.lines: Sequence[Content] = ()
        self._strips: dict[int, Strip] = {}

    def show(self, lines: Sequence[Content], first: int = 0) -> None:
        """Show `lines` from now on; those before `first` are as they were."""
        before, self.lines = self.lines, lines
        same = min(len(before), len(lines))
        changed = [y for y in range(first, same) if before[y] is not lines[y] and not before[y].is_same(lines[y])]
        for y in [*changed, *range(same, len(before))]:
            self._strips.pop(y, None)
        if len(before) != len(lines):
            changed += range(same, max(len(before), len(lines)))
            self.refresh(layout=True)
        elif changed:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in changed))

    def forget(self) -> None:
        """Draw every line anew."""
        self._strips.clear()
        self.refresh()

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self.lines)

    def render_line(self, y: int) -> Strip:
        if (strip := self._strips.get(y)) is None:
            strip = self._strips[y] = self._draw(y)
        return strip

    def _draw(self, y: int) -> Strip:
        width = self.size.width
        if y >= len(self.lines):
            return Strip.blank(width, self.visual_style.rich_style)
        line, selection = self.lines[y], self.text_selection
        if selection is not None and (span := selection.get_span(y)) is not None:
            style = Style.from_styles(self.screen.get_component_styles("screen--selection"))
            line = line.stylize(style, span[0], len(line) if span[1] == -1 else span[1])
        strips = Visual.to_strips(self, line, width, 1, self.visual_style, apply_selection=False, pad=True)
        return strips[0].apply_offsets(0, y) if strips else Strip.blank(width)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        return selection.extract("\n".join(line.plain for line in self.lines)), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.forget()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._strips.clear()
