"""The conversations that are kept, as somebody uses them who comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted import ScriptedChat, app_for, ask, converse, idle, screen_text, wait_for_text, wait_until
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from edgespec.conversations import FILE
from edgespec.conversations.conversation import Conversation, Entry
from edgespec.conversations.recorder import Recorder
from edgespec.conversations.store import ConversationStore
from edgespec.tui.conversations import Conversations, Line
from edgespec.tui.prompt import Prompt
from edgespec.tui.transcript import Earlier, Note, Transcript

SIZE = (120, 40)
HOSTILE = "[/] \x1b]52;c;aGk=\x07 [@click=app.quit]q[/]"


def kept(recorder: Recorder) -> dict[str, Conversation]:
    """By title."""
    assert recorder.directory is not None
    recorder.flush()
    store = ConversationStore(recorder.directory, pytest.fail)
    return {found.title: store.load(found.id) for found in store.list()}


async def two_conversations(pilot: Pilot[None], chat: ScriptedChat) -> None:
    """About the sky, in two turns, then about tea, which stays open."""
    await converse(pilot, chat, ("Why is the sky blue?", "It scatters."), ("And **red**?", "In the *evening*."))
    await pilot.press("ctrl+n")
    await wait_for_text(pilot, "A private chat")
    await converse(pilot, chat, ("How long should tea steep?", "Four minutes."))


async def open_screen(pilot: Pilot[None], shown: int) -> None:
    await pilot.press("ctrl+o")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, Conversations))
    await wait_until(pilot, lambda: pilot.app.screen.query_one(OptionList).option_count == shown)


async def test_an_earlier_conversation_is_resumed(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await two_conversations(pilot, chat)
        app.query_one(Prompt).insert("unsent ")
        await open_screen(pilot, 2)
        text = screen_text(app)
        assert text.index("How long should tea") < text.index("Why is the sky blue?")
        assert "2 conversations" in text
        await pilot.press("down", "enter")
        await wait_for_text(pilot, "In the evening.")
        text = screen_text(app)
        assert [part in text for part in ("It scatters.", "And **red**?", "tea")] == [True, True, False]
        assert text.count("3 tok · 100.0 tok/s · first 0.42 s · 67 % accepted (2/3)") == 2
        assert text.splitlines()[0].strip().startswith("Why is the sky blue?")
        assert app.query_one(Prompt).text == "unsent "
        app.query_one(Prompt).clear()
        await converse(pilot, chat, ("More?", "Yes."))
        assert chat.told[-1] == ["Why is the sky blue?", "It scatters.", "And **red**?", "In the *evening*."]
        assert {title: len(c.entries) for title, c in kept(recorder).items()} == {
            "Why is the sky blue?": 6,
            "How long should tea steep?": 2,
        }


async def test_it_searches_while_one_types(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await two_conversations(pilot, chat)
        await open_screen(pilot, 2)
        await pilot.press(*"minut")
        await wait_for_text(pilot, "Four minutes.")
        await wait_until(pilot, lambda: app.screen.query_one(OptionList).option_count == 1)
        await pilot.press(*"zzz")
        await wait_for_text(pilot, "nothing was found")
        await pilot.press("enter", "f2", "delete", "ctrl+s")  # there is nothing to do it to
        for _ in range(8):
            await pilot.press("backspace")
        await wait_until(pilot, lambda: app.screen.query_one(OptionList).option_count == 2)
        await pilot.press("escape")
        await wait_until(pilot, lambda: not isinstance(app.screen, Conversations))
        assert len(kept(recorder)) == 2


async def test_a_search_may_begin_in_the_prompt(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await two_conversations(pilot, chat)
        await ask(pilot, "/history it's a scatter")
        await wait_until(pilot, lambda: isinstance(app.screen, Conversations))
        await wait_for_text(pilot, "it's a scatter")
        await wait_for_text(pilot, "nothing was found")


async def test_renaming(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await two_conversations(pilot, chat)
        await open_screen(pilot, 2)
        await pilot.press("f2")
        await wait_until(pilot, lambda: isinstance(app.screen, Line))
        app.screen.query_one(Input).value = "  Tea\ttime [b] "
        await pilot.press("enter")
        await wait_for_text(pilot, "* Tea time [b]")
        await pilot.press("f2", "escape", "escape")
        await wait_until(pilot, lambda: not isinstance(app.screen, (Conversations, Line)))
        await wait_until(pilot, lambda: screen_text(app).splitlines()[0].strip().startswith("Tea time [b]"))
        assert set(kept(recorder)) == {"Tea time [b]", "Why is the sky blue?"}
        await converse(pilot, chat, ("More?", "Yes."))
        assert "Tea time [b]" in kept(recorder)


async def test_deleting_can_be_undone(chat: ScriptedChat, recorder: Recorder, directory: Path) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await two_conversations(pilot, chat)
        await open_screen(pilot, 2)
        await pilot.press("delete")
        await wait_for_text(pilot, "This conversation is open.")
        await pilot.press("down", "delete")
        await wait_for_text(pilot, "Ctrl+Z brings it back.")
        await wait_until(pilot, lambda: app.screen.query_one(OptionList).option_count == 1)
        assert len(kept(recorder)) == 1
        await pilot.press("ctrl+z")
        await wait_until(pilot, lambda: app.screen.query_one(OptionList).option_count == 2)
        assert len(kept(recorder)) == 2
        await pilot.press("ctrl+d")
        await wait_until(pilot, lambda: app.screen.query_one(OptionList).option_count == 1)
        assert b"scatters" in b"".join(path.read_bytes() for path in directory.iterdir())
    recorder.close()
    assert b"scatters" not in b"".join(path.read_bytes() for path in directory.iterdir())
    store = ConversationStore(directory)
    assert [found.title for found in store.list()] == ["How long should tea steep?"]


async def test_exporting(
    chat: ScriptedChat, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await two_conversations(pilot, chat)
        await open_screen(pilot, 2)
        for name in ("why-is-the-sky-blue.md", "why-is-the-sky-blue-2.md"):
            await pilot.press(*["down"] * ("2" not in name), "ctrl+s")
            await wait_until(pilot, lambda: isinstance(app.screen, Line))
            assert app.screen.query_one(Input).value == str(tmp_path / name)
            await pilot.press("enter")
            await wait_until(pilot, (tmp_path / name).exists)
        assert "It scatters." in (tmp_path / name).read_text()
        await pilot.press("ctrl+s")
        await wait_until(pilot, lambda: isinstance(app.screen, Line))
        app.screen.query_one(Input).value = str(tmp_path / "sky.json")
        await pilot.press("enter")
        await wait_until(pilot, (tmp_path / "sky.json").exists)
        await wait_for_text(pilot, "sky.json")
        assert len(json.loads((tmp_path / "sky.json").read_text())["messages"]) == 4
        await pilot.press("escape")
        await ask(pilot, "/save tea.json")
        await wait_until(pilot, (tmp_path / "tea.json").exists)
        saved = json.loads((tmp_path / "tea.json").read_text())
        assert [m["text"] for m in saved["messages"]] == ["How long should tea steep?", "Four minutes."]
        await ask(pilot, "/save tea.json")
        await wait_for_text(pilot, "is there already")


async def test_resuming_stops_the_answer_first(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await two_conversations(pilot, chat)
        await ask(pilot, "And coffee?")
        chat.say("Half of")
        await wait_for_text(pilot, "Half of")
        await open_screen(pilot, 2)
        await pilot.press("down", "enter")
        await wait_for_text(pilot, "In the evening.")
        await wait_until(pilot, lambda: idle(pilot))
        last = kept(recorder)["How long should tea steep?"].path()[-1]
        assert (last.text, last.finish) == ("Half of", "cancelled")


async def test_the_model_that_answered_is_named_where_another_is_here(chat: ScriptedChat, recorder: Recorder) -> None:
    async with app_for(chat, recorder).run_test(size=SIZE) as pilot:
        await two_conversations(pilot, chat)
    recorder.close()
    other = ScriptedChat()
    other.model, other.tokenizer_sha256 = "other-2b", "6" * 64
    assert recorder.directory is not None
    app = app_for(other, Recorder(recorder.directory, pytest.fail))
    async with app.run_test(size=SIZE) as pilot:
        await wait_for_text(pilot, "other-2b")
        await open_screen(pilot, 2)
        await pilot.press("enter")
        await wait_for_text(pilot, "scripted-1b · 3 tok")
        await converse(pilot, other, ("More?", "Yes."))
        assert [(m.role, m.ids) for m in other.messages[:2]] == [("user", None), ("assistant", None)]
        text = screen_text(app)
        assert text.count("scripted-1b · ") == 1
        assert "other-2b" in text


def keep_long(directory: Path, turns: int) -> Conversation:
    """Questions 1 to `turns` and their answers; the last question also has another answer, which is not read."""
    long = Conversation(title="long")
    for n in range(1, turns + 1):
        long.add(Entry(2 * n, long.leaf, "user", f"question {n};", 0.0))
        long.add(Entry(2 * n + 1, 2 * n, "assistant", f"answer {n};", 0.0, finish="stop", model="scripted-1b"))
        long.leaf = 2 * n + 1
    long.add(Entry(999, 2 * turns, "assistant", "another answer;", 0.0, finish="stop"))
    store = ConversationStore(directory)
    store.keep(long, long.entries.values())
    store.close()
    return long


async def test_of_a_long_conversation_the_end_is_shown_first(chat: ScriptedChat, directory: Path) -> None:
    keep_long(directory, 25)
    app = app_for(chat, Recorder(directory, pytest.fail))
    async with app.run_test(size=(120, 30)) as pilot:
        transcript = app.query_one(Transcript)

        def asked() -> list[str]:
            return [note.text for note in app.query(".user").results(Note)]

        await open_screen(pilot, 1)
        await pilot.press("enter")
        await wait_until(pilot, lambda: asked() == [f"question {n};" for n in range(16, 26)])
        await wait_for_text(pilot, "answer 25;")
        while transcript.scroll_y > 0:
            await pilot.press("pageup")
        await wait_for_text(pilot, "15 earlier turns")
        await pilot.press("pageup")
        await wait_until(pilot, lambda: asked() == [f"question {n};" for n in range(6, 26)])
        await wait_for_text(pilot, "question 16;")  # where one was reading
        transcript.scroll_home(animate=False)
        await wait_for_text(pilot, "5 earlier turns")
        await pilot.click(Earlier)
        await wait_until(pilot, lambda: asked() == [f"question {n};" for n in range(1, 26)])
        await wait_until(pilot, lambda: not app.query(Earlier))
        await pilot.press("alt+right")
        await wait_for_text(pilot, "another answer;")
        assert len(asked()) == 25
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: not asked())


async def test_a_long_conversation_goes_on(chat: ScriptedChat, directory: Path) -> None:
    long = keep_long(directory, 25)
    app = app_for(chat, Recorder(directory, pytest.fail))
    async with app.run_test(size=(120, 30)) as pilot:
        await open_screen(pilot, 1)
        await pilot.press("enter")
        await wait_for_text(pilot, "answer 25;")
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: len(chat.told) == 1)
        assert chat.told == [[entry.text for entry in long.path()[:-2]]]
        chat.say("a third;")
        chat.finish()
        await wait_for_text(pilot, "a third;")
        text = screen_text(app)
        assert ("answer 24;" in text, "answer 25;" in text) == (True, False)


async def test_what_was_cut_short_says_so(chat: ScriptedChat, recorder: Recorder, directory: Path) -> None:
    async with app_for(chat, recorder).run_test(size=SIZE) as pilot:
        await ask(pilot, "long?")
        chat.say("Only the")
        await wait_for_text(pilot, "Only the")
        await pilot.press("escape")
        await wait_until(pilot, lambda: idle(pilot))
        await ask(pilot, "and?")
        chat.say("As it was wr")
        chat.fail(OSError("killed"))
        await wait_for_text(pilot, "(broken off)")
    recorder.close()
    app = app_for(ScriptedChat(), Recorder(directory, pytest.fail))
    async with app.run_test(size=SIZE) as pilot:
        await open_screen(pilot, 1)
        await pilot.press("enter")
        await wait_for_text(pilot, "As it was wr")
        text = screen_text(app)
        assert text.index("(stopped)") < text.index("As it was wr") < text.index("(broken off)")


async def test_nothing_hostile_reaches_the_screen(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await converse(pilot, chat, (HOSTILE, HOSTILE))
        await open_screen(pilot, 1)
        for search in ("", "click"):
            await pilot.press(*search)
            await wait_until(pilot, lambda: app.screen.query_one(OptionList).option_count == 1)
            text = screen_text(app)
            assert "[/] ␛]52;c;aGk=␇ [@click=app.quit]q[/]" in text
            assert not set(text) & {"\x1b", "\x07"}
        await pilot.press("f2")
        await wait_until(pilot, lambda: isinstance(app.screen, Line))
        assert "\x1b" not in screen_text(app)


async def test_without_history_there_is_nothing_to_show(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await pilot.press("ctrl+o")
        await wait_for_text(pilot, "No conversations are kept here")


async def test_a_file_that_cannot_be_read_is_said(chat: ScriptedChat, directory: Path) -> None:
    directory.mkdir()
    (directory / FILE).mkdir()
    app = app_for(chat, Recorder(directory))
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await pilot.press("ctrl+o")
        await wait_for_text(pilot, "The conversations cannot be had")
        await pilot.press("escape")
        await converse(pilot, chat, ("Still here?", "Yes."))


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (200, 60)])
async def test_it_fits_the_terminal(chat: ScriptedChat, recorder: Recorder, size: tuple[int, int]) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=size) as pilot:
        await two_conversations(pilot, chat)
        await open_screen(pilot, 2)
        text = screen_text(app)
        assert "Why is the sky blue?" in text
        assert "2 conversations" in text
        assert "resumes" in text or size[0] < 80
