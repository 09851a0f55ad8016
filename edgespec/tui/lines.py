"""A widget of lines that change one by one: only those that are seen and that changed are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from textual.color import TRANSPARENT
from textual.content import Content
from textual.geometry import Region, Size
from textual.reactive import Reactive
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style
from textual.visual import Visual
from textual.widget import Widget


class Lines(Widget):
    """Shows `lines`, each of them as wide as the widget or shorter, in `rows` rows or as many as it needs."""

    DEFAULT_CSS = "Lines { height: auto; }"
    virtual_size = Reactive(Size(0, 0), layout=False, repaint=False)
    """Textual's has the screen laid out, and painted, a second time whenever it grows."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, classes=classes)
        self.auto_links = False
        self.lines: Sequence[Content] = ()
        self.rows = 0
        self._strips: dict[int, Strip] = {}

    def show(self, lines: Sequence[Content], first: int = 0, rows: int = 0) -> None:
        """Show `lines` from now on, in `rows` rows or more; those before `first` are as they were."""
        before, self.lines = self.lines, lines
        same = min(len(before), len(lines))
        changed = [y for y in range(first, same) if before[y] is not lines[y] and not before[y].is_same(lines[y])]
        changed += range(same, max(len(before), len(lines)))
        for y in changed:
            self._strips.pop(y, None)
        if (rows := max(rows, len(lines))) != self.rows:
            self.rows = rows
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
        return max(self.rows, len(self.lines))

    def render_lines(self, crop: Region) -> list[Strip]:
        if self.styles.gutter:  # there is more to be drawn than the lines
            return super().render_lines(crop)
        strips = [self.render_line(y) for y in crop.line_range]
        x1, x2 = crop.column_span
        return strips if (x1, x2) == (0, self.size.width) else [strip.crop(x1, x2) for strip in strips]

    def render_line(self, y: int) -> Strip:
        if (strip := self._strips.get(y)) is None:
            strip = self._strips[y] = self._draw(y)
        return strip

    def _draw(self, y: int) -> Strip:
        return _filtered(self, self._draw_line(y))

    def _draw_line(self, y: int) -> Strip:
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


def render_blank(self: Widget, crop: Region) -> list[Strip]:
    """The `render_lines` of what shows nothing but the widgets in it, of which Textual would go through every line
    with every update."""
    return [_filtered(self, Strip.blank(crop.width, self.visual_style.rich_style))] * crop.height


def _filtered(widget: Widget, strip: Strip) -> Strip:
    """`strip` as it leaves the app."""
    for line_filter in widget.get_line_filters():
        strip = strip.apply_filter(line_filter, widget.visual_style.background or TRANSPARENT)
    return strip
