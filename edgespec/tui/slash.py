"""What the commands do in the chat. What one needs is imported when it is used: the first screen does not wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from edgespec.commands import SETTABLE
from edgespec.config import Value
from edgespec.config.options import find_option
from edgespec.errors import UsageError

if TYPE_CHECKING:
    from edgespec.tui.settings import Chosen
    from edgespec.tui.setup import Kind
    from edgespec.tui.talk import TalkApp

ACTIONS = {
    "stats": "statistics",
    "context": "context",
    "clear": "new_chat",
    "regen": "regenerate",
    "edit": "edit_question",
    "help": "help",
    "bye": "quit",
}
"""Commands that do what a key does, by the app's action."""


_NOT_NOW = "Not now: wait until the model is there and has answered, or stop it with Esc."


class SlashCommands:
    """The commands of one app."""

    def __init__(self, app: TalkApp) -> None:
        self._app = app
        self.own: dict[str, Callable[[str], Awaitable[None]]] = {
            "model": self._model,
            "draft": self._draft,
            "system": self._system,
            "set": self._set,
            "save": self._save,
            "history": self._history,
        }

    async def run(self, name: str, argument: str = "") -> None:
        """Do what was typed; what cannot be done is said."""
        try:
            if name in ACTIONS:
                await self._app.run_action(ACTIONS[name])
            else:
                await self.own[name](argument)
        except UsageError as error:
            self._app.notify(str(error), severity="error")

    def arguments(self) -> dict[str, tuple[str, ...]]:
        """What each command may be followed by, for whoever completes what is typed."""
        from edgespec.bundle import default_store
        from edgespec.bundle.catalog import load_catalog

        here = default_store().names()
        return {
            "model": tuple(sorted({*here, *load_catalog().pairs})),
            "draft": ("none", "ngram", *here),
            "set": tuple(f"{name.rpartition('.')[2]} " for name in SETTABLE),
            "system": ("none",),
        }

    def _choose(self, kind: Kind, wanted: str = "") -> None:
        """Show the choices, and go on with what is chosen."""
        chat = self._app.chat
        if chat is None and (kind == "draft" or self._app.load_error is None):
            raise UsageError(_NOT_NOW)
        from edgespec.tui.picker import Picker

        def chosen(name: str | None) -> None:
            if name is not None:
                self._app.switch({"model": name, "draft": None} if kind == "model" else {"draft": name})

        model = "" if chat is None else chat.model
        current = model if chat is None or kind == "model" else chat.draft or "none"
        self._app.push_screen(Picker(kind, self._app.setup.choosing(kind, model), current, wanted), chosen)

    def _show_settings(self, focus: str = "sampling.temperature") -> None:
        """Show the settings, and go by what is chosen."""
        chat = self._app.chat
        if chat is None:
            raise UsageError(_NOT_NOW)
        from edgespec.configured import values_from
        from edgespec.tui.settings import SettingsScreen

        def chosen(found: Chosen | None) -> None:
            if found is not None:
                self._try(lambda: self._change(found.changes))
                if found.keep:
                    self._keep(found.changes)

        self._app.push_screen(SettingsScreen(values_from(chat.settings), focus=focus), chosen)

    async def _model(self, name: str) -> None:
        from edgespec.bundle import default_store

        if name in default_store().names():
            self._app.switch({"model": name, "draft": None})
        else:
            self._choose("model", name)

    async def _draft(self, name: str) -> None:
        if name:
            self._app.switch({"draft": name})
        else:
            self._choose("draft")

    async def _system(self, text: str) -> None:
        if text:
            self._change({"system": None if text == "none" else text})
        else:
            self._show_settings("system")

    async def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if not name:
            self._show_settings()
            return
        option = find_option(name)
        if option.name not in SETTABLE:
            raise UsageError(
                f"{option.name} does not change here; `edgespec config set {option.name}` holds from the next start."
            )
        self._change({option.name: option.parse(value.strip())})

    def _change(self, changes: Mapping[str, Value | None]) -> None:
        chat = self._app.chat
        if chat is None or not self._app.idle:
            raise UsageError(_NOT_NOW)
        from edgespec.configured import changed_settings

        chat.adjust(changed_settings(chat.settings, changes))
        self._app.setup.values = self._app.setup.changed(changes)
        said = [f"{name} {'as usual' if value is None else value}" for name, value in changes.items()]
        self._app.notify(f"From the next answer on: {', '.join(said) or 'as before'}.")

    def _keep(self, changes: Mapping[str, Value | None]) -> None:
        problems = [problem for name, value in changes.items() if (problem := self._app.setup.keep(name, value))]
        for problem in problems:
            self._app.notify(problem, severity="error")

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except UsageError as error:
            self._app.notify(str(error), severity="error")

    async def _history(self, words: str) -> None:
        await self._app.run_action(f"conversations({words!r})")

    async def _save(self, path: str) -> None:
        await self._app.run_action(f"save({path!r})")
