"""Hostile text, by every way that leads to the terminal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from scripted import ScriptedChat, answered, app_for, ask, make_round, screen_text, wait_for_text
from textual.pilot import Pilot

from edgespec.errors import GenerationError
from edgespec.tui.prompt import Prompt

COMMANDS = "\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\x1bP\x90q\u202e\u2066\x00\x7f\ud800"
MARKUP = "[/] [b]x[/b] [a[0]] [@click=app.quit]q[/]"
HOSTILE = f"<{COMMANDS}{MARKUP}>"
UNSAFE = {character for character in COMMANDS if not character.isprintable()}
SHOWN = "<␛]52;c;aGk=␇␛[2J�31m␛P�q��␀␡�[/] [b]x[/b] [a[0]] [@click=app.quit]q[/]>"

Way = Callable[[Pilot[None], ScriptedChat], Awaitable[object]]


async def question(pilot: Pilot[None], chat: ScriptedChat) -> None:
    await ask(pilot, HOSTILE)


async def prompt(pilot: Pilot[None], chat: ScriptedChat) -> None:
    pilot.app.query_one(Prompt).insert(HOSTILE)


async def answer(pilot: Pilot[None], chat: ScriptedChat) -> None:
    await ask(pilot, "?")
    for character in HOSTILE:
        chat.say(character)


async def thought(pilot: Pilot[None], chat: ScriptedChat) -> None:
    await ask(pilot, "?")
    chat.say(f"<think>{HOSTILE}</think>yes")
    chat.finish()
    await answered(pilot, 1)
    await pilot.click("Thoughts")


async def code(pilot: Pilot[None], chat: ScriptedChat) -> None:
    await ask(pilot, "?")
    chat.say(f"```{HOSTILE}\n{HOSTILE}\n```\n")


async def error(pilot: Pilot[None], chat: ScriptedChat) -> None:
    await ask(pilot, "?")
    chat.fail(GenerationError(HOSTILE))


async def hint(pilot: Pilot[None], chat: ScriptedChat) -> None:
    pilot.app.notify(HOSTILE, title="")


async def reason(pilot: Pilot[None], chat: ScriptedChat) -> None:
    await ask(pilot, "?")
    for _ in range(3):
        chat.say("x", replace(make_round(), arm=HOSTILE))
    await pilot.press("f4")


async def token(pilot: Pilot[None], chat: ScriptedChat) -> None:
    chat.words = {0: HOSTILE.encode("utf-8", "replace")}
    await ask(pilot, "?")
    chat.say("x", make_round(0, 1, 1))
    await wait_for_text(pilot, "x")
    await pilot.press("f3")


WAYS: list[Way] = [question, prompt, answer, thought, code, error, hint, reason, token]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_only_text_reaches_the_terminal(chat: ScriptedChat, way: Way) -> None:
    app = app_for(chat)
    async with app.run_test(size=(160, 40), notifications=True) as pilot:
        await way(pilot, chat)
        shown = SHOWN.replace("�[/]", "?[/]") if way is token else SHOWN
        if way in (hint, prompt):
            shown = shown.replace("␇", "")[:25]  # Textual drops it; a toast is narrow
        await wait_for_text(pilot, shown)
        assert not UNSAFE & set(screen_text(app))
        await pilot.press("escape")


async def test_the_model_s_name_too(chat: ScriptedChat) -> None:
    chat.model = HOSTILE
    for size in ((120, 40), (90, 30)):
        app = app_for(chat)
        async with app.run_test(size=size) as pilot:
            await wait_for_text(pilot, "<␛]52;c")
            assert not UNSAFE & set(screen_text(app))


async def test_the_clipboard_gets_text(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "?")
        chat.say(HOSTILE)
        chat.finish()
        await answered(pilot, 1)
        await pilot.press("f8")
        assert app.clipboard == SHOWN
        app.copy_to_clipboard(HOSTILE)
        assert app.clipboard == SHOWN
