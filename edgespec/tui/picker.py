"""Choosing a model or a draft, and fetching one that is not here yet."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event as Flag
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from edgespec.chat.screen import printable
from edgespec.errors import CancelledError, EdgespecError
from edgespec.tui import figures
from edgespec.tui.dialog import Dialog
from edgespec.tui.messages import LoadProgress
from edgespec.tui.workers import explain, progress_for

if TYPE_CHECKING:
    from edgespec.choices import Choice
    from edgespec.tui.setup import Choosing, Kind


class Picker(Dialog[str]):
    """A list with what is known of each choice; its result is the name of one that is here."""

    DEFAULT_CSS = """
    Picker OptionList {
        height: auto;
        max-height: 16;
        padding: 0;
        border: none;
        background: $surface;
        &:focus {
            border: none;
        }
    }
    Picker #about {
        height: 3;
    }
    """

    HELP = (
        "What is here, and what the catalog has (+). Size is that of the files, memory what it takes while it runs, "
        "speed-up what the draft promises where the pair was measured on this machine and 60 % of the tested proposals "
        "are accepted; for others P times graphs of their shape. Enter chooses; what is not here is fetched first, Esc "
        "stops that, and it goes on later."
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("p", "predict", "Predict")]

    class Found(Message):
        """The choices are known."""

        def __init__(self, choices: Sequence[Choice]) -> None:
            super().__init__()
            self.choices = choices

    class Predicted(Message):
        """`text` is what a choice promises."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Failed(Message):
        """The choices cannot be found, or one not be fetched."""

        def __init__(self, error: EdgespecError) -> None:
            super().__init__()
            self.error = error

    class Pulled(Message):
        """`name` is here now."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, kind: Kind, choosing: Choosing, current: str | None, wanted: str = "") -> None:
        super().__init__()
        self._kind: Kind = kind
        self._choosing = choosing
        self._current, self._wanted = current, wanted or current or ""
        self._choices: dict[str, Choice] = {}
        self._pulling: str | None = None
        self._predicting = False
        self._cancelled = Flag()

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = f"Choose a {self._kind}"
            yield Static(_heading(self._kind), classes="hint")
            yield OptionList()
            yield Static("looking …", id="about")
            yield Static("", id="progress")
            yield Static("⏎ chooses · + to fetch · * in use · ! cannot be · p predicts", classes="hint")

    def on_mount(self) -> None:
        self._find()

    def on_unmount(self) -> None:
        self._cancelled.set()

    @work(thread=True, group="choices")
    def _find(self) -> None:
        try:
            self.post_message(self.Found(self._choosing.find()))
        except Exception as error:
            self.post_message(self.Failed(explain(error, "The list could not be made")))

    @on(Found)
    def _show(self, message: Found) -> None:
        self._choices = {choice.name: choice for choice in message.choices}
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options(Option(_row(choice, self._current), id=choice.name) for choice in message.choices)
        names = list(self._choices)
        options.highlighted = names.index(self._wanted) if self._wanted in names else 0
        options.focus()

    @on(OptionList.OptionHighlighted)
    def _describe(self, event: OptionList.OptionHighlighted) -> None:
        choice = self._choices[str(event.option_id)]
        unknown = "" if choice.speedup else ". Speed-up: not measured here yet; p predicts it"
        self._say(f"{choice.name}: {choice.obstacle or choice.about + unknown}")

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        choice = self._choices[str(event.option_id)]
        if self._pulling is not None:
            self._say(f"{self._pulling} is being fetched; Esc stops that.")
        elif choice.obstacle is not None:
            self._say(f"{choice.name} cannot be chosen: {choice.obstacle}.")
        elif choice.here:
            self.dismiss(choice.name)
        else:
            self._pulling = choice.name
            self._cancelled.clear()
            self._pull(choice.name)

    @work(thread=True, group="pull")
    def _pull(self, name: str) -> None:
        try:
            self._choosing.pull(name, progress_for(self._cancelled, self.post_message))
        except Exception as error:
            self.post_message(self.Failed(explain(error, "It could not be fetched")))
        else:
            self.post_message(self.Pulled(name))

    @on(LoadProgress)
    def _goes_on(self, message: LoadProgress) -> None:
        message.stop()
        if self._pulling is not None:
            text = Content(printable(message.stage))
            bar = figures.bar(message.fraction, 20)
            self.query_one("#progress", Static).update(
                Content.assemble(bar, f" {message.fraction * 100:.0f} %  ", text, " · Esc stops")
            )

    def action_predict(self) -> None:
        """Time what the highlighted choice would do here."""
        row = self.query_one(OptionList).highlighted_option
        if row is not None and not self._predicting:
            choice = self._choices[str(row.id)]
            self._predicting = True
            self._say(f"{choice.name}: timing graphs of its shape …")
            self._predict(choice)

    @work(thread=True, group="predict")
    def _predict(self, choice: Choice) -> None:
        try:
            self.post_message(self.Predicted(f"{choice.name}: {self._choosing.predict(choice)}"))
        except Exception as error:
            self.post_message(self.Predicted(str(explain(error, "It could not be predicted"))))

    @on(Predicted)
    def _predicted(self, message: Predicted) -> None:
        self._predicting = False
        self._say(message.text)

    @on(Pulled)
    def _pulled(self, message: Pulled) -> None:
        self.dismiss(message.name)

    @on(Failed)
    def _failed(self, message: Failed) -> None:
        self._pulling = None
        self.query_one("#progress", Static).update("")
        stopped = isinstance(message.error, CancelledError)
        self._say("Stopped; what was fetched is kept, and Enter goes on." if stopped else str(message.error))

    def action_close(self) -> None:
        if self._pulling is None:
            self.dismiss(None)
        else:
            self._cancelled.set()

    def _say(self, text: str) -> None:
        self.query_one("#about", Static).update(Content(printable(text)))


_WIDTHS = (26, 8, 8, 9)


def _heading(kind: Kind) -> Content:
    names = ("name", "size", "memory", "speed-up")
    line = "".join(f"{name:<{width}}" for name, width in zip(names, _WIDTHS, strict=True))
    return Content(f"  {line}{'draft' if kind == 'model' else ''}")


def _row(choice: Choice, current: str | None) -> Content:
    """One line: told by words and marks, not by colour alone."""
    mark = "* " if choice.name == current else "! " if choice.obstacle else "  " if choice.here else "+ "
    name = choice.name if len(choice.name) < _WIDTHS[0] else choice.name[: _WIDTHS[0] - 2] + "…"
    cells = (name, _gigabytes(choice.size), _gigabytes(choice.memory), _speedup(choice.speedup))
    line = "".join(f"{cell:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
    style = "$foreground 60%" if choice.obstacle else "bold" if choice.name == current else ""
    return Content.styled(printable(f"{mark}{line}{choice.draft or ''}"), style)


def _gigabytes(count: int) -> str:
    if not count:
        return figures.UNKNOWN
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _speedup(value: float | None) -> str:
    return figures.UNKNOWN if value is None else f"{value:.2f}x"
