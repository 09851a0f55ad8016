"""What somebody who chats sees."""

from __future__ import annotations

import pytest
from scripted import ScriptedChat, answered, app_for, ask, make_round, screen_text, wait_for_text, wait_until

from edgespec.chat.events import PromptProgress, TextDelta
from edgespec.errors import UsageError
from edgespec.tui.body import Body
from edgespec.tui.prompt import Prompt
from edgespec.tui.thoughts import Thoughts
from edgespec.tui.transcript import AnswerBlock, Note, Transcript
from edgespec.tui.turn import Turn


async def test_an_answer_is_read_while_it_is_written(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press(*"Hi", "!", "enter")
        await wait_until(pilot, lambda: chat.sent == ["Hi!"])
        assert "Hi!" in screen_text(app)
        assert app.query_one(Prompt).text == ""
        chat.say("It has ")
        await wait_for_text(pilot, "It has")
        chat.say("begun.")
        await wait_for_text(pilot, "It has begun.")
        assert chat.sending.is_set()
        chat.finish()
        await wait_for_text(pilot, "6 tok · 100.0 tok/s · first 0.42 s · 67 % accepted (4/6) · 3.0 tok/round")
        assert "stopped" not in screen_text(app)


async def test_a_second_turn_follows_the_first(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        for turns, (question, answer) in enumerate([("one?", "First."), ("two?", "Second.")], start=1):
            await ask(pilot, question)
            chat.say(answer)
            chat.finish()
            await answered(pilot, turns)
        text = screen_text(app)
        places = [text.index(part) for part in ("one?", "First.", "two?", "Second.")]
        assert places == sorted(places)
        assert chat.sent == ["one?", "two?"]


@pytest.mark.parametrize("cut", [1, 2, 3, 7])
async def test_a_code_fence_survives_any_split(chat: ScriptedChat, cut: int) -> None:
    app = app_for(chat)
    source = "Look:\n\n```python\nx = a[0]\n\n# not a heading\n```\n\nThat was **code**.\n"
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "code?")
        for start in range(0, len(source), cut):
            chat.say(source[start : start + cut])
        chat.finish()
        await wait_for_text(pilot, "tok/s ·")
        text = screen_text(app)
        assert "x = a[0]" in text
        assert "# not a heading" in text
        assert "That was code." in text
        assert "```" not in text


async def test_a_fence_that_never_closes_is_still_shown(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "code?")
        chat.say("```c\nint main(")
        chat.finish("length")
        await wait_for_text(pilot, "(cut off at the length limit)")
        assert "int main(" in screen_text(app)


async def test_escape_stops_and_keeps_what_was_said(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "long?")
        chat.say("Only the beginning")
        await wait_for_text(pilot, "Only the beginning")
        assert "answering · esc stops" in screen_text(app)
        await pilot.press("escape")
        await wait_for_text(pilot, "(stopped) · 3 tok")
        assert "Only the beginning" in screen_text(app)
        assert chat.idle.is_set()
        await ask(pilot, "again?")
        chat.say("Still here.")
        await wait_for_text(pilot, "Still here.")


async def test_escape_while_the_prompt_is_read(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "long?")
        chat.tell(PromptProgress(512, 2048))
        await wait_for_text(pilot, "reading prompt 512/2048")
        await pilot.press("escape")
        await wait_for_text(pilot, "(stopped) · 0 tok")
        assert "reading" not in screen_text(app)


async def test_a_message_waits_in_the_prompt_while_an_answer_streams(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await ask(pilot, "first")
        chat.say("Talking")
        await wait_for_text(pilot, "Talking")
        await ask(pilot, "second")
        await wait_for_text(pilot, "One message at a time")
        assert app.query_one(Prompt).text == "second"
        chat.finish()
        await wait_for_text(pilot, "tok/s ·")
        await pilot.press("enter")
        await wait_until(pilot, lambda: chat.sent == ["first", "second"])


async def test_nothing_is_sent_for_an_empty_prompt(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("enter", "space", "ctrl+j", "enter")
        await pilot.pause()
        assert chat.sent == []
        assert not app.query(Note)


async def test_a_new_chat_is_empty(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "old question")
        chat.say("old answer")
        chat.finish()
        await wait_for_text(pilot, "tok/s ·")
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: "old" not in screen_text(app))
        assert chat.cleared == 1
        await ask(pilot, "new question")
        chat.say("new answer")
        await wait_for_text(pilot, "new answer")


async def test_a_new_chat_during_an_answer_stops_it_first(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "old question")
        chat.say("old answer")
        await wait_for_text(pilot, "old answer")
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: chat.cleared == 1)
        assert chat.idle.is_set()
        await wait_until(pilot, lambda: "old" not in screen_text(app))
        assert not app.query(AnswerBlock)


async def test_an_error_is_one_sentence_and_the_message_comes_back(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "much too long")
        chat.fail(UsageError("The prompt is 12 tokens too long [/]. Start a new chat."))
        await wait_for_text(pilot, "The prompt is 12 tokens too long [/]. Start a new chat.")
        assert app.query_one(Prompt).text == "much too long"
        app.query_one(Prompt).clear()
        await ask(pilot, "short")
        chat.say("Fine.")
        await wait_for_text(pilot, "Fine.")


async def test_a_fault_of_ours_shows_no_traceback(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "hello")
        chat.say("Half an answer")
        await wait_for_text(pilot, "Half an answer")
        chat.fail(ZeroDivisionError("division by zero"))
        await wait_for_text(pilot, "The answer broke off because of a fault in edgespec")
        text = screen_text(app)
        assert "Half an answer" in text
        assert "(broken off)" in text
        assert "Traceback" not in text
        assert app.query_one(Prompt).text == ""


async def test_text_is_never_read_as_markup_or_as_commands(chat: ScriptedChat) -> None:
    app = app_for(chat)
    hostile = "[/] [a[0]] [bold]x[/bold] [@click=app.quit]q[/] \x1b]52;c;aGk=\x07 \x9b2J &#8238;x"
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "[/b] [red]mine[/red] [a[0]]")
        for start in range(len(hostile)):
            chat.say(hostile[start])
        chat.finish()
        await wait_for_text(pilot, "tok/s ·")
        text = screen_text(app)
        assert "[/b] [red]mine[/red] [a[0]]" in text
        assert "[/] [a[0]] [bold]x[/bold] [@click=app.quit]q[/] ␛]52;c;aGk=␇ �2J �x" in text
        assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}


async def test_code_is_printable_too(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "code?")
        chat.say("Run `\x1b[2Jx` or\n\n    \x1b[31mred\n\n```sh\necho \x07\n```\n")
        chat.finish()
        await answered(pilot, 1)
        text = screen_text(app)
        assert "␛[2Jx" in text
        assert "␛[31mred" in text
        assert "echo ␇" in text


async def test_html_and_line_breaks_are_not_lost(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "verse?")
        chat.say("<div>roses</div>\nare red,\nviolets <b>blue</b>")
        chat.finish()
        await wait_for_text(pilot, "tok/s ·")
        lines = [line.split("  ")[2].strip() for line in screen_text(app).splitlines() if line.startswith("    ")]
        start = lines.index("<div>roses</div>")
        assert lines[start : start + 3] == ["<div>roses</div>", "are red,", "violets <b>blue</b>"]


async def test_hovering_a_table_reads_no_markup(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40), tooltips=True) as pilot:
        await ask(pilot, "table?")
        chat.say("| [/] | b |\n|---|---|\n| [/x] | [a[0]] |\n")
        chat.finish()
        await wait_for_text(pilot, "tok/s ·")
        for cell in app.query(".cell"):
            await pilot.hover(cell)
            await pilot.pause()
        assert "[/x]" in screen_text(app)


async def test_links_do_not_open(chat: ScriptedChat, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    app = app_for(chat)
    monkeypatch.setattr(app, "open_url", opened.append)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "link?")
        chat.say("[click here](https://example.org)")
        chat.finish()
        await wait_for_text(pilot, "tok/s ·")
        await pilot.click("AnswerBlock > Body", offset=(6, 0))
        await pilot.pause()
        assert opened == []


async def test_the_screen_follows_only_a_reader_at_the_end(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(80, 24)) as pilot:
        transcript = app.query_one(Transcript)
        await ask(pilot, "list?")
        await pilot.press("pageup")  # Nothing to scroll yet: that must not switch following off.
        for i in range(40):
            chat.say(f"line {i}\n\n", make_round())
        await wait_for_text(pilot, "line 39")
        await pilot.press("pageup")
        await wait_until(pilot, lambda: transcript.scroll_y < transcript.max_scroll_y)
        kept = transcript.scroll_y
        chat.say("one more\n\n")
        await wait_until(pilot, lambda: "one more" in app.query_one(AnswerBlock).text)
        await pilot.pause()
        assert transcript.scroll_y == kept
        await pilot.press("pagedown", "pagedown")
        chat.say("the very last\n\n")
        await wait_for_text(pilot, "the very last")
        await pilot.press("pageup")
        await wait_until(pilot, lambda: transcript.scroll_y < transcript.max_scroll_y)
        kept = transcript.scroll_y
        chat.finish()
        await answered(pilot, 1)
        assert transcript.scroll_y == kept
        await pilot.press("ctrl+end")
        await wait_until(pilot, lambda: transcript.scroll_y == transcript.max_scroll_y)


async def test_room_is_made_for_what_streams_and_taken_back(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(80, 24)) as pilot:
        transcript = app.query_one(Transcript)
        await ask(pilot, "list?")
        await wait_until(pilot, lambda: app.query("AnswerBlock > Body"))
        body, spare = app.query_one("AnswerBlock > Body", Body), set[int]()
        for i in range(12):
            chat.say(f"- line {i}\n- and\n- more\n", make_round())
            await wait_for_text(pilot, f"line {i}")
            spare.add(body.size.height - len(body.lines))
            assert transcript.scroll_y == transcript.max_scroll_y
        assert 0 < max(spare) <= 8
        chat.finish()
        await answered(pilot, 1)
        assert body.size.height == len(body.lines) == 36
        assert "more" in screen_text(app)


def test_the_screen_is_told_of_rounds_only_while_it_does_not_look() -> None:
    turn = Turn()
    told = [turn.arrive(TextDelta(text, make_round()), 1.0) for text in "abc"]
    assert told == [True, False, False]
    turn.watched = False
    assert turn.arrive(TextDelta("d", make_round()), 2.0)
    assert "".join(delta.text for delta, _ in turn.take()) == "abcd"
    assert not list(turn.take())


@pytest.mark.parametrize("opened", [False, True])
async def test_thoughts_are_folded_with_their_size(chat: ScriptedChat, opened: bool) -> None:
    chat.opens_thought = opened
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "hard?")
        chat.say("Let me see." if opened else "<think>\nLet me see.")
        await wait_for_text(pilot, "▸ thinking (3 tok)")
        chat.say(" Yes.</thi")
        chat.say("nk>\n\nIt is **easy**.")
        chat.say(" Very.")
        chat.finish()
        await answered(pilot, 1)
        text = screen_text(app)
        assert "▸ thoughts (6 tok)" in text
        assert "It is easy. Very." in text
        assert "think>" not in text
        assert "Let me see" not in text
        await pilot.click(Thoughts)
        await wait_for_text(pilot, "Let me see. Yes.")
        app.query_one(Thoughts).focus()
        await pilot.press("enter")
        await wait_until(pilot, lambda: "Let me see" not in screen_text(app))


async def test_no_thought_no_fold(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "tags?")
        chat.say("The tag <think> opens, </think> closes.")
        chat.finish()
        await answered(pilot, 1)
        assert "The tag <think> opens, </think> closes." in screen_text(app)
        assert "▸" not in screen_text(app)


async def test_an_answer_and_its_code_are_copied(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await pilot.press("f8")
        await wait_for_text(pilot, "There is no answer to copy.")
        await ask(pilot, "code?")
        source = "First:\n\n```sh\nls\n```\n\n- then:\n\n  ```python\n  x = '\x1b]0;t\x07'\n  ```\n"
        chat.say(source)
        chat.finish()
        await answered(pilot, 1)
        await pilot.press("f9")
        assert app.clipboard == "x = '␛]0;t␇'\n"
        await pilot.press("f8")
        assert app.clipboard == source.replace("\x1b", "␛").replace("\x07", "␇")
        body = app.query_one("AnswerBlock > Body", Body)
        rows = [y for y, line in enumerate(body.lines) if line.plain.endswith(" copy ")]
        for row, copied in zip(rows, ["ls\n", "x = '␛]0;t␇'\n"], strict=True):
            app.clear_notifications()  # they would be clicked
            await pilot.pause()
            await pilot.click(body, offset=(body.size.width - 1, row))
            await pilot.pause()
            assert app.clipboard == copied
        app.copy_to_clipboard("")
        await pilot.click(body, offset=(6, 3))
        assert app.clipboard == ""
