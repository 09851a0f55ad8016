"""Writing a message."""

from __future__ import annotations

import pytest
from scripted import ScriptedChat, app_for, wait_until
from textual import events

from edgespec.tui.prompt import Prompt


@pytest.mark.parametrize("key", ["ctrl+j", "shift+enter"])
async def test_keys_for_a_new_line(chat: ScriptedChat, key: str) -> None:
    app = app_for(chat)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("a", key, "b", "enter")
        await wait_until(pilot, lambda: chat.sent == ["a\nb"])


async def test_keys_that_arrive_all_at_once_keep_their_order(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(80, 24)) as pilot:
        for key, character in [("a", "a"), ("ctrl+j", "\n"), ("b", "b"), ("enter", "\r"), ("c", "c")]:
            app.post_message(events.Key(key, character))
        await wait_until(pilot, lambda: chat.sent and app.query_one(Prompt).text)
        assert chat.sent == ["a\nb"]
        assert app.query_one(Prompt).text == "c"


async def test_the_prompt_grows_with_its_text_up_to_eight_lines(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(80, 24)) as pilot:
        prompt = app.query_one(Prompt)
        await wait_until(pilot, lambda: prompt.content_size.height == 1)
        await pilot.press("a", "ctrl+j", "b")
        await wait_until(pilot, lambda: prompt.content_size.height == 2)
        prompt.insert("words " * 40)
        await wait_until(pilot, lambda: prompt.content_size.height > 3)
        prompt.insert("\n" * 30)
        await wait_until(pilot, lambda: prompt.content_size.height == 8)
        assert prompt.region.bottom < 24
        prompt.clear()
        await wait_until(pilot, lambda: prompt.content_size.height == 1)


async def test_a_paste_is_taken_whole_and_made_visible(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(80, 24)) as pilot:
        app.query_one(Prompt).post_message(events.Paste("one\rtwo\r\nthree\x1b[31m\x00 [/b]"))
        await wait_until(pilot, lambda: app.query_one(Prompt).text)
        await pilot.press("enter")
        await wait_until(pilot, lambda: chat.sent == ["one\ntwo\nthree␛[31m␀ [/b]"])
