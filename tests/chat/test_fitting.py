"""A conversation that is too long, and what is done about it."""

from __future__ import annotations

import itertools

import pytest
from test_chat_session import LONG, Make, Scene, letters, scene  # fixtures too

from edgespec.chat.events import Answer
from edgespec.chat.fitting import REQUEST, drop_oldest, summarize_oldest
from edgespec.errors import ContextFullError, UsageError

__all__ = ["letters", "scene"]

TURNS = ("hello", "a question of some length. " * 4, "another of some length. " * 4)


def full(scene: Make) -> Scene:
    """A conversation that has no room for LONG."""
    was = scene(context=1024)
    turns = itertools.cycle(TURNS)
    while not was.chat.excess(LONG):
        was.ask(next(turns))
    with pytest.raises(ContextFullError):
        was.ask(LONG)
    return was


def test_the_oldest_turns_go_and_no_more_than_needed(scene: Make) -> None:
    was = full(scene)
    said = list(was.chat.messages)
    gone = drop_oldest(was.chat, LONG)
    assert [*gone, *was.chat.messages] == said
    assert gone[0].role == "user"
    assert gone[-1].role == "assistant"
    assert was.chat.excess(LONG, room=256) == 0
    was.chat.messages = [*gone[-2:], *was.chat.messages]
    assert was.chat.excess(LONG, room=256) > 0
    was.chat.messages = was.chat.messages[2:]
    assert was.ask(LONG).tokens


def test_what_fits_loses_nothing(scene: Make) -> None:
    was = scene()
    was.ask("hello")
    said = list(was.chat.messages)
    assert drop_oldest(was.chat, "hi") == []
    assert was.chat.messages == said


def test_a_message_that_is_too_long_alone_drops_nothing(scene: Make) -> None:
    was = full(scene)
    said = list(was.chat.messages)
    for act in (drop_oldest, lambda *args: list(summarize_oldest(*args))):
        with pytest.raises(UsageError, match="alone is too long"):
            act(was.chat, LONG * 4)
        assert was.chat.messages == said


def test_a_summary_takes_the_place_of_the_oldest_turns(scene: Make) -> None:
    was = full(scene)
    said, settings = list(was.chat.messages), was.chat.settings
    *_, answer = summarize_oldest(was.chat, LONG)
    assert isinstance(answer, Answer)
    asked, summary, *kept = was.chat.messages
    assert (asked.content, summary.content) == (REQUEST, answer.text)
    assert said[len(said) - len(kept) :] == kept
    assert was.chat.settings == settings
    assert was.chat.excess(LONG) == 0
    assert was.ask(LONG).tokens


def test_a_summary_that_is_stopped_or_fails_changes_nothing(scene: Make) -> None:
    was = full(scene)
    said, settings = list(was.chat.messages), was.chat.settings
    events = summarize_oldest(was.chat, LONG)
    next(events)
    was.chat.stop()
    list(events)
    assert was.chat.messages == said
    events = summarize_oldest(was.chat, LONG)
    next(events)
    events.close()
    assert was.chat.messages == said
    assert was.chat.settings == settings
