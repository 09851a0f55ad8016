"""Going back in a conversation: nothing that was said is lost, and what is read is what the model knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import ScriptedChat, app_for, ask, converse, idle, screen_text, wait_for_text, wait_until

from edgespec.conversations.recorder import Recorder
from edgespec.conversations.store import ConversationStore
from edgespec.errors import GenerationError, ModelError
from edgespec.tui.app import EdgespecApp
from edgespec.tui.engine import Progress
from edgespec.tui.prompt import Prompt

SIZE = (120, 40)


def kept(recorder: Recorder) -> list[list[str]]:
    """The texts of all branches of all conversations."""
    assert recorder.directory is not None
    recorder.flush()
    store = ConversationStore(recorder.directory, pytest.fail)
    found: list[list[str]] = []
    for listed in store.list():
        tree = store.load(listed.id)
        for leaf in tree.branches():
            tree.leaf = leaf
            found.append([entry.text for entry in tree.path()])
    return found


async def test_a_chat_keeps_itself(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await ask(pilot, "Why is the sky blue?")
        await wait_until(pilot, chat.sending.is_set)
        assert kept(recorder) == [["Why is the sky blue?", ""]]
        chat.say("It scatt")
        await wait_for_text(pilot, "It scatt")
        assert kept(recorder) == [["Why is the sky blue?", "It scatt"]]
        chat.say("ers.")
        chat.finish()
        await wait_for_text(pilot, "tok/s ·")
        assert kept(recorder) == [["Why is the sky blue?", "It scatters."]]
        assert screen_text(app).splitlines()[0].strip().startswith("Why is the sky blue?")
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: "sky" not in screen_text(app))
        assert len(kept(recorder)) == 1  # an empty one is not kept
        await converse(pilot, chat, ("Next?", "Yes."))
        assert kept(recorder)[0] == ["Next?", "Yes."]


async def test_regenerating_keeps_the_answer_before(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await converse(pilot, chat, ("one?", "First."), ("two?", "Second."))
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: len(chat.sent) == 3)
        chat.say("Another.")
        chat.finish()
        await wait_for_text(pilot, "Another.")
        await wait_until(pilot, lambda: idle(pilot))
        text = screen_text(app)
        assert "Second." not in text
        assert text.count("two?") == 1
        assert "branch 2/2" in text
        assert chat.sent == ["one?", "two?", "two?"]
        assert chat.told[-1] == ["one?", "First."]
        assert kept(recorder) == [["one?", "First.", "two?", "Second."], ["one?", "First.", "two?", "Another."]]


@pytest.mark.slow
async def test_the_same_answer_again_is_explained(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await converse(pilot, chat, ("one?", "First."))
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: len(chat.sent) == 2)
        chat.say("First.")
        chat.finish()
        await wait_for_text(pilot, "The same answer: at temperature 0")
        await converse(pilot, chat, ("two?", "First."))
        await wait_until(pilot, lambda: "The same answer" not in screen_text(app))


async def test_an_edited_question_is_a_branch(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await converse(pilot, chat, ("one?", "First."), ("two?", "Second."))
        await pilot.press("alt+up")
        assert app.query_one(Prompt).text == "two?"
        await wait_for_text(pilot, "editing your last message")
        assert "Second." in screen_text(app)  # until it is sent
        await pilot.press("backspace", "!", "enter")
        await wait_until(pilot, lambda: chat.sent[-1] == "two!")
        chat.say("Other.")
        chat.finish()
        await wait_until(pilot, lambda: idle(pilot))
        await wait_for_text(pilot, "Other.")
        assert "Second." not in screen_text(app)
        assert "editing" not in screen_text(app)
        assert chat.told[-1] == ["one?", "First."]
        assert kept(recorder)[0] == ["one?", "First.", "two?", "Second."]
        assert kept(recorder)[1] == ["one?", "First.", "two!", "Other."]


async def test_an_edit_can_be_left(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await converse(pilot, chat, ("one?", "First."))
        await pilot.press("alt+up", "escape")
        assert app.query_one(Prompt).text == ""
        await pilot.press("alt+up", "x", "escape")
        assert app.query_one(Prompt).text == "one?x"  # nothing that was written is lost
        assert "editing" not in screen_text(app)
        app.query_one(Prompt).clear()
        await converse(pilot, chat, ("two?", "Second."))
        assert chat.told[-1] == ["one?", "First."]
        app.query_one(Prompt).insert("a thought")
        await pilot.press("alt+up")
        assert app.query_one(Prompt).text == "a thought"
        assert kept(recorder) == [["one?", "First.", "two?", "Second."]]


async def test_walking_between_branches(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await converse(pilot, chat, ("one?", "First."), ("two?", "Second."))
        await pilot.press("alt+up", *"!", "enter")
        await wait_until(pilot, lambda: len(chat.sent) == 3)
        chat.say("Third.")
        chat.finish()
        await wait_for_text(pilot, "branch 2/2")
        await wait_until(pilot, lambda: idle(pilot))
        await pilot.press("alt+left")
        await wait_for_text(pilot, "branch 1/2")
        text = screen_text(app)
        assert ("Second." in text, "Third." in text, text.count("First.")) == (True, False, 1)
        assert text.count("6 tok") + text.count("3 tok") >= 2  # the figures are there again
        await pilot.press("alt+left")
        await wait_for_text(pilot, "no other branch")
        await converse(pilot, chat, ("more?", "Fourth."))
        assert chat.told[-1] == ["one?", "First.", "two?", "Second."]
        await pilot.press("alt+right")
        await wait_for_text(pilot, "Third.")
        assert kept(recorder) == [
            ["one?", "First.", "two?", "Second.", "more?", "Fourth."],
            ["one?", "First.", "two?!", "Third."],
        ]


async def test_nothing_can_be_gone_back_to(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await wait_for_text(pilot, "scripted-1b")
        await pilot.press("ctrl+r", "alt+up", "alt+left")
        await wait_for_text(pilot, "Nothing has been said here yet.")
        await ask(pilot, "one?")
        await wait_until(pilot, chat.sending.is_set)
        await pilot.press("ctrl+r")
        await wait_for_text(pilot, "Esc stops the answer first.")
        assert chat.sent == ["one?"]
        chat.finish()


async def test_what_was_not_answered_is_not_part_of_the_conversation(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await converse(pilot, chat, ("one?", "First."))
        await ask(pilot, "unlucky")
        chat.fail(GenerationError("It cannot be answered."))
        await wait_for_text(pilot, "It cannot be answered.")
        await wait_until(pilot, lambda: app.query_one(Prompt).text == "unlucky")
        assert kept(recorder) == [["one?", "First."]]
        app.query_one(Prompt).clear()
        await converse(pilot, chat, ("two?", "Second."))
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: chat.sent[-1] == "two?" and len(chat.sent) == 4)
        assert chat.told[-1] == ["one?", "First."]
        assert "First." in screen_text(app)
        chat.say("Third.")
        chat.finish()
        await wait_until(pilot, lambda: idle(pilot))
        assert len(kept(recorder)) == 2


async def test_the_only_question_fails_when_it_is_asked_again(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await converse(pilot, chat, ("one?", "First."))
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: len(chat.sent) == 2)
        chat.fail(GenerationError("It cannot be answered."))
        await wait_until(pilot, lambda: app.query_one(Prompt).text == "one?")
        app.query_one(Prompt).clear()
        await pilot.press("ctrl+r", "alt+up")
        await wait_for_text(pilot, "Nothing has been said here yet.")
        assert chat.sent == ["one?", "one?"]
        assert kept(recorder) == [["one?", "First."]]
        await pilot.press("alt+right")
        await wait_for_text(pilot, "First.")
        await converse(pilot, chat, ("two?", "Second."))
        assert chat.told[-1] == ["one?", "First."]


async def test_a_message_that_waits_for_the_model_is_kept_until_it_is_taken_back(recorder: Recorder) -> None:
    def fail(progress: Progress) -> ScriptedChat:
        while recorder.conversation.leaf is None:
            progress("fetching", 0.0)
        assert kept(recorder) == [["early", ""]]
        raise ModelError("There is no model.")

    app = EdgespecApp(fail, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await ask(pilot, "early")
        await wait_for_text(pilot, "There is no model.")
        await wait_until(pilot, lambda: app.query_one(Prompt).text == "early")
        assert kept(recorder) == []


async def test_what_was_stopped_is_kept_as_stopped(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await ask(pilot, "long?")
        chat.say("Only the")
        await wait_for_text(pilot, "Only the")
        await pilot.press("escape")
        await wait_for_text(pilot, "(stopped)")
        assert recorder.conversation.path()[-1].finish == "cancelled"


async def test_quitting_keeps_what_was_said(chat: ScriptedChat, recorder: Recorder) -> None:
    app = app_for(chat, recorder)
    async with app.run_test(size=SIZE) as pilot:
        await ask(pilot, "endless")
        chat.say("and on")
        await wait_for_text(pilot, "and on")
        await pilot.press("ctrl+q")
    recorder.close()
    assert recorder.conversation.path()[-1].finish == "cancelled"
    assert kept(recorder) == [["endless", "and on"]]


async def test_what_cannot_be_kept_is_marked(chat: ScriptedChat, tmp_path: Path) -> None:
    (tmp_path / "conversations").write_text("no directory")
    heard: list[str] = []
    app = app_for(chat, Recorder(tmp_path / "conversations", heard.append))
    async with app.run_test(size=SIZE) as pilot:
        await converse(pilot, chat, ("one?", "First."), ("two?", "Second."))
        await wait_for_text(pilot, "not saved")
    assert len(heard) == 1


async def test_without_a_directory_it_says_that_nothing_is_kept(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=SIZE) as pilot:
        await converse(pilot, chat, ("one?", "First."))
        assert "not kept" in screen_text(app)
