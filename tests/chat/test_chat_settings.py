"""Settings that change in the middle of a conversation, and messages that would be too long."""

from __future__ import annotations

import dataclasses

import pytest
from test_chat_session import LONG, SAMPLED, SETTINGS, Make, letters, same_as_fresh, scene  # fixtures too

from edgespec.chat.conversation import Message
from edgespec.errors import ContextFullError

__all__ = ["letters", "scene"]

PIRATE = dataclasses.replace(SETTINGS, system="talk like a pirate.")


def test_a_system_message_takes_the_place_of_the_one_before(scene: Make) -> None:
    was = scene()
    was.ask("hello")
    said = list(was.chat.messages)
    was.chat.adjust(PIRATE)
    assert was.chat.messages == [Message("system", "talk like a pirate."), *said]
    same_as_fresh(scene, was, "and now", PIRATE)
    was.chat.adjust(SETTINGS)
    assert [m.role for m in was.chat.messages] == ["user", "assistant"] * 2
    same_as_fresh(scene, was, "and again")


def test_sampling_changes_between_two_turns_and_the_cache_stays(scene: Make) -> None:
    was = scene()
    was.ask("hello")
    was.chat.adjust(SAMPLED)
    assert was.chat.exact
    same_as_fresh(scene, was, "and now", SAMPLED)


def test_what_is_too_long_is_known_before_it_is_sent(scene: Make) -> None:
    was = scene(context=200)
    assert was.chat.excess("hi") == 0
    over = was.chat.excess(LONG)
    assert over > 0
    with pytest.raises(ContextFullError, match=f", {over} more than"):
        was.ask(LONG)
    assert was.chat.excess("hi", room=200) > 0
    assert was.chat.messages == []
