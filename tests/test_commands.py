"""What is a command, what is a message, and how what is typed could go on."""

from __future__ import annotations

import pytest

from edgespec.commands import COMMANDS, SETTABLE, Call, complete, parse
from edgespec.config import OPTIONS
from edgespec.errors import UsageError


@pytest.mark.parametrize("text", ["hello", " /model is a word", "a/b", ""])
def test_what_begins_without_a_slash_is_a_message(text: str) -> None:
    assert parse(text) == text


def test_two_slashes_send_one() -> None:
    assert parse("//model is what I type") == "/model is what I type"


@pytest.mark.parametrize(
    ("text", "name", "argument"),
    [
        ("/model", "model", ""),
        ("/MODEL  x y ", "model", "x y"),
        ("/set top-k 4", "set", "top-k 4"),
        ("/bye\n", "bye", ""),
    ],
)
def test_a_command_and_its_argument(text: str, name: str, argument: str) -> None:
    assert parse(text) == Call(COMMANDS[name], argument)


@pytest.mark.parametrize(
    ("text", "says"), [("/modle x", "/modle; did you mean /model?"), ("/usr/bin/env", "/help lists them"), ("/", "/;")]
)
def test_an_unknown_command_names_the_closest_and_the_way_around(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert says in str(caught.value)
    assert "sent with two" in str(caught.value)


def test_completion() -> None:
    arguments = {"draft": ("none", "ngram"), "set": ("top-k ", "top-p ")}
    assert complete("/st", arguments) == ("/stats",)
    assert complete("/s", arguments) == ("/system", "/set", "/stats", "/save")
    assert complete("/stats", arguments) == ()
    assert complete("/draft n", arguments) == ("/draft none", "/draft ngram")
    assert complete("/draft none", arguments) == ()
    assert complete("/set top", arguments) == ("/set top-k ", "/set top-p ")
    for text in ("hello", "//st", "/st\nmore", "/model q"):
        assert complete(text, arguments) == ()


def test_what_can_be_set_are_options() -> None:
    assert {*SETTABLE} <= {*OPTIONS}
