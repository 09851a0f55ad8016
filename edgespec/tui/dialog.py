"""What asks a question in front of the conversation."""

from __future__ import annotations

from typing import ClassVar, TypeVar

from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

Result = TypeVar("Result")


class Dialog(ModalScreen[Result | None]):
    """A box in the middle of the screen; Esc closes it without a result. Its content is one container, `.box`."""

    DEFAULT_CSS = """
    Dialog {
        align: center middle;
        background: $background 60%;
    }
    Dialog .box {
        width: 96%;
        max-width: 100;
        height: auto;
        max-height: 96%;
        padding: 0 2;
        border: round $primary;
        border-title-color: $text-primary;
        background: $surface;
    }
    Dialog .hint {
        color: $foreground 60%;
    }
    Dialog .problem {
        color: $text-error;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "Close")]

    def action_close(self) -> None:
        self.dismiss(None)
