"""Making room in a conversation that is too long: what is taken from the model's view stays where it was kept."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from edgespec.chat.conversation import Message
from edgespec.chat.events import Answer, Event
from edgespec.chat.session import Settings
from edgespec.errors import UsageError

ROOM = 256
"""Tokens that an answer should have at least, in a context where that is no more than a quarter."""
SUMMARY = 200
"""Tokens that a summary may have."""
REQUEST = "Summarize our conversation so far in a few sentences: who I am, what I asked, and what the answers were."


class Speaker(Protocol):
    """A conversation with a model, as `edgespec.chat.session.Chat` is one."""

    messages: list[Message]

    @property
    def settings(self) -> Settings: ...

    @property
    def context_length(self) -> int: ...

    def excess(self, text: str, room: int = 1) -> int: ...

    def adjust(self, settings: Settings) -> None: ...

    def send(self, text: str) -> Iterator[Event]: ...


def drop_oldest(speaker: Speaker, text: str, more: int = 0) -> list[Message]:
    """Have the speaker forget its oldest turns until `text`, an answer and `more` tokens fit; returns their messages.

    Raises: UsageError if nothing that was said would be enough; then nothing is forgotten.
    """
    before = speaker.messages
    system, said = _split(before)
    room = min(ROOM, speaker.context_length // 4)
    gone = 0
    while speaker.excess(text, room + more) > 0:
        if gone == len(said):
            speaker.messages = before
            raise UsageError("The message alone is too long for the context; shorten it, or raise --ctx-size.")
        gone += 1 if said[gone].role == "assistant" else 2
        speaker.messages = [*system, *said[gone:]]
    return said[:gone]


def summarize_oldest(speaker: Speaker, text: str) -> Generator[Event]:
    """Have the model summarize its oldest turns, as many as it can read at once, and go on with the summary in their
    place; `text` then fits.

    Yields the events of the summary, an Answer last. However it ends early, nothing is forgotten.
    Raises: UsageError if `text` alone is too long, and what `send` raises.
    """
    before, settings = speaker.messages, speaker.settings
    system, _ = _split(before)
    length = min(SUMMARY, speaker.context_length // 8)
    gone = drop_oldest(speaker, text, 2 * length)
    kept = speaker.messages[len(system) :]
    done = False
    try:
        speaker.adjust(replace(settings, max_tokens=length))
        speaker.messages = [*system, *gone]
        drop_oldest(speaker, REQUEST)
        for event in speaker.send(REQUEST):
            done = isinstance(event, Answer) and event.finish_reason != "cancelled"
            yield event
    finally:
        summary = speaker.messages[-2:]
        speaker.adjust(settings)
        speaker.messages = [*system, *summary, *kept] if done else before


def _split(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    system = [message for message in messages if message.role == "system"]
    return system, [message for message in messages if message.role != "system"]
