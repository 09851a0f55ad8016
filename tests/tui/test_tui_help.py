"""F1, and keys that somebody chose."""

from __future__ import annotations

import re
from pathlib import Path

from scripted import ScriptedChat, screen_text, wait_for_text, wait_until
from textual.binding import Binding

from edgespec.config.keymap import DEFAULT_KEYS
from edgespec.tui.app import EdgespecApp
from edgespec.tui.help import FIGURES, HelpScreen
from edgespec.tui.prompt import Prompt
from edgespec.tui.setup import Setup

DOCUMENT = Path(__file__).parents[2] / "docs" / "speculation.md"


def app_with(chat: ScriptedChat, **keys: str) -> EdgespecApp:
    values = {f"keys.{action.replace('_', '-')}": key for action, key in keys.items()}
    return EdgespecApp(lambda _progress: chat, setup=Setup(lambda _values: lambda _progress: chat, values=dict(values)))


async def test_help_is_about_what_has_the_focus(chat: ScriptedChat) -> None:
    app = app_with(chat)
    async with app.run_test(size=(100, 60)) as pilot:
        await wait_until(pilot, lambda: app.chat is chat)
        await pilot.press("f1")
        await wait_for_text(pilot, "Write a message here.")
        text = screen_text(app)
        assert re.search(r"\^n +New chat", text)
        assert "/model [NAME]" in text
        await pilot.press("end")
        await wait_for_text(pilot, "accepted / tested. A proposal behind")
        await pilot.press("f1")
        await wait_until(pilot, lambda: not isinstance(app.screen, HelpScreen))
        await pilot.press("f5", "f1")
        await wait_for_text(pilot, "An empty field is as usual.")
        await pilot.press("escape")
        await wait_for_text(pilot, "repeat penalty")


def test_figures_mean_what_the_documentation_says() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition("## Reading the figures")[2].partition("\n## ")[0]
    found = {
        name: " ".join(words.split()).removeprefix("= ").removeprefix(": ")
        for name, words in re.findall(r"^- \*\*(.+?)\*\*(.+?)(?=^- |\n\n|\Z)", section, re.MULTILINE | re.DOTALL)
    }
    assert found == dict(FIGURES)


async def test_keys_can_be_chosen(chat: ScriptedChat) -> None:
    app = app_with(chat, send="ctrl+s", new_line="enter", new_chat="f9", quit="ctrl+x", palette="f7")
    async with app.run_test(size=(100, 40)) as pilot:
        await wait_until(pilot, lambda: app.chat is chat)
        await pilot.press("a", "enter", "b")
        assert app.query_one(Prompt).text == "a\nb"
        await pilot.press("ctrl+s")
        await wait_until(pilot, lambda: chat.sent == ["a\nb"])
        chat.finish()
        await wait_until(pilot, lambda: app.idle)
        await pilot.press("ctrl+n")
        await pilot.press("f9")
        await wait_until(pilot, lambda: chat.cleared == 1)
        await pilot.press("f7")
        await wait_for_text(pilot, "Choose a model")
        await pilot.press("escape", "ctrl+x")
        await wait_until(pilot, lambda: app._exit)


def test_every_key_that_can_be_chosen_is_a_key_of_the_chat() -> None:
    bound = {b.id: b.key for kind in (EdgespecApp, Prompt) for b in kind.BINDINGS if isinstance(b, Binding) and b.id}
    assert dict(DEFAULT_KEYS) == bound
