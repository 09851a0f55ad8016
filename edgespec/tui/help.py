"""F1: what has the focus, its keys, the commands, and what the figures mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.dom import DOMNode
from textual.screen import Screen
from textual.widgets import Static

from edgespec.commands import COMMANDS
from edgespec.tui.dialog import Dialog

FIGURES: Mapping[str, str] = MappingProxyType(
    {
        "acceptance": "accepted / tested. A proposal behind a rejection was not tested and does not count.",
        "tokens per round": "counts the correction or bonus; plain rounds count as rounds.",
        "per position": "of the proposals tested at position i, how many were accepted.",
        "draft / verify / overhead": "time in the drafter, in the target's passes, and in everything else.",
        "speed-up": "tokens per second against plain decoding: recent rounds, each beside the plain ones around it.",
        "correction": "the target's token in place of a rejected proposal.",
        "bonus": "the target's extra token after all proposals were accepted.",
        "plain": "a round without proposals, or a model without a draft.",
        "exact": "the text is the same, byte for byte, with any draft or none.",
    }
)
"""As docs/speculation.md has them."""


class HelpScreen(Dialog[None]):
    """about: of what had the focus. keys: of the screen that it was on, each with what it does."""

    DEFAULT_CSS = """
    HelpScreen .box {
        height: 96%;
    }
    HelpScreen Static {
        margin: 0 0 1 0;
    }
    """

    def __init__(self, about: str, keys: Iterable[tuple[str, str]]) -> None:
        super().__init__()
        self._about, self._keys = about, tuple(keys)

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box") as box:
            box.border_title = "Help"
            box.border_subtitle = "Esc goes back"
            yield Static(Content(self._about))
            yield Static(_table("Keys", self._keys, 18))
            yield Static(_table("Commands", ((c.usage, c.help) for c in COMMANDS.values()), 26))
            yield Static(Content("A message that starts with a slash is sent with two."))
            yield Static(_table("Figures", FIGURES.items(), 26))

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()


def help_for(screen: Screen[Any]) -> HelpScreen:
    """The help for what has the focus on `screen`: the `HELP` of the nearest node that has one, and the keys."""
    node: DOMNode | None = screen.focused or screen
    while node is not None and not node.HELP:
        node = node.parent
    about = node.HELP if node is not None and node.HELP else "A private chat: what you write stays on this machine."
    keys: dict[str, list[str]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if active.enabled and binding.description and (binding.show or binding.id):  # not every way to move a cursor
            keys.setdefault(binding.description, []).append(screen.app.get_key_display(binding))
    return HelpScreen(about, ((" ".join(dict.fromkeys(shown)), what) for what, shown in keys.items()))


def _table(title: str, rows: Iterable[tuple[str, str]], width: int) -> Content:
    lines = [Content.styled(title, "bold")]
    for name, what in rows:
        lines.append(Content.assemble((f"{name:<{width}} ", "$text-primary"), what))
    return Content("\n").join(lines)
