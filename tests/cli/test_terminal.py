"""What changes when a person is at the terminal: a bar, a question; colour only if wanted."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pexpect
import pytest

from edgespec.cli import output


@pytest.fixture
def pull(home: Path) -> list[str]:
    return ["-m", "edgespec", "pull", str(home / "tiny.gguf"), "--name", "d", "--keep-layers", "0"]


def spawn(args: list[str], **env: str) -> pexpect.spawn[str]:
    return pexpect.spawn(sys.executable, args, env={**os.environ, "TERM": "xterm", **env}, encoding="utf-8", timeout=60)


def finish(child: pexpect.spawn[str]) -> str:
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    return child.before or ""


def test_a_bar_that_leaves_the_terminal_as_it_was(pull: list[str]) -> None:
    text = finish(spawn(pull))
    assert "Converting the model" in text
    assert "━" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert text.endswith("d\r\n")


def test_no_colour_when_not_wanted(pull: list[str]) -> None:
    assert "\x1b[3" not in finish(spawn(pull, NO_COLOR="1"))


def test_plain_lines_on_a_dumb_terminal(pull: list[str]) -> None:
    text = finish(spawn(pull, TERM="dumb"))
    assert "edgespec: Converting the model\r\n" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(("answer", "code", "kept"), [("y", 0, False), ("n", 0, True), ("\x03", 130, True)])
def test_rm_asks(home: Path, answer: str, code: int, kept: bool) -> None:
    child = spawn(["-m", "edgespec", "rm", "tiny"])
    child.expect_exact("Delete tiny?")
    time.sleep(0.1)
    child.send(answer if answer == "\x03" else f"{answer}\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == code
    assert (home / "models" / "tiny").exists() is kept


def test_rm_does_not_ask_when_told(home: Path) -> None:
    finish(spawn(["-m", "edgespec", "rm", "tiny", "--yes"]))
    assert not (home / "models" / "tiny").exists()


def test_lines_say_a_stage_once(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress() as show:
        for step in range(101):
            show("One", step / 100)
        show("Two\x1b[31m", 0.0)
    assert capsys.readouterr().err == "edgespec: One\nedgespec: Two�[31m\n"
