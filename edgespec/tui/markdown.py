"""Markdown as it is shown in answers."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from edgespec.chat.screen import printable


def parser() -> MarkdownIt:
    """GitHub's flavour, except that HTML is text, because the screen would drop it, and that every line break is one:
    models write verse and addresses without the two spaces that Markdown asks for."""
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
