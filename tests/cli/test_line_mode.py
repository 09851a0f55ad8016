"""Commands in the chat line by line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from homes import fill_home
from test_run import Stdin

from edgespec.cli import main

Capture = pytest.CaptureFixture[str]
Chat = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def talk(filled: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path) -> Chat:
    """What lines of a chat with `tiny` bring, on stdout and on stderr."""
    monkeypatch.setenv("EDGESPEC_HOME", str(filled))
    monkeypatch.chdir(tmp_path)

    def talk(*lines: str, flags: tuple[str, ...] = ()) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", Stdin("".join(f"{line}\n" for line in lines).encode(), terminal=True))
        assert main.run(["run", "tiny", "-n", "12", *flags]) == 0
        said = capsys.readouterr()
        return said.out, said.err

    return talk


def test_a_command_is_no_message(talk: Chat) -> None:
    out, err = talk("/help", "/context", "/set", "/modle", "/stats")
    assert out == ""
    assert "/model [NAME] " in err
    assert "0 of 256 tokens of the context are used" in err
    assert "sampling.temperature 0.0" in err
    assert "did you mean /model?" in err
    assert "Nothing has been answered yet." in err


def test_bye_leaves_what_follows_unread(talk: Chat) -> None:
    assert talk("/bye", "hello")[0] == ""


def test_settings_hold_from_the_next_answer_on(talk: Chat) -> None:
    (usual, _), (changed, err) = talk("hello"), talk("/set max-tokens 3", "hello")
    assert usual.startswith(changed[:-1])
    assert len(changed) < len(usual)
    assert "from the next answer on: max-tokens 3" in err
    assert talk("/system be brief", "hello")[0] == talk("hello", flags=("-s", "be brief"))[0]
    for line in ("/set", "/set temperature", "/set temperature hot", "/set device cuda", "/set nonsense 1"):
        out, err = talk(line)
        assert out == ""
        assert "Traceback" not in err


def test_regen_edit_and_clear(talk: Chat) -> None:
    once, _ = talk("hello there")
    assert talk("hello there", "/regen")[0] == once * 2
    assert talk("something else", "/edit hello there")[0].endswith(once)
    assert talk("something else", "/clear", "hello there")[0].endswith(once)
    for line in ("/regen", "/edit", "/edit more", "/save"):
        out, err = talk(line)
        assert out == ""
        assert re.search("Nothing has been (asked|said) yet", err)


def test_another_draft_and_another_model(talk: Chat) -> None:
    once, _ = talk("hello there")
    out, err = talk("/draft skip", "hello there", "/draft none", "/regen", "/model skip", "/model nothing", "and then")
    assert out.startswith(once * 2)
    assert "now tiny, draft skip, on cpu" in err
    assert "now tiny, draft none, on cpu" in err
    assert "now skip, draft ngram, on cpu" in err
    assert "there is no model nothing" in err
    assert out.count("\n") == 3  # the chat went on


def test_choices_say_what_does_not_fit(talk: Chat) -> None:
    _, err = talk("/draft", "/model")
    assert "other, its tokenizer is not that of tiny" in err
    assert "ngram, in use" in err
    assert "smollm2-135m, not fetched" in err


def test_a_conversation_is_saved_to_a_new_file(talk: Chat, tmp_path: Path) -> None:
    _, err = talk("hello there", "/save talk.md", "/save talk.md", "/save talk.json")
    assert "## You\n\nhello there" in (tmp_path / "talk.md").read_text()
    assert (tmp_path / "talk.json").read_text().startswith("{")
    assert "talk.md is there already" in err


@pytest.mark.parametrize("what", ["drop", "summarize"])
def test_a_full_context_is_said_and_the_message_can_still_be_sent(talk: Chat, what: str) -> None:
    long = "word " * 12
    lines = [*([long] * 5), f"/context {what}"]
    out, err = talk(*lines, flags=("-c", "256"))
    assert "more than the context of 256" in err
    assert ("does not see the" if what == "drop" else "summarizes the oldest turns for itself") in err
    without, _ = talk(*lines[:-1], flags=("-c", "256"))
    assert out.startswith(without)
    assert len(out) > len(without)
    assert "Nothing waits" in talk(f"/context {what}")[1]


def test_plain_says_words_in_whole_lines(talk: Chat) -> None:
    usual, _ = talk("hello there")
    out, err = talk("hello there", flags=("--plain",))
    assert out == usual
    assert "❯" not in err
    assert "You: " in err
    assert "tiny answers:" in err
    assert re.search(r"12 tokens, [\d.]+ per second, the first after [\d.]+ seconds", err)
    assert "·" not in err


def test_editing_and_completion_at_a_terminal(filled: Path) -> None:
    environment = {**os.environ, "TERM": "xterm", "EDGESPEC_HOME": str(filled)}
    args = ["-m", "edgespec", "run", "tiny", "-n", "8"]
    child = pexpect.spawn(sys.executable, args, env=environment, encoding="utf-8", codec_errors="replace", timeout=60)
    child.expect_exact("❯ ")
    child.send("/con\t\r")
    child.expect_exact("tokens of the context are used")
    child.expect_exact("❯ ")
    child.sendline("hello there")
    child.expect("8 tok · ")
    child.expect_exact("❯ ")
    child.sendline("/edit")
    child.expect_exact("❯ hello there")
    child.send(" again\r")
    child.expect("8 tok · ")
    child.expect_exact("❯ ")
    child.send("\x1b[A")
    child.expect_exact("hello there again")
    child.send("\x15\x04")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_earlier_conversations_are_found_and_gone_on_with(
    talk: Chat, monkeypatch: pytest.MonkeyPatch, filled: Path
) -> None:
    monkeypatch.delenv("EDGESPEC_HISTORY")
    kept = ("--history",)
    _, err = talk("/history", "/history nothing", flags=kept)
    assert "No conversation is kept." in err
    assert "Nothing was found." in err
    talk("the cat", "/clear", "the dog", flags=kept)
    _, err = talk("/history", "/history the", "/history CAT", "and then", "/save out.md", flags=kept)
    assert err.count("2 messages: the cat") == 2  # both have the word
    assert "now “the cat”, 2 messages" in err
    text = Path("out.md").read_text()
    assert [text.index(part) for part in ("the cat", "and then")] == sorted(map(text.index, ("the cat", "and then")))
    assert "the dog" not in text
    assert "No conversation is kept." in talk("/history", flags=("--no-history",))[1]


def test_plain_moves_no_cursor_and_has_no_colour(filled: Path) -> None:
    environment = {**os.environ, "TERM": "xterm-256color", "EDGESPEC_HOME": str(filled)}
    args = ["-m", "edgespec", "run", "tiny", "-n", "8", "--plain"]
    child = pexpect.spawn(sys.executable, args, env=environment, encoding="utf-8", codec_errors="replace", timeout=60)
    said = ""
    for line in ("hello there", "/help", "/bye"):
        child.expect_exact("You: ")
        said += child.before or ""
        child.sendline(line)
    child.expect(pexpect.EOF)
    said += child.before or ""
    child.close()
    assert child.exitstatus == 0
    assert "8 tokens" in said
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", said)
