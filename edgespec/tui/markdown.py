"""Markdown as it is shown in answers: source to lines that fit a width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode
from textual.content import Content
from textual.highlight import highlight
from textual.style import Style

from edgespec.chat.screen import printable

DIM = "$foreground 60%"
_CODE = "on $foreground 6%"
_INLINE = {"strong": "bold", "em": "italic", "s": "strike"}
_BULLETS = "•◦▪"
_COLUMN_GAP = " │ "

COPY = Style.from_meta({"copy": True})
"""Marks the place on a code block's first line that copies it."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is laid out by itself: a block, or an item of a list that is not inside another.

    start: its first line in the source. gap: whether a blank line in the source precedes it. marker: a list item's.
    """

    node: SyntaxTreeNode
    start: int
    gap: bool
    marker: str = ""


def parser() -> MarkdownIt:
    """GitHub's flavour, except that HTML is text, because the screen would drop it, and that every line break is one:
    models write verse and addresses without the two spaces that Markdown asks for. Not for two threads at a time."""
    markdown = MarkdownIt("gfm-like", {"html": False})
    markdown.core.ruler.push("screen", _for_screen)
    return markdown


def _for_screen(state: StateCore) -> None:
    for token in state.tokens:
        _adapt(token)


def _adapt(token: Token) -> None:
    for child in token.children or ():
        _adapt(child)
    if token.type == "softbreak":
        token.type = "hardbreak"
    elif token.type == "text":
        # An entity such as &#8238; only becomes the character it stands for here.
        token.content = printable(token.content)


def read(source: str, markdown: MarkdownIt) -> list[Unit]:
    """The units of `source`, in their order."""
    lines = source.split("\n")
    return list(_units(SyntaxTreeNode(markdown.parse(source)).children, lines, 0))


def _units(nodes: Sequence[SyntaxTreeNode], lines: Sequence[str], depth: int) -> Iterator[Unit]:
    for node in nodes:
        if node.type in ("bullet_list", "ordered_list"):
            for item in node.children:
                marker = f"{item.info}. " if item.info else f"{_BULLETS[depth % len(_BULLETS)]} "
                yield _unit(item, lines, marker)
        else:
            yield _unit(node, lines)


def _unit(node: SyntaxTreeNode, lines: Sequence[str], marker: str = "") -> Unit:
    start = node.map[0] if node.map else 0
    return Unit(node, start, start > 0 and not lines[start - 1].strip(" >\t"), marker)


def lay_out(unit: Unit, lines: Sequence[str], width: int, depth: int = 0) -> list[Content]:
    """The lines of `unit`, at most `width` cells wide; `lines` are those of the source."""
    node = unit.node
    match node.type:
        case "list_item":
            inner = _inside(node, lines, max(width - len(unit.marker), 1), depth + 1)
            return _hang(inner, Content.styled(unit.marker, "$primary"), Content(" " * len(unit.marker)))
        case "blockquote":
            bar = Content.styled("▌ ", "$primary 60%")
            return _hang([line.stylize(DIM) for line in _inside(node, lines, max(width - 2, 1), depth)], bar, bar)
        case "heading":
            style = "bold underline $primary" if node.tag == "h1" else "bold $primary"
            return _inline(node.children).stylize(style).wrap(width)
        case "fence" | "code_block":
            return [_code_header(node.info, width), *code_lines(node.content, node.info, width)]
        case "table":
            return _table(node, width)
        case "hr":
            return [Content.styled("─" * width, DIM)]
        case _:
            return (_inline(node.children) if node.children else Content(printable(node.content))).wrap(width)


def _inside(node: SyntaxTreeNode, lines: Sequence[str], width: int, depth: int) -> list[Content]:
    found: list[Content] = []
    for unit in _units(node.children, lines, depth):
        if unit.gap and found:
            found.append(Content(""))
        found += lay_out(unit, lines, width, depth)
    return found or [Content("")]


def _hang(lines: list[Content], first: Content, rest: Content) -> list[Content]:
    return [(rest if i else first) + line for i, line in enumerate(lines)]


def _inline(nodes: Sequence[SyntaxTreeNode]) -> Content:
    return Content("").join(map(_span, nodes))


def _span(node: SyntaxTreeNode) -> Content:
    match node.type:
        case "inline":
            return _inline(node.children)
        case "hardbreak":
            return Content("\n")
        case "code_inline":
            return Content.styled(node.content, "$text-accent on $foreground 8%")
        case "strong" | "em" | "s":
            return _inline(node.children).stylize(_INLINE[node.type])
        case "link" | "image":
            target = printable(str(node.attrs.get("href") or node.attrs.get("src") or ""))
            shown = _inline(node.children).stylize("underline")
            said = target.split(":", 1)[-1].lstrip("/")
            return shown if said in shown.plain else Content.assemble(shown, (f" ({target})", DIM))
        case _:
            return Content(node.content)


def codes(source: str) -> list[str]:
    """The code blocks of `source`, as they would be copied."""
    nodes = SyntaxTreeNode(parser().parse(source)).walk()
    return [node.content for node in nodes if node.type in ("fence", "code_block")]


def is_code_header(line: Content) -> bool:
    """Whether a code block begins with `line`; a click on its end copies the block."""
    return any(span.style is COPY for span in line.spans)


def heading_size(unit: Unit, laid: Sequence[Content]) -> int:
    """How many of the lines that `unit` was laid out in stand above what it lists: code, or the rows of a table."""
    if unit.node.type == "table":
        return next((n for n, line in enumerate(laid, 1) if set(line.plain) <= set("─┼")), 0)
    return 1 if unit.node.type in ("fence", "code_block") else 0


def _code_header(info: str, width: int) -> Content:
    language = Content.styled(f" {_language(info)}", DIM).truncate(max(width - 6, 0))
    copy = Content.styled(" copy ", DIM).stylize(COPY)
    return language.pad_right(max(width - language.cell_length - 6, 0)) + copy


def code_lines(code: str, info: str, width: int) -> list[Content]:
    """Highlighted code, folded where it is wider than `width`."""
    content = highlight(code.removesuffix("\n").expandtabs(4), language=_language(info) or "text")
    found: list[Content] = []
    for line in content.split(allow_blank=True):
        for part in line.fold(max(width - 2, 2)):
            shown = Content.assemble(" ", part)
            found.append(shown.extend_right(max(width - shown.cell_length, 0)).stylize_before(_CODE))
    return found


def _language(info: str) -> str:
    return printable(info.split()[0]) if info.split() else ""


def _table(node: SyntaxTreeNode, width: int) -> list[Content]:
    rows = [[_inline(cell.children) for cell in row.children] for part in node.children for row in part.children]
    right = ["right" in str(cell.attrs.get("style", "")) for cell in node.children[0].children[0].children]
    room = width - len(_COLUMN_GAP) * (len(right) - 1)
    if room < 3 * len(right):
        return [line for row in rows for line in Content(" | ").join(row).wrap(width)]
    sizes = _fit([max(max(row[i].cell_length for row in rows), 1) for i in range(len(right))], room)
    found: list[Content] = []
    for n, row in enumerate(rows):
        cells = [cell.stylize("bold" if n == 0 else "").wrap(size) for cell, size in zip(row, sizes, strict=True)]
        for parts in zip_longest(*cells, fillvalue=Content("")):
            padded = [_pad(p, size, r) for p, size, r in zip(parts, sizes, right, strict=True)]
            found.append(Content.styled(_COLUMN_GAP, DIM).join(padded))
        if n == 0:
            found.append(Content.styled("─┼─".join("─" * size for size in sizes), DIM))
    return found


def _fit(sizes: list[int], room: int) -> list[int]:
    """Column widths with a sum of at most `room`: the widest give way."""
    sizes = [min(size, room) for size in sizes]
    while sum(sizes) > room:
        sizes[sizes.index(max(sizes))] -= 1
    return sizes


def _pad(cell: Content, size: int, right: bool) -> Content:
    missing = max(size - cell.cell_length, 0)
    return cell.pad_left(missing) if right else cell.pad_right(missing)
