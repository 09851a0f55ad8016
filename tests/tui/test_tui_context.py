"""A message that does not fit the context, before it is sent."""

from __future__ import annotations

import pytest
from scripted import ScriptedChat, answered, app_for, ask, screen_text, wait_for_text, wait_until
from textual.pilot import Pilot

from edgespec.chat.fitting import REQUEST
from edgespec.errors import ContextFullError
from edgespec.tui.context import ContextScreen
from edgespec.tui.prompt import Prompt

PROBLEM = "The conversation has 2,100 tokens, 53 more than the context can take."


class Narrow(ScriptedChat):
    """Has room for two messages."""

    context_length = 2048

    def excess(self, text: str, room: int = 1) -> int:
        return max(len(self.messages) - 2, 0)


@pytest.fixture
def narrow() -> Narrow:
    return Narrow()


async def fill(pilot: Pilot[None], chat: ScriptedChat) -> None:
    """Two turns, and a third that does not fit."""
    for turn in (1, 2):
        await ask(pilot, f"question {turn}")
        chat.say(f"answer {turn}")
        chat.finish()
        await answered(pilot, turn)
    chat.fail(ContextFullError(PROBLEM))
    await ask(pilot, "too much")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ContextScreen))
    await wait_for_text(pilot, "53 more than the context")


def sees(chat: ScriptedChat) -> list[str]:
    return [message.content for message in chat.messages]


async def test_the_oldest_turns_are_left_out_if_chosen(narrow: Narrow) -> None:
    app = app_for(narrow)
    async with app.run_test(size=(80, 24)) as pilot:
        await fill(pilot, narrow)
        assert len(narrow.messages) == 4
        await pilot.press("enter")
        await wait_until(pilot, lambda: narrow.sent[-1] == "too much" and len(narrow.sent) == 4)
        assert narrow.told[-1] == ["question 2", "answer 2"]
        narrow.say("It fits.")
        narrow.finish()
        await wait_for_text(pilot, "(the model does not see the 2 oldest messages any more)")
        await wait_for_text(pilot, "It fits.")
        # Nothing is lost from what is kept.
        texts = [entry.text for entry in app.recorder.conversation.path()]
        assert texts == ["question 1", "answer 1", "question 2", "answer 2", "too much", "It fits."]


async def test_a_summary_by_the_model_is_shown(narrow: Narrow) -> None:
    app = app_for(narrow)
    async with app.run_test(size=(80, 40)) as pilot:
        await fill(pilot, narrow)
        await pilot.press("down", "enter")
        await wait_until(pilot, lambda: narrow.sent[-1] == REQUEST)
        narrow.say("They talked.")
        narrow.finish()
        await wait_until(pilot, lambda: narrow.sent[-1] == "too much")
        assert narrow.told[-1] == [REQUEST, "They talked.", "question 2", "answer 2"]
        narrow.finish()
        await wait_for_text(pilot, "(the model sees this summary in place of the oldest messages)")
        assert "They talked." in screen_text(app)


async def test_a_summary_can_be_stopped(narrow: Narrow) -> None:
    app = app_for(narrow)
    async with app.run_test(size=(80, 24)) as pilot:
        await fill(pilot, narrow)
        before = sees(narrow)
        await pilot.press("down", "enter")
        await wait_until(pilot, lambda: narrow.sending.is_set())
        await pilot.press("escape")
        await wait_for_text(pilot, "Stopped; nothing was changed.")
        assert sees(narrow) == before
        await pilot.press("escape")
        await wait_until(pilot, lambda: not isinstance(app.screen, ContextScreen))
        assert app.query_one(Prompt).text == "too much"


async def test_a_new_chat(narrow: Narrow) -> None:
    app = app_for(narrow)
    async with app.run_test(size=(80, 24)) as pilot:
        await fill(pilot, narrow)
        await pilot.press("down", "down", "enter")
        await wait_until(pilot, lambda: len(narrow.sent) == 4)
        assert narrow.cleared == 1
        assert app.query_one(Prompt).text == ""


@pytest.mark.parametrize("keys", [("down", "down", "down", "enter"), ("escape",)])
async def test_or_the_message_is_changed(narrow: Narrow, keys: tuple[str, ...]) -> None:
    app = app_for(narrow)
    async with app.run_test(size=(80, 24)) as pilot:
        await fill(pilot, narrow)
        before = sees(narrow)
        await pilot.press(*keys)
        await wait_until(pilot, lambda: not isinstance(app.screen, ContextScreen))
        assert app.query_one(Prompt).text == "too much"
        assert (sees(narrow), len(narrow.sent)) == (before, 3)


async def test_the_meter(chat: ScriptedChat) -> None:
    chat.context_used = 512
    app = app_for(chat)
    async with app.run_test(size=(80, 24)) as pilot:
        await wait_until(pilot, lambda: app.chat is chat)
        await ask(pilot, "/context")
        await wait_for_text(pilot, "512 of 2048 tokens, 25 %")
