"""Writing a message."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import ScriptedChat, answered, app_for, ask, screen_text, wait_for_text, wait_until
from textual import events

from edgespec.conversations.recorder import Recorder
from edgespec.tui.app import EdgespecApp
from edgespec.tui.prompt import Prompt
from edgespec.tui.recall import Recall
from edgespec.tui.transcript import LONGEST, Note


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


def test_recall_goes_back_and_forth() -> None:
    recall = Recall()
    assert recall.older("x") is None
    recall.add("two")
    recall.begin_with(["one"])
    recall.add("two")
    assert [recall.older("being written"), recall.older(""), recall.older("")] == ["two", "one", None]
    assert [recall.newer(), recall.newer(), recall.newer()] == ["two", "being written", None]


async def test_up_at_the_first_line_brings_back_what_was_sent(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(80, 24)) as pilot:
        prompt = app.query_one(Prompt)
        for turns, text in enumerate(["first", "second\nof two lines"], start=1):
            await ask(pilot, text)
            chat.finish()
            await answered(pilot, turns)
        await pilot.press("n", "e", "w", "up")
        assert prompt.text == "second\nof two lines"
        await pilot.press("up")
        assert prompt.text == "second\nof two lines"  # the cursor went to its first line
        await pilot.press("up")
        assert prompt.text == "first"
        await pilot.press("up")
        assert prompt.text == "first"
        await pilot.press("down", "down")
        assert prompt.text == "new"


async def test_what_was_sent_before_the_program_began_comes_back_unless_nothing_is_kept(tmp_path: Path) -> None:
    for recorder, expected in [(Recorder(tmp_path), ""), (Recorder(tmp_path), "earlier"), (Recorder(None), "")]:
        chat = ScriptedChat()
        app = EdgespecApp(lambda _: chat, recorder)  # noqa: B023 - called before the next one is made
        async with app.run_test(size=(80, 24)) as pilot:
            await wait_until(pilot, lambda: app.chat)  # noqa: B023
            recorder.flush()
            await pilot.pause()
            await pilot.press("up")
            assert app.query_one(Prompt).text == expected
            app.query_one(Prompt).clear()
            await ask(pilot, "earlier")
            chat.finish()
            await answered(pilot, 1)
        recorder.close()


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "some words here\n" * 6250, "ü" * 1_000_000], ids=["line", "lines", "MB"]
)
async def test_a_large_paste_is_sent_whole(chat: ScriptedChat, text: str) -> None:
    app = app_for(chat)
    async with app.run_test(size=(80, 24)) as pilot:
        prompt = app.query_one(Prompt)
        prompt.insert("Look: ")
        prompt.post_message(events.Paste(text))
        await wait_until(pilot, lambda: len(prompt.text) > 20)
        assert prompt.text == f"Look: [{len(text):,} characters, text 1]"
        await pilot.press("enter")
        await wait_until(pilot, lambda: chat.sent)
        assert chat.sent == ["Look: " + text]
        assert app.query(Note).last().text == "Look: " + text
        await wait_for_text(pilot, f"▸ {len(text) + 6 - LONGEST:,} more characters")
        chat.finish()
        await answered(pilot, 1)
        await pilot.press("up", "enter")
        await wait_until(pilot, lambda: len(chat.sent) == 2)
        assert chat.sent[1] == chat.sent[0]
        assert "Traceback" not in screen_text(app)


async def test_a_long_message_shows_more_of_itself_with_each_click(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(80, 24)) as pilot:
        await ask(pilot, "a" * LONGEST + "b" * LONGEST + "c")
        for more in (LONGEST + 1, 1):
            await wait_for_text(pilot, f"▸ {more:,} more characters")
            note = app.query_one(".user")
            await pilot.click(".user", offset=(4, note.size.height - 1))
        await wait_until(pilot, lambda: screen_text(app).count("b") > 70 and "▸" not in screen_text(app))
        chat.finish()


async def test_long_texts_that_come_back_are_whole(chat: ScriptedChat) -> None:
    first, second = "a" * 30_000, "b" * 30_000
    app = app_for(chat)
    async with app.run_test(size=(80, 24)) as pilot:
        prompt = app.query_one(Prompt)
        prompt.post_message(events.Paste(second))
        await wait_until(pilot, lambda: prompt.text)
        prompt.give_back(first)
        assert len(prompt.text) < 100
        assert prompt.message == first + second
        await pilot.press("enter")
        await wait_until(pilot, lambda: chat.sent == [first + second])
        chat.finish()
        await answered(pilot, 1)
        await pilot.press("alt+up")
        await wait_until(pilot, lambda: prompt.message == first + second)
        await pilot.press("escape")
        await wait_until(pilot, lambda: prompt.text == "")
