"""How answers are made: sampling, length, and the system message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Label, Static, TextArea

from edgespec.chat.screen import printable
from edgespec.commands import SETTABLE
from edgespec.config import OPTIONS, Value
from edgespec.errors import UsageError
from edgespec.tui.dialog import Dialog

_FIELDS = tuple(name for name in SETTABLE if name != "system")


@dataclass(frozen=True, slots=True)
class Chosen:
    """changes: by option, None for what is as usual again. keep: whether they go into the config."""

    changes: Mapping[str, Value | None]
    keep: bool


class SettingsScreen(Dialog[Chosen]):
    """A field for each option, with its range; wrong values are told below and nothing is changed."""

    DEFAULT_CSS = """
    SettingsScreen .field {
        height: 1;
    }
    SettingsScreen Label {
        width: 18;
    }
    SettingsScreen Input {
        width: 14;
        height: 1;
        padding: 0 1;
        border: none;
        background: $boost;
        &:focus {
            border: none;
            background: $primary 25%;
        }
    }
    SettingsScreen .range {
        width: 1fr;
        padding: 0 1;
        color: $foreground 60%;
    }
    SettingsScreen TextArea {
        height: 5;
        border: none;
        padding: 0 1;
        background: $boost;
        &:focus {
            border: none;
            background: $primary 25%;
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "use(False)", "Use", priority=True),
        Binding("ctrl+k", "use(True)", "Use and keep", priority=True),
    ]

    HELP = (
        "Sampling holds from the next answer on, the system message for all of the conversation from then on. An empty "
        "field is as usual. Ctrl+S is for this chat, Ctrl+K for every chat: it goes into the config."
    )

    def __init__(self, values: Mapping[str, Value], *, focus: str) -> None:
        super().__init__()
        self._values = dict(values)
        self._focused = focus

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box", can_focus=False) as box:
            box.border_title = "Settings"
            for name in _FIELDS:
                option = OPTIONS[name]
                with Horizontal(classes="field"):
                    yield Label(_short(name))
                    yield Input(_written(self._values.get(name)), placeholder=option.usual, id=_id(name))
                    words = option.range.words if option.range else ""
                    yield Static(Content(words), classes="range")
            yield Label("system message")
            yield TextArea(str(self._values.get("system", "")), id="system", tab_behavior="focus")
            yield Static("", classes="problem")
            yield Static("⏎ or ^s: for this chat · ^k: for every chat · Esc goes back", classes="hint")

    def on_mount(self) -> None:
        self.query_one(f"#{_id(self._focused)}").focus()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_use(False)

    def action_use(self, keep: bool) -> None:
        """Close with what was changed, if all of it can be."""
        try:
            changes = self._changes()
        except UsageError as error:
            self.query_one(".problem", Static).update(Content(printable(str(error))))
            return
        self.dismiss(Chosen(changes, keep))

    def _changes(self) -> dict[str, Value | None]:
        found: dict[str, Value | None] = {}
        for name in _FIELDS:
            text = self.query_one(f"#{_id(name)}", Input).value.strip()
            found[name] = OPTIONS[name].parse(text) if text else None
        found["system"] = self.query_one("#system", TextArea).text.strip() or None
        return {name: value for name, value in found.items() if value != self._values.get(name)}


def _short(name: str) -> str:
    return name.rpartition(".")[2].replace("-", " ")


def _id(name: str) -> str:
    return name.replace(".", "-")


def _written(value: Value | None) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
