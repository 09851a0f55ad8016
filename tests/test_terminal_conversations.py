"""Conversations in the whole program, with the default model, under a real (pseudo-)terminal: all text is there."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import Terminal, ready

from edgespec.bundle import Bundle
from edgespec.conversations import FILE
from edgespec.conversations.conversation import Conversation
from edgespec.conversations.store import ConversationStore

ESCAPE, ALT_UP, ALT_LEFT = "\x1b", "\x1b[1;3A", "\x1b[1;3D"
CTRL_N, CTRL_O, CTRL_Q, CTRL_R, DOWN = "\x0e", "\x0f", "\x11", "\x12", "\x1b[B"
STORY = "Write a very long story about a river."


class Home:
    """A home of its own, with the models that are here and nothing else."""

    def __init__(self, directory: Path, bundle: Bundle) -> None:
        directory.mkdir()
        (directory / "models").symlink_to(bundle.directory.parent)
        (directory / "config.toml").write_text("max-tokens = 250\n")
        self.directory = directory
        self._terminals: list[Terminal] = []

    def start(self) -> Terminal:
        environment = {name: value for name, value in os.environ.items() if name != "EDGESPEC_HISTORY"}
        terminal = Terminal({**environment, "EDGESPEC_HOME": str(self.directory)})
        self._terminals.append(terminal)
        terminal.until(ready)
        return terminal

    def kept(self) -> dict[str, Conversation]:
        """What is in the file, by title."""
        store = ConversationStore(self.directory / "data" / "conversations", pytest.fail)
        found = {one.title: store.load(one.id) for one in store.list()}
        assert store._read("PRAGMA integrity_check") == [("ok",)]
        store.close()
        return found

    def close(self) -> None:
        for terminal in self._terminals:
            terminal.process.close(force=True)


@pytest.fixture
def home(tmp_path: Path, default_bundle: Bundle) -> Iterator[Home]:
    home = Home(tmp_path / "home", default_bundle)
    yield home
    home.close()


def press(terminal: Terminal, keys: str) -> None:
    terminal.process.send(keys)


def tell(terminal: Terminal, text: str) -> None:
    """Send a message and wait for its answer's figures."""
    press(terminal, f"{text}\r")
    terminal.until(lambda screen: " tok · " in screen.rsplit(text, 1)[-1] and "esc stops" not in screen)


def answering(screen: str) -> bool:
    """Whether there is a word between the last question and the line above the prompt."""
    lines = [line[:84] for line in screen.splitlines()]
    asked = max((n for n, line in enumerate(lines) if "▌" in line), default=0)
    prompt = next((n for n, line in enumerate(lines) if n > asked and "╭" in line), 0)
    return any(line.strip() for line in lines[asked + 1 : prompt - 1])


def stop_soon(terminal: Terminal) -> None:
    """Let an answer run for some words, then stop it."""
    terminal.until(lambda screen: "esc stops" in screen and answering(screen))
    press(terminal, ESCAPE)
    terminal.until(lambda screen: "(stopped)" in screen and "esc stops" not in screen)


def shown(terminal: Terminal, text: str) -> bool:
    """Whether the last words of `text` are on the screen, however it breaks its lines."""
    words = text.replace("*", "").split()[-12:]
    return " ".join(words) in " ".join(line[:84].strip(" ▌│") for line in terminal.text.splitlines() if line.strip())


def test_ask_stop_answer_again_edit_switch_quit_and_resume(home: Home) -> None:
    terminal = home.start()
    tell(terminal, "Name three rivers.")
    press(terminal, f"{STORY}\r")
    stop_soon(terminal)
    press(terminal, CTRL_R)
    terminal.until(lambda screen: "branch 2/2" in screen)
    stop_soon(terminal)
    press(terminal, ALT_UP)
    terminal.until(lambda screen: "editing your last message" in screen)
    press(terminal, " Or a lake.\r")
    terminal.until(lambda screen: "branch 3/3" in screen)
    stop_soon(terminal)
    press(terminal, CTRL_N)
    terminal.until(lambda screen: "A private chat" in screen)
    tell(terminal, "What is two plus two?")
    press(terminal, CTRL_O)
    terminal.until(lambda screen: "2 conversations" in screen)
    press(terminal, "RIVERS name")
    terminal.until(lambda screen: "1 conversation" in screen and "2 conversations" not in screen)
    press(terminal, "\r")
    terminal.until(lambda screen: "branch 3/3" in screen and "Or a lake." in screen)
    press(terminal, ALT_LEFT)
    terminal.until(lambda screen: "branch 2/3" in screen)
    press(terminal, CTRL_Q)
    assert terminal.end() == 0

    kept = home.kept()
    assert set(kept) == {"Name three rivers.", "What is two plus two?"}
    rivers = kept["Name three rivers."]
    ends = [rivers.entries[leaf] for leaf in rivers.branches()]
    assert [(end.finish, end.model, bool(end.figures)) for end in ends] == [("cancelled", "smollm2-135m", True)] * 3
    assert all(end.text for end in ends)
    asked = [rivers.entries[end.parent or 0].text for end in ends]
    assert asked == [STORY, STORY, f"{STORY} Or a lake."]

    terminal = home.start()
    press(terminal, CTRL_O)
    terminal.until(lambda screen: "2 conversations" in screen)
    press(terminal, "rivers")
    terminal.until(lambda screen: "1 conversation" in screen and "2 conversations" not in screen)
    press(terminal, "\r")
    terminal.until(lambda screen: "branch 2/3" in screen and "(stopped)" in screen)
    question, answer, *_, last = rivers.path()
    assert all(shown(terminal, entry.text) for entry in (question, answer, last))
    tell(terminal, "Thank you.")
    press(terminal, CTRL_Q)
    assert terminal.end() == 0
    assert [entry.text for entry in home.kept()["Name three rivers."].path()][-2] == "Thank you."


def rows(screen: str) -> list[str]:
    """The lines of an answer's text: long ones, right of the margin, left of the sidebar."""
    lines = (line[:84].rstrip() for line in screen.splitlines())
    return [line.strip() for line in lines if line.startswith("    ") and len(line.split()) > 8 and "tok" not in line]


def test_kill_9_keeps_what_was_on_the_screen(home: Home) -> None:
    terminal = home.start()
    press(terminal, "Explain how a river comes to be.\r")
    terminal.until(lambda screen: len(rows(screen)) > 2)
    seen = rows(terminal.text)
    terminal.process.kill(signal.SIGKILL)
    terminal.end()
    (kept,) = home.kept().values()
    question, answer = kept.path()
    assert question.text == "Explain how a river comes to be."
    assert answer.finish is None
    said = " ".join(answer.text.split())
    assert all(row in said for row in seen)
    terminal = home.start()
    press(terminal, CTRL_O)
    terminal.until(lambda screen: "1 conversation" in screen)
    press(terminal, "\r")
    terminal.until(lambda screen: "(broken off)" in screen)
    assert shown(terminal, answer.text)


@pytest.mark.slow
def test_a_file_of_a_later_version_is_left_alone_and_the_chat_goes_on(home: Home) -> None:
    path = home.directory / "data" / "conversations" / FILE
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    terminal = home.start()
    assert b"this conversation is not saved:" in re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", terminal.raw)
    tell(terminal, "Name three rivers.")
    terminal.until(lambda screen: "not saved" in screen.splitlines()[0])
    press(terminal, CTRL_R)
    terminal.until(lambda screen: "branch 2/2" in screen)
    press(terminal, CTRL_Q)
    assert terminal.end() == 0
    assert b"Traceback" not in terminal.raw
    assert path.read_bytes() == before
