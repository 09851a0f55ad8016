"""Commands typed in place of a message, and what they change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Event as Flag

import pytest
from scripted import ScriptedChat, answered, app_for, ask, screen_text, wait_for_text, wait_until
from textual.pilot import Pilot
from textual.widgets import Input, TextArea

from edgespec.commands import COMMANDS
from edgespec.config import Value, read_config
from edgespec.errors import ModelError
from edgespec.tui.app import EdgespecApp
from edgespec.tui.completion import Completion
from edgespec.tui.engine import Load, Progress
from edgespec.tui.prompt import Prompt
from edgespec.tui.settings import SettingsScreen
from edgespec.tui.setup import Setup
from edgespec.tui.slash import ACTIONS


class Other(ScriptedChat):
    model = "other-2b"


@pytest.fixture
def other() -> Other:
    return Other()


def switching(
    chat: ScriptedChat, other: ScriptedChat | Exception, *, fits: bool = True, path: Path | None = None
) -> EdgespecApp:
    """An app that opens `chat`, and `other` for any other model or draft."""

    def opener(values: Mapping[str, Value]) -> Load:
        def load(progress: Progress) -> ScriptedChat:
            if not {"model", "draft"} & values.keys():
                return chat
            if isinstance(other, Exception):
                raise other
            return other

        return load

    return EdgespecApp(opener({}), setup=Setup(opener, lambda _values: fits, path=path))


async def talk(pilot: Pilot[None], chat: ScriptedChat) -> None:
    await ask(pilot, "one?")
    chat.say("First.")
    chat.finish()
    await answered(pilot, 1)


async def test_another_draft_takes_over_the_conversation(chat: ScriptedChat, other: Other) -> None:
    app = switching(chat, other)
    async with app.run_test(size=(120, 40)) as pilot:
        await talk(pilot, chat)
        await ask(pilot, "/draft none")
        await wait_for_text(pilot, "(now other-2b, draft ngram, on cpu)")
        assert app.chat is other
        assert chat.closed
        assert app.setup.values == {"draft": "none"}
        await ask(pilot, "two?")
        await wait_until(pilot, lambda: other.sent == ["two?"])
        assert other.told == [["one?", "First."]]


@pytest.mark.parametrize("fits", [True, False])
async def test_a_model_that_cannot_be_opened_leaves_the_old_one(chat: ScriptedChat, fits: bool) -> None:
    app = switching(chat, ModelError("It is broken."), fits=fits)
    async with app.run_test(size=(120, 40)) as pilot:
        await talk(pilot, chat)
        await ask(pilot, "/draft none")
        await wait_for_text(pilot, "It is broken. scripted-1b is still open.")
        assert app.chat is chat
        # Where both do not fit, the old one is closed first and then opened again.
        assert chat.closed is not fits
        assert app.setup.values == {}
        await ask(pilot, "still there?")
        await wait_until(pilot, lambda: chat.sent == ["one?", "still there?"])
        assert chat.told[-1] == ["one?", "First."]


async def test_escape_keeps_the_old_model(chat: ScriptedChat) -> None:
    begun = Flag()

    def opener(values: Mapping[str, Value]) -> Load:
        def load(progress: Progress) -> ScriptedChat:
            while values:
                progress("opening", 0.1)
                begun.set()
            return chat

        return load

    app = EdgespecApp(opener({}), setup=Setup(opener))
    async with app.run_test(size=(120, 40)) as pilot:
        await wait_until(pilot, lambda: app.chat is chat)
        await ask(pilot, "/draft none")
        await wait_until(pilot, begun.is_set)
        await pilot.press("escape")
        await wait_for_text(pilot, "Loading was stopped. scripted-1b is still open.")
        assert app.chat is chat


async def test_a_model_is_not_changed_under_an_answer(chat: ScriptedChat, other: Other) -> None:
    app = switching(chat, other)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await ask(pilot, "one?")
        await wait_until(pilot, chat.sending.is_set)
        for command in ("/draft none", "/set top-k 4"):
            await ask(pilot, command)
            await wait_for_text(pilot, "Not now")
        assert app.chat is chat
        assert chat.settings.sampling.top_k == 0


async def test_set_and_system_hold_from_the_next_answer_on(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await wait_until(pilot, lambda: app.chat is chat)
        await ask(pilot, "/set temperature 0.7")
        await ask(pilot, "/system Talk like a pirate.")
        await wait_until(pilot, lambda: chat.settings.system == "Talk like a pirate.")
        assert chat.settings.sampling.temperature == 0.7
        await ask(pilot, "/system none")
        await wait_until(pilot, lambda: chat.settings.system is None)
        assert chat.settings.sampling.temperature == 0.7
        assert chat.sent == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("/set temperature hot", "it must be a number"),
        ("/set temprature 1", "did you mean sampling.temperature?"),
        ("/set device cuda", "edgespec config set device"),
    ],
)
async def test_what_cannot_be_set_is_said(chat: ScriptedChat, text: str, says: str) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await wait_until(pilot, lambda: app.chat is chat)
        await ask(pilot, text)
        await wait_until(pilot, lambda: any(says in notice.message for notice in app._notifications))


async def test_an_unknown_command_is_given_back(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await ask(pilot, "/modle x")
        await wait_for_text(pilot, "did you mean /model?")
        assert app.query_one(Prompt).text == "/modle x"
        assert chat.sent == []


async def test_two_slashes_send_a_message(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "//etc is a directory?")
        await wait_until(pilot, lambda: chat.sent == ["/etc is a directory?"])


async def test_what_is_typed_is_completed(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("/", "r", "e")
        await wait_for_text(pilot, "Have the last question answered again.")
        await pilot.press("tab")
        assert app.query_one(Prompt).text == "/regen"
        await wait_until(pilot, lambda: not app.query_one(Completion).ways)
        app.query_one(Prompt).load_text("/draft n")
        await wait_for_text(pilot, "/draft none")


async def test_the_palette_has_every_command(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 60)) as pilot:
        await pilot.press("ctrl+p")
        await wait_until(pilot, lambda: all(f"/{name}" in screen_text(app) for name in list(COMMANDS)[:4]))
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert {command.title for command in COMMANDS.values()} <= titles


async def test_clear_and_bye(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await talk(pilot, chat)
        await ask(pilot, "/clear")
        await wait_until(pilot, lambda: chat.cleared)
        assert "First." not in screen_text(app)
        await ask(pilot, "/bye")
        await wait_until(pilot, lambda: app._exit)


async def test_the_settings_screen_changes_and_keeps(chat: ScriptedChat, other: Other, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    app = switching(chat, other, path=path)
    async with app.run_test(size=(80, 24)) as pilot:
        await wait_until(pilot, lambda: app.chat is chat)
        await pilot.press("f5")
        await wait_for_text(pilot, "repeat penalty")
        field = app.screen.query_one("#sampling-temperature", Input)
        field.value = "hot"
        await pilot.press("enter")
        await wait_for_text(pilot, "sampling.temperature cannot be 'hot'; it must be a number.")
        assert isinstance(app.screen, SettingsScreen)
        field.value = "0.7"
        app.screen.query_one("#system", TextArea).text = "Be brief."
        await pilot.press("ctrl+k")
        await wait_until(pilot, lambda: chat.settings.system == "Be brief.")
        assert chat.settings.sampling.temperature == 0.7
        assert read_config(path).values == {"system": "Be brief.", "sampling.temperature": 0.7}


async def test_a_theme_is_kept(chat: ScriptedChat, other: Other, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    app = switching(chat, other, path=path)
    async with app.run_test(size=(80, 24)) as pilot:
        app.theme = "textual-light"
        await wait_until(pilot, path.exists)
        assert read_config(path).values == {"screen.theme": "textual-light"}
    setup = Setup(lambda _values: lambda _progress: chat, values={"screen.theme": "nord"})
    app = EdgespecApp(lambda _progress: chat, setup=setup)
    async with app.run_test(size=(80, 24)):
        assert app.theme == "nord"


async def test_another_model_can_be_chosen_when_the_first_does_not_open(other: Other) -> None:
    def opener(values: Mapping[str, Value]) -> Load:
        def load(progress: Progress) -> ScriptedChat:
            if "draft" in values:
                return other
            raise ModelError("It is broken.")

        return load

    app = EdgespecApp(opener({}), setup=Setup(opener))
    async with app.run_test(size=(120, 40)) as pilot:
        await wait_for_text(pilot, "It is broken.")
        await ask(pilot, "/draft none")
        await wait_until(pilot, lambda: app.chat is other)
        await ask(pilot, "hello?")
        await wait_until(pilot, lambda: other.sent == ["hello?"])


def test_every_command_does_something() -> None:
    app = EdgespecApp(lambda _progress: ScriptedChat())
    for name in COMMANDS:
        assert name in app.slash.own or hasattr(app, f"action_{ACTIONS[name].partition('(')[0]}"), name
