"""`history`: what was said, found again, written out and deleted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from edgespec.chat.events import Answer
from edgespec.conversations import FILE
from edgespec.conversations.conversation import Conversation, Entry
from edgespec.conversations.export import file_name, to_json, to_markdown
from edgespec.conversations.figures import to_figures
from edgespec.conversations.store import ConversationStore
from edgespec.decoding.stats import Stats

Run = Callable[..., "subprocess.CompletedProcess[str]"]
FIGURES = to_figures(Answer("", (1, 2), "stop", 9, 8, 4.0, 420.0, 100.0, True, Stats()))


def conversation(question: str, answer: str, start: int = 1, **more: str) -> Conversation:
    """A question with two answers; the second is the one that is read."""
    made = Conversation(id=f"{start:04x}cafe" * 2, title=question, created=0.0, leaf=start + 2)
    of_answer = {"ids": (1, 2), "model": "parrot", "draft": "ngram", "finish": "stop", "figures": FIGURES, **more}
    made.add(Entry(start, None, "user", question, 0.0))
    made.add(Entry(start + 1, start, "assistant", f"not {answer}", 1.0, **of_answer))  # pyright: ignore
    made.add(Entry(start + 2, start, "assistant", answer, 2.0, **of_answer))  # pyright: ignore
    return made


@pytest.fixture
def directory(home: Path) -> Path:
    return home / "data" / "conversations"


@pytest.fixture
def two(directory: Path) -> tuple[Conversation, Conversation]:
    """The second is the latest."""
    made = conversation("Why is the sky blue?", "Scattering."), conversation("And \x1b[2Jsunsets?", "Red.", 17)
    store = ConversationStore(directory)
    for one in made:
        store.keep(one, one.entries.values())
        time.sleep(0.01)
    store.close()
    return made


def test_nothing_was_said_yet(run: Run, home: Path) -> None:
    result = run("history", "list")
    assert (result.returncode, result.stdout) == (0, "")
    assert f"nothing has been kept yet in {home / 'data' / 'conversations'}" in result.stderr
    assert json.loads(run("history", "list", "--json").stdout) == []
    assert run("history", "search", "sky").returncode == 1
    for command in (["show"], ["show", "abc"], ["export", "--all"], ["rm", "--all"]):
        result = run("history", *command)
        assert (result.returncode, result.stdout) == (2, "")
        assert "There is no conversation yet." in result.stderr
    assert not (home / "data").exists()


def test_the_list(run: Run, two: tuple[Conversation, Conversation]) -> None:
    heading, *lines = run("history", "list").stdout.splitlines()
    assert heading.split() == ["ID", "LAST", "MESSAGES", "TITLE"]
    assert [line.split()[0] for line in lines] == ["0011cafe", "0001cafe"]
    assert lines[0].endswith("3         And �[2Jsunsets?")
    found = json.loads(run("history", "list", "--json", "--limit", "1").stdout)
    assert [(f["title"], f["messages"], f["model"], f["created"]) for f in found] == [
        ("And \x1b[2Jsunsets?", 3, "parrot", "1970-01-01T00:00:00+00:00")
    ]


def test_search(run: Run, two: tuple[Conversation, Conversation]) -> None:
    result = run("history", "search", "BLUE", "sky")
    assert result.returncode == 0
    (line,) = result.stdout.splitlines()[1:]
    assert line.startswith("0001cafe ")
    assert json.loads(run("history", "search", "scatter", "--json").stdout)[0]["excerpt"] == "Scattering."
    result = run("history", "search", "moon")
    assert (result.returncode, result.stdout) == (1, "")


def test_show_prints_the_branch_that_was_read(run: Run, two: tuple[Conversation, Conversation]) -> None:
    text = run("history", "show", "0001").stdout
    assert text == to_markdown(two[0])
    assert "## You\n\nWhy is the sky blue?\n\n## parrot\n\nScattering.\n\n*2 tok · 20.0 tok/s · first 0.42 s*" in text
    assert "not Scattering" not in text
    assert run("history", "show").stdout == to_markdown(two[1])
    assert "\x1b" not in run("history", "show").stdout
    assert json.loads(run("history", "show", "0001", "--json").stdout) == to_json(two[0])


def test_export(run: Run, two: tuple[Conversation, Conversation], tmp_path: Path) -> None:
    assert run("history", "export", "0001").stdout == to_markdown(two[0])
    assert run("history", "export", "--all").stdout == f"{to_markdown(two[1])}\n{to_markdown(two[0])}"
    found = json.loads(run("history", "export", "0001", "0011", "--format", "json").stdout)
    assert found == [to_json(one) for one in two]
    messages = found[0]["messages"]
    assert [(m["text"], m["parent"], m["current"]) for m in messages] == [
        ("Why is the sky blue?", None, True),
        ("not Scattering.", "1", False),
        ("Scattering.", "1", True),
    ]
    assert messages[2]["tokens"] == [1, 2]
    assert messages[2]["figures"]["ttft_ms"] == 420.0
    out = tmp_path / "out.md"
    assert run("history", "export", "0001", "-o", str(out)).returncode == 0
    assert out.read_text() == to_markdown(two[0])
    assert out.stat().st_mode & 0o777 == 0o600
    result = run("history", "export", "0001", "-o", str(out))
    assert (result.returncode, result.stdout) == (2, "")
    assert "is there already" in result.stderr
    assert "cannot be written" in run("history", "export", "0001", "-o", str(tmp_path / "no" / "x")).stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["show", "00"], "2 conversations begin with 00"),
        (["show", "beef"], "there is no conversation beef"),
        (["export"], "give their ids, or --all"),
        (["rm"], "give their ids, or --all"),
        (["rm", "0001", "--all"], "give their ids, or --all"),
        (["rm", "0001", "beef"], "there is no conversation beef"),
    ],
)
def test_one_sentence_for_what_is_wrong(
    run: Run, two: tuple[Conversation, Conversation], args: list[str], says: str
) -> None:
    result = run("history", *args)
    assert (result.returncode, result.stdout) == (2, "")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert len(json.loads(run("history", "list", "--json").stdout)) == 2


def test_rm(run: Run, two: tuple[Conversation, Conversation], home: Path) -> None:
    result = run("history", "rm", "0001")
    assert (result.returncode, result.stderr) == (0, "edgespec: deleted Why is the sky blue?\n")
    assert [f["title"] for f in json.loads(run("history", "list", "--json").stdout)] == ["And \x1b[2Jsunsets?"]
    drafts = home / "data" / "history"
    drafts.mkdir()
    (drafts / "x.tokens").touch()
    assert f"delete {drafts} to forget those" in run("history", "rm", "--all").stderr
    assert run("history", "list").stdout == ""


@pytest.mark.parametrize(("reply", "code", "left"), [("y", 0, 1), ("n", 0, 2), ("\x03", 130, 2)])
def test_rm_asks_a_person(two: tuple[Conversation, Conversation], run: Run, reply: str, code: int, left: int) -> None:
    command = ["-m", "edgespec", "history", "rm", "0001"]
    child = pexpect.spawn(sys.executable, command, env={**os.environ, "TERM": "xterm"}, encoding="utf-8", timeout=60)
    child.expect_exact("Delete Why is the sky blue?")
    for _ in range(30):  # Python hears no Ctrl-C that comes right before it begins to read
        child.send(reply if reply == "\x03" else f"{reply}\r")
        if child.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=2) == 0:
            break
    child.close()
    assert child.exitstatus == code
    assert len(json.loads(run("history", "list", "--json").stdout)) == left


def test_a_file_that_cannot_be_read(run: Run, directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / FILE).mkdir()
    result = run("history", "list")
    assert (result.returncode, result.stdout) == (1, "")
    assert "The conversations cannot be had: " in result.stderr


def test_a_damaged_file_is_put_aside_and_said(run: Run, directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / FILE).write_bytes(b"no database" * 1000)
    result = run("history", "list")
    assert result.returncode == 0
    (aside,) = directory.glob("damaged-*")
    assert str(aside) in result.stderr


def test_names_of_files() -> None:
    assert file_name(Conversation(title="Why is the SKY blue? /etc/../x")) == "why-is-the-sky-blue-etc-x.md"
    assert file_name(Conversation(title="?!")) == "conversation.md"
    assert file_name(Conversation(title="天気")) == "天気.md"
    assert len(file_name(Conversation(title="long " * 30))) <= 53


def test_markdown_says_how_an_answer_ended_and_under_which_instruction() -> None:
    stopped = conversation("q", "a", finish="cancelled", system="Be brief.")
    assert "*System message:* Be brief.\n\n## parrot\n\na\n\n*(stopped) · 2 tok" in to_markdown(stopped)
    assert "*(broken off)*" in to_markdown(conversation("q", "a", finish="failed"))


# Line mode.


def talk(*args: str) -> None:
    """`run tiny` at a terminal whose user asks two things."""
    environment = {**os.environ, "TERM": "dumb"}
    environment.pop("EDGESPEC_HISTORY", None)
    command = ["-m", "edgespec", "run", "tiny", "-n", "8", *args]
    child = pexpect.spawn(sys.executable, command, env=environment, encoding="utf-8", timeout=60)
    for line in ("hello there", "the cat"):
        child.expect_exact("❯ ")
        child.sendline(line)
        child.expect(r"\d+ tok ")
    child.expect_exact("❯ ")
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_a_chat_line_by_line_is_kept(home: Path, run: Run) -> None:
    talk()
    (kept,) = json.loads(run("history", "export", "--all", "--format", "json").stdout)
    assert kept["title"] == "hello there"
    assert [m["text"] for m in kept["messages"]][::2] == ["hello there", "the cat"]
    assert {m.get("finish_reason") for m in kept["messages"]} == {None, "length"}


def test_a_chat_line_by_line_is_not_kept_when_told_so(home: Path) -> None:
    talk("--no-history")
    assert not (home / "data").exists()


def test_one_answer_is_no_conversation(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGESPEC_HISTORY", raising=False)
    assert run("run", "tiny", "hello there", "-n", "4").returncode == 0
    assert not (home / "data" / "conversations").exists()
    assert "no conversations are kept" in run("doctor").stdout


def test_doctor_says_where(run: Run, two: tuple[Conversation, Conversation], directory: Path) -> None:
    found = json.loads(run("doctor", "--json").stdout)["conversations"]
    assert found["directory"] == str(directory)
    assert found["bytes"] > 0
    assert f"of conversations, for `edgespec history`, in {directory}" in run("doctor").stdout
